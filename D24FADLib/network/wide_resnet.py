"""The paper's teacher: Wide-ResNet-50-2 (Zagoruyko & Komodakis 2016) with torchvision's parameter names."""

from __future__ import annotations

from torch import Tensor, nn


class Bottleneck(nn.Module):
    """1x1, 3x3, 1x1 convolutions with a residual; the stride sits on the 3x3 one (ResNet v1.5)."""

    expansion = 4

    def __init__(self, channels: int, planes: int, stride: int, width_factor: int) -> None:
        super().__init__()
        width = planes * width_factor
        out = planes * self.expansion
        self.conv1 = nn.Conv2d(channels, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, out, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(out)
        self.relu = nn.ReLU(inplace=True)
        self.downsample: nn.Module | None = None
        if stride != 1 or channels != out:
            self.downsample = nn.Sequential(
                nn.Conv2d(channels, out, 1, stride, bias=False), nn.BatchNorm2d(out)
            )

    def forward(self, x: Tensor) -> Tensor:
        identity = x if self.downsample is None else self.downsample(x)
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.relu(self.bn2(self.conv2(y)))
        return self.relu(self.bn3(self.conv3(y)) + identity)


class WideResNet50(nn.Module):
    """Features at strides 4, 8, 16 and the stride-32 embedding that the student decodes.

    Input (N, 3, H, W) in [0, 1] without mean or standard deviation normalisation, as the official
    code feeds it; H and W multiples of 32.
    """

    architecture = "wide_resnet50_2"
    stride = 32
    channels = (256, 512, 1024)
    embedding_channels = 2048
    signed_features = False
    blocks = (3, 4, 6, 3)

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 7, 2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, 2, padding=1)
        channels = 64
        for index, blocks in enumerate(self.blocks):
            planes = 64 * 2**index
            layers = []
            for block in range(blocks):
                stride = 2 if index > 0 and block == 0 else 1
                layers.append(Bottleneck(channels, planes, stride, width_factor=2))
                channels = planes * Bottleneck.expansion
            self.add_module(f"layer{index + 1}", nn.Sequential(*layers))

    def forward(self, x: Tensor) -> tuple[list[Tensor], Tensor]:
        """Features (N, 256 | 512 | 1024, H/s, W/s) at strides s = 4, 8, 16; embedding at stride 32."""
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        features = []
        for index in range(3):
            x = self.get_submodule(f"layer{index + 1}")(x)
            features.append(x)
        embedding: Tensor = self.get_submodule("layer4")(x)
        return features, embedding

    def all_blocks(self, x: Tensor) -> list[Tensor]:
        """What every block gives, from stride 4 to stride 32."""
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        found = []
        for index in range(len(self.blocks)):
            for block in self.get_submodule(f"layer{index + 1}").children():
                x = block(x)
                found.append(x)
        return found

    def load_torchvision(self, state: dict[str, Tensor]) -> None:
        """Load torchvision's `wide_resnet50_2` state_dict strictly; its classifier `fc` has no place here."""
        self.load_state_dict({k: v for k, v in state.items() if not k.startswith("fc.")}, strict=True)
