"""Synthetic anomalies implanted in normal images, to choose settings by without any abnormal image.

They are what is known from self-supervised anomaly detection: patches moved within the image (CutPaste,
Li 2021) or taken from another one (foreign patch interpolation, Tan 2020), and blobs of other texture or
brightness. Edges are soft, so that the edge itself gives nothing away.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Image = NDArray[np.float32]

KINDS = ("cutpaste", "foreign", "blur", "noise", "brightness", "contrast")
# Diameter as a share of the image's shorter side.
_DIAMETERS = (0.06, 0.3)
# A pixel counts as changed where the blob covers at least half of it; fewer changed pixels are no anomaly.
_INSIDE = 0.5
_EDGE = 1.0  # half an edge's width in pixels, at least
_BODY = 0.06  # brighter than this is not air
_TRIES = 8
_LEAST_CHANGE = 0.03


@dataclass(frozen=True, eq=False)
class Implanted:
    """An image (C, H, W) in [0, 1] with an anomaly, where it is (H, W) and of which kind."""

    image: Image
    mask: NDArray[np.bool_]
    kind: str


def implant(image: Image, other: Image, rng: np.random.Generator, kind: str | None = None) -> Implanted:
    """Implant one anomaly in the body; the kind is drawn where not given.

    image, other: (C, H, W) in [0, 1], of one shape; `other` gives the patches of kind "foreign". The image is
    tried at several places until something can be seen (a blur does nothing where all is smooth).
    """
    best, change = None, -1.0
    for _ in range(_TRIES):
        chosen = kind or KINDS[int(rng.integers(len(KINDS)))]
        alpha = _blob(image, rng)
        changed = np.clip(image + alpha * (_CHANGES[chosen](image, other, rng) - image), 0, 1)
        mask = alpha > _INSIDE
        seen = float(np.abs(changed - image).mean(axis=0)[mask].mean())
        if seen > change:
            best, change = Implanted(changed.astype(np.float32), mask, chosen), seen
        if change >= _LEAST_CHANGE:
            break
    assert best is not None
    return best


def _blob(image: Image, rng: np.random.Generator) -> NDArray[np.float32]:
    """(H, W) in [0, 1]: an uneven ellipse with soft edges, its centre in the body."""
    height, width = image.shape[1:]
    inside = np.argwhere(image.mean(axis=0) > _BODY)
    centre = inside[rng.integers(len(inside))] if len(inside) else np.array([height // 2, width // 2])
    low, high = (share * min(height, width) / 2 for share in _DIAMETERS)
    radius = max(float(np.exp(rng.uniform(np.log(low), np.log(high)))), 2.0)
    ratio, angle = float(rng.uniform(0.6, 1.0)), float(rng.uniform(0, np.pi))
    y, x = np.mgrid[:height, :width].astype(np.float32)
    dy, dx = y - centre[0], x - centre[1]
    along = dx * np.cos(angle) + dy * np.sin(angle)
    across = (dy * np.cos(angle) - dx * np.sin(angle)) / ratio
    direction = np.arctan2(across, along)
    waves = sum(
        rng.uniform(0, 0.12) * np.cos(order * direction + rng.uniform(0, 2 * np.pi)) for order in (2, 3, 5)
    )
    distance = np.hypot(along, across) / (radius * (1 + waves))
    softness = max(rng.uniform(0.1, 0.3), _EDGE / radius)
    alpha: NDArray[np.float32] = np.clip((1 + softness - distance) / (2 * softness), 0, 1).astype(np.float32)
    return alpha


def _shifted(source: Image, rng: np.random.Generator) -> Image:
    """The source moved by a quarter to three quarters of its sides, what leaves coming back opposite."""
    height, width = source.shape[1:]
    steps = [int(rng.integers(side // 4, max(side // 4 + 1, 3 * side // 4))) for side in (height, width)]
    return np.roll(source, steps, axis=(1, 2))


def _cutpaste(image: Image, other: Image, rng: np.random.Generator) -> Image:
    return _shifted(image, rng)


def _foreign(image: Image, other: Image, rng: np.random.Generator) -> Image:
    share = rng.uniform(0.5, 1.0)  # interpolated, as in foreign patch interpolation
    return (1 - share) * image + share * _shifted(other, rng)


def _blur(image: Image, other: Image, rng: np.random.Generator) -> Image:
    from scipy.ndimage import gaussian_filter

    sigma = rng.uniform(0.015, 0.04) * min(image.shape[1:])
    return np.asarray(gaussian_filter(image, (0, sigma, sigma)))


def _noise(image: Image, other: Image, rng: np.random.Generator) -> Image:
    grain = rng.standard_normal(image.shape[1:]).astype(np.float32)  # the same in all colours
    return image + rng.uniform(0.08, 0.25) * grain


def _brightness(image: Image, other: Image, rng: np.random.Generator) -> Image:
    return image + rng.uniform(0.1, 0.4) * rng.choice((-1, 1))


def _contrast(image: Image, other: Image, rng: np.random.Generator) -> Image:
    factor = rng.uniform(0.2, 0.6) if rng.random() < 0.5 else rng.uniform(1.6, 3.0)
    middle = image.mean(axis=(1, 2), keepdims=True)
    return middle + factor * (image - middle)


_CHANGES = {
    "cutpaste": _cutpaste,
    "foreign": _foreign,
    "blur": _blur,
    "noise": _noise,
    "brightness": _brightness,
    "contrast": _contrast,
}
