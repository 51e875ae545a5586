"""The student: a reversed wide residual network that decodes the teacher's embedding (RD4AD's decoder)."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn


def _up(channels: int, out: int) -> nn.ConvTranspose2d:
    return nn.ConvTranspose2d(channels, out, 2, 2, bias=False)


class ReversedBottleneck(nn.Module):
    """A bottleneck whose middle convolution is a 2x2 stride-2 transposed one where it upsamples."""

    expansion = 4

    def __init__(self, channels: int, planes: int, upsamples: bool, base_width: int, rectified: bool) -> None:
        super().__init__()
        width = planes * base_width // 64
        out = planes * self.expansion
        self.conv1 = nn.Conv2d(channels, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = _up(width, width) if upsamples else nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, out, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(out)
        self.relu = nn.ReLU(inplace=True)
        self.upsample = nn.Sequential(_up(channels, out), nn.BatchNorm2d(out)) if upsamples else None
        self._rectified = rectified

    def forward(self, x: Tensor) -> Tensor:
        identity = x if self.upsample is None else self.upsample(x)
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.relu(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y)) + identity
        return self.relu(y) if self._rectified else y


class Student(nn.Module):
    """Decodes the embedding (N, E, h, w) into features of the teacher's three shapes.

    `channels` are the teacher's at strides 4, 8, 16, each a multiple of 4. With 2048 and
    (256, 512, 1024) this is the official `de_wide_resnet50_2`, parameter names included. For a
    teacher whose features are signed, the last block of each stage is left linear: a rectified
    output could not follow the features' negative half.
    """

    def __init__(
        self,
        embedding_channels: int,
        channels: Sequence[int],
        *,
        signed_features: bool = False,
        base_width: int = 128,
        blocks: Sequence[int] = (3, 4, 6),
    ) -> None:
        super().__init__()
        inputs = embedding_channels
        for index, (out, count) in enumerate(zip(reversed(channels), blocks, strict=True)):
            planes, remainder = divmod(out, ReversedBottleneck.expansion)
            if remainder:
                raise ValueError(f"student channels must be multiples of 4, got {tuple(channels)}")
            layers = []
            for block in range(count):
                rectified = not (signed_features and block == count - 1)
                layers.append(ReversedBottleneck(inputs, planes, block == 0, base_width, rectified))
                inputs = out
            self.add_module(f"layer{index + 1}", nn.Sequential(*layers))
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, embedding: Tensor) -> list[Tensor]:
        """Features in the teacher's order: strides 4, 8, 16."""
        features = []
        x = embedding
        for index in range(3):
            x = self.get_submodule(f"layer{index + 1}")(x)
            features.append(x)
        return features[::-1]
