"""Random changes of training images, by MONAI's transforms."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

_TURN = math.radians(8)


def augment(images: Tensor, rng: np.random.Generator) -> Tensor:
    """(n, 3, H, W) in [0, 1] -> the same shape and range; the result depends on `rng` alone.

    All images of an episode are mirrored together or not at all: a query and its supports must go on
    showing the same anatomy. Small rotations, brightness, gamma and noise are drawn for each image.
    """
    from monai.transforms import (
        Compose,
        RandAdjustContrast,
        RandGaussianNoise,
        RandRotate,
        RandScaleIntensity,
        RandShiftIntensity,
    )

    change = Compose(
        [
            RandRotate(range_x=_TURN, prob=0.5, padding_mode="border"),
            RandAdjustContrast(prob=0.5, gamma=(0.7, 1.4)),
            RandScaleIntensity(factors=0.15, prob=0.5),
            RandShiftIntensity(offsets=0.05, prob=0.5),
            RandGaussianNoise(prob=0.3, std=0.03),
        ]
    )
    change.set_random_state(seed=int(rng.integers(2**31)))
    if rng.random() < 0.5:
        images = images.flip(-1)
    changed = [torch.as_tensor(change(image.clone())).clamp(0, 1) for image in images]
    return torch.stack(changed).float().contiguous()
