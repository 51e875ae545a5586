"""Networks made ready for a precision below f32: the same function in fewer passes over memory."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn
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


def reduced(network: nn.Module, dtype: torch.dtype) -> nn.Module:
    """A folded copy with weights of `dtype`, channels last. It takes images (N, 1 or 3, H, W) in float32;
    what it does before its first convolution stays in float32, and one channel becomes three there."""
    made = folded(network).to(dtype)
    made.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def ready(_: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        images = inputs[0].expand(-1, 3, -1, -1)
        return (images.to(dtype, memory_format=torch.channels_last),)

    first = next(module for module in made.modules() if isinstance(module, nn.Conv2d))
    first.register_forward_pre_hook(ready)
    return made
