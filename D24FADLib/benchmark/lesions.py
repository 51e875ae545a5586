"""Lesions of known size, kind and contrast, implanted in real normal studies."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

LesionKind = Literal["bright", "dark", "smooth", "noisy", "deformed", "foreign"]
KINDS: tuple[LesionKind, ...] = get_args(LesionKind)
SIZES_MM = (2.0, 4.0, 8.0, 12.0, 16.0, 20.0)
CONTRASTS = (0.5, 1.0)  # shares of a lesion that is plain to see

_EDGE_MM = 0.6


@dataclass(frozen=True)
class ImplantedLesion:
    """kind; diameter in mm; contrast: 1 plain to see, less is fainter (see `implant`)."""

    kind: LesionKind
    diameter_mm: float
    contrast: float


def choose_center(
    body: NDArray[np.bool_], spacing: tuple[float, float, float], diameter_mm: float, rng: np.random.Generator
) -> tuple[int, int, int]:
    """A voxel at least half the diameter (10 mm at most) below the body's surface; the deepest where none is.

    The array's own border is no surface: a slab's lesion may reach it.
    """
    padded = np.pad(body, 1, mode="edge")
    depth = ndimage.distance_transform_edt(padded, sampling=spacing)[1:-1, 1:-1, 1:-1]
    allowed = np.argwhere(depth >= min(max(diameter_mm / 2, 4.0), 10.0, float(depth.max())))
    z, y, x = allowed[int(rng.integers(len(allowed)))]
    return int(z), int(y), int(x)


def implant(
    study: NDArray[np.float32],
    body: NDArray[np.bool_],
    spacing: tuple[float, float, float],
    center: tuple[int, int, int],
    lesion: ImplantedLesion,
    donor: NDArray[np.float32],
    rng: np.random.Generator,
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """The study (z, y, x) with the lesion, and the lesion's mask. spacing: mm in the same order.

    An irregular ball with a soft edge. With c the contrast and s the standard deviation of the body's
    intensities: bright and dark add or take 1.5 c s; smooth fades c of the texture out; noisy adds noise
    of 0.8 c s, correlated over a voxel; deformed displaces tissue by up to c diameter / 4 (vortex);
    foreign blends c of a patch of `donor`, another study on a grid of the same shape, from elsewhere.
    Only the body changes.
    """
    radius = lesion.diameter_mm / 2
    offsets = np.meshgrid(
        *((np.arange(n) - c) * d for n, c, d in zip(study.shape, center, spacing, strict=True)),
        indexing="ij", sparse=True,
    )  # fmt: skip
    distance = np.sqrt(sum(o**2 for o in offsets))
    rough = ndimage.gaussian_filter(
        rng.standard_normal(study.shape), [max(radius, 1) / 2 / d for d in spacing]
    )
    distance = distance + rough / max(float(rough.std()), 1e-12) * radius * 0.1
    share = body / (1 + np.exp(np.clip((distance - radius) / _EDGE_MM, -50, 50)))
    scale = float(study[body].std()) * lesion.contrast
    if lesion.kind == "bright":
        content = study + 1.5 * scale
    elif lesion.kind == "dark":
        content = np.maximum(study - 1.5 * scale, study[body].min())
    elif lesion.kind == "smooth":
        blurred = ndimage.gaussian_filter(study, [max(radius, 2.0) / 2 / d for d in spacing])
        content = study + lesion.contrast * (blurred - study)
    elif lesion.kind == "noisy":
        noise = ndimage.gaussian_filter(rng.standard_normal(study.shape), [0.5 / d for d in spacing])
        content = study + 0.8 * scale * noise / noise.std()
    elif lesion.kind == "deformed":
        content = _twisted(study, spacing, center, distance, radius, lesion)
    else:
        content = study + lesion.contrast * (_foreign_patch(donor, body, center, rng) - study)
    changed = study * (1 - share) + content * share
    return changed.astype(study.dtype), share > 0.5


def _twisted(
    study: NDArray[np.float32],
    spacing: tuple[float, float, float],
    center: tuple[int, int, int],
    distance: NDArray[np.float64],
    radius: float,
    lesion: ImplantedLesion,
) -> NDArray[np.float32]:
    """In-plane rotation about the centre, strongest half-way out, 0 at the rim."""
    fall = np.clip(1 - distance / radius, 0, 1)
    angle = 2.0 * lesion.contrast * fall
    coordinates = [np.asarray(axis, float) for axis in np.indices(study.shape)]
    dy = (coordinates[1] - center[1]) * spacing[1]
    dx = (coordinates[2] - center[2]) * spacing[2]
    coordinates[1] = center[1] + (np.cos(angle) * dy - np.sin(angle) * dx) / spacing[1]
    coordinates[2] = center[2] + (np.sin(angle) * dy + np.cos(angle) * dx) / spacing[2]
    return np.asarray(ndimage.map_coordinates(study, coordinates, order=1, mode="nearest"), np.float32)


def _foreign_patch(
    donor: NDArray[np.float32],
    body: NDArray[np.bool_],
    center: tuple[int, int, int],
    rng: np.random.Generator,
) -> NDArray[np.float32]:
    """The donor turned by 180 degrees in plane, shifted so that other tissue lies at the centre."""
    fitted = np.zeros(body.shape, np.float32)
    shared = tuple(slice(min(a, b)) for a, b in zip(body.shape, donor.shape, strict=True))
    fitted[shared] = donor[shared]
    places = np.argwhere(body)
    z, y, x = (int(v) for v in places[int(rng.integers(len(places)))])
    source = (z, body.shape[1] - 1 - y, body.shape[2] - 1 - x)
    shift = [c - s for c, s in zip(center, source, strict=True)]
    return np.asarray(np.roll(fitted[:, ::-1, ::-1], shift, axis=(0, 1, 2)))
