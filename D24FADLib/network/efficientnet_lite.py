"""The small teacher: EfficientNet-Lite0 (Tan & Le 2019, Lite variant of 2020), weights from TensorFlow."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

# expand ratio, kernel, stride of the first block, channels out, blocks
_STAGES = (
    (1, 3, 1, 16, 1),
    (6, 3, 2, 24, 2),
    (6, 5, 2, 40, 2),
    (6, 3, 2, 80, 3),
    (6, 5, 1, 112, 3),
    (6, 5, 2, 192, 4),
    (6, 3, 1, 320, 1),
)
_BN_EPS = 1e-3  # TensorFlow's value


class _SameConv2d(nn.Conv2d):
    """Convolution with TensorFlow's SAME padding: at stride 2 the odd pixel goes right and below."""

    def forward(self, x: Tensor) -> Tensor:
        kernel, stride = self.kernel_size[0], self.stride[0]
        if stride == 1:
            return F.conv2d(x, self.weight, self.bias, 1, kernel // 2, 1, self.groups)
        pads: list[int] = []
        for length in (x.shape[3], x.shape[2]):
            total = max((-(length // -stride) - 1) * stride + kernel - length, 0)
            pads += [total // 2, total - total // 2]
        return F.conv2d(F.pad(x, pads), self.weight, self.bias, stride, 0, 1, self.groups)


class InvertedResidual(nn.Module):
    """Expand 1x1, depthwise, project 1x1 (linear), with a residual where the shape stays."""

    def __init__(self, channels: int, out: int, expand: int, kernel: int, stride: int) -> None:
        super().__init__()
        hidden = channels * expand
        if expand != 1:
            self._expand_conv = _SameConv2d(channels, hidden, 1, bias=False)
            self._bn0 = nn.BatchNorm2d(hidden, eps=_BN_EPS)
        self._depthwise_conv = _SameConv2d(hidden, hidden, kernel, stride, groups=hidden, bias=False)
        self._bn1 = nn.BatchNorm2d(hidden, eps=_BN_EPS)
        self._project_conv = _SameConv2d(hidden, out, 1, bias=False)
        self._bn2 = nn.BatchNorm2d(out, eps=_BN_EPS)
        self._expands = expand != 1
        self._residual = stride == 1 and channels == out

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu6(self._bn0(self._expand_conv(x))) if self._expands else x
        y = F.relu6(self._bn1(self._depthwise_conv(y)))
        y = self._bn2(self._project_conv(y))
        return y + x if self._residual else y


class EfficientNetLite0(nn.Module):
    """Features at strides 4, 8, 16 (last block of each) and the stride-32 embedding.

    Input (N, 3, H, W) in [0, 1], H and W multiples of 32; the network's own scaling
    (255 x - 127) / 128 is applied inside.
    """

    architecture = "efficientnet_lite0"
    stride = 32
    channels = (24, 40, 112)
    embedding_channels = 320
    signed_features = True  # blocks end in a linear projection
    _last_blocks = (2, 4, 10)

    def __init__(self) -> None:
        super().__init__()
        self._conv_stem = _SameConv2d(3, 32, 3, 2, bias=False)
        self._bn0 = nn.BatchNorm2d(32, eps=_BN_EPS)
        blocks: list[nn.Module] = []
        channels = 32
        for expand, kernel, stride, out, repeats in _STAGES:
            for repeat in range(repeats):
                blocks.append(InvertedResidual(channels, out, expand, kernel, stride if repeat == 0 else 1))
                channels = out
        self._blocks = nn.ModuleList(blocks)

    def forward(self, x: Tensor) -> tuple[list[Tensor], Tensor]:
        """Features (N, 24 | 40 | 112, H/s, W/s) at strides s = 4, 8, 16; embedding (N, 320, H/32, W/32)."""
        every = self.all_blocks(x)
        return [every[index] for index in self._last_blocks], every[-1]

    def all_blocks(self, x: Tensor) -> list[Tensor]:
        """What every block gives, from stride 2 to stride 32."""
        x = F.relu6(self._bn0(self._conv_stem((x * 255.0 - 127.0) / 128.0)))
        found = []
        for block in self._blocks:
            x = block(x)
            found.append(x)
        return found

    def load_imagenet(self, state: dict[str, Tensor]) -> None:
        """Load the published classifier's state_dict strictly, without its head and classifier."""
        head = ("_conv_head.", "_bn1.", "_fc.")
        self.load_state_dict({k: v for k, v in state.items() if not k.startswith(head)}, strict=True)
