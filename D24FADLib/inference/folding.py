"""Networks made ready for a precision below f32: the same function in fewer passes over memory."""

from __future__ import annotations

import copy
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval


def folded(network: nn.Module) -> nn.Module:
    """A copy in evaluation mode, each normalisation folded into the convolution that it follows.

    In every module a BatchNorm2d must stand right behind the convolution whose output it normalises, as
    those of `network` do; TypeError where it does not.
    """
    made = copy.deepcopy(network).eval().requires_grad_(False)
    for parent in list(made.modules()):
        before: tuple[str, nn.Module] = ("", parent)
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.BatchNorm2d):
                convolution = before[1]
                if not isinstance(convolution, (nn.Conv2d, nn.ConvTranspose2d)):
                    raise TypeError(f"{type(parent).__name__}.{name} does not follow a convolution")
                transposed = isinstance(convolution, nn.ConvTranspose2d)
                setattr(parent, before[0], fuse_conv_bn_eval(convolution, child, transposed))
                setattr(parent, name, nn.Identity())
            before = (name, child)
    return made


class _Pointwise(nn.Module):
    """A 1 x 1 convolution as a product of matrices, in which the bias is added on the way out: a convolution
    on a CUDA card adds it in a pass of its own over what it has written."""

    def __init__(self, convolution: nn.Conv2d) -> None:
        super().__init__()
        self.weight = nn.Parameter(convolution.weight.flatten(1), requires_grad=False)
        self.bias = convolution.bias

    def forward(self, x: Tensor) -> Tensor:
        count, channels, height, width = x.shape
        positions = x.permute(0, 2, 3, 1).reshape(-1, channels)
        y = F.linear(positions, self.weight, self.bias)
        return y.view(count, height, width, -1).permute(0, 3, 1, 2)


def reduced(network: nn.Module, dtype: torch.dtype) -> nn.Module:
    """A folded copy with weights of `dtype`, channels last. It takes images (N, 1 or 3, H, W) in float32;
    what it does before its first convolution stays in float32, and one channel becomes three there."""
    made = folded(network)
    for parent in list(made.modules()):
        for name, child in list(parent.named_children()):
            if (
                isinstance(child, nn.Conv2d)
                and child.groups == 1
                and child.kernel_size == child.stride == (1, 1)
            ):
                setattr(parent, name, _Pointwise(child))
    made.to(dtype).to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def ready(_: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        images = inputs[0].expand(-1, 3, -1, -1)
        return (images.to(dtype, memory_format=torch.channels_last),)

    first = next(module for module in made.modules() if isinstance(module, nn.Conv2d))
    first.register_forward_pre_hook(ready)
    return made
