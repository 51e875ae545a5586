"""Intensities made comparable between studies: body against air, windows, percentiles, matching.

Prepared arrays are float32 in 0..1, canonical (z, y, x) or (z, y, x, 3) for colour. For anything but CT
they do not change when the volume's values are scaled or shifted (a*x + b, a > 0).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from .foreground import foreground_mask
from .volume import array_view

if TYPE_CHECKING:
    import SimpleITK as sitk

    from .volume import Volume

__all__ = [
    "CT_WINDOWS",
    "choose_ct_window",
    "foreground_mask",
    "guess_modality",
    "match_histogram",
    "prepare",
]

# (level, width) in Hounsfield units
CT_WINDOWS: dict[str, tuple[float, float]] = {
    "brain": (40.0, 80.0),
    "soft": (40.0, 400.0),
    "lung": (-600.0, 1500.0),
    "bone": (480.0, 2500.0),
}
_BODY_PART_WINDOWS = {
    "brain": ("BRAIN", "HEAD", "SKULL"),
    "lung": ("LUNG", "CHEST", "THORAX"),
    "bone": ("SPINE", "KNEE", "HIP", "ANKLE", "FOOT", "HAND", "WRIST", "ELBOW", "SHOULDER", "EXTREMITY"),
    "soft": ("ABDOMEN", "PELVIS", "LIVER", "KIDNEY", "PANCREAS", "NECK"),
}
_LUNG_HU = (-950.0, -600.0)
_LUNG_FRACTION = 0.08

# Where the tissue's 0.5th and 99.5th percentile go. What lies above bends towards 1 but never reaches
# it, so a lesion brighter than all normal tissue still stands out.
_PERCENTILES = (0.5, 99.5)
_TOP = 0.9
# Landmarks stop at the 90th percentile: a lesion in the query that takes up to ~3 % of the tissue
# changes what lies above, and must not become the support's idea of normal.
_LANDMARKS = (2.0, *range(5, 95, 5))
_SAMPLES = 1_000_000


def guess_modality(volume: Volume) -> str:
    """The DICOM Modality where known; else "CT" where the values look like Hounsfield units; else ""."""
    if volume.info.modality:
        return volume.info.modality
    if volume.is_color:
        return ""
    sample = _sample(volume.array())
    low, high = sample.min(), sample.max()
    if not (-4096 <= low < -850 and 100 < high < 35000):
        return ""
    # In Hounsfield units air lies near -1000 (or at a scanner's padding value), soft tissue near 0.
    air = np.mean((sample < -850) & (sample > -1200)) + np.mean(np.isin(sample, (-1024, -2000, -2048, -3024)))
    tissue = np.mean((sample > -200) & (sample < 300))
    return "CT" if air > 0.02 and tissue > 0.02 else ""


def choose_ct_window(image: sitk.Image, mask: NDArray[np.bool_], body_part: str = "") -> str:
    """The name in `CT_WINDOWS` that shows this CT best: by body part, else by how much of it is lung.

    Choose once, for the query, and prepare every support with the same window.
    """

    part = body_part.upper()
    for window, words in _BODY_PART_WINDOWS.items():
        if any(word in part for word in words):
            return window
    body = array_view(image)[mask]
    lung = np.mean((body > _LUNG_HU[0]) & (body < _LUNG_HU[1])) if body.size else 0.0
    return "lung" if lung > _LUNG_FRACTION else "soft"


def prepare(
    image: sitk.Image,
    modality: str,
    mask: NDArray[np.bool_] | None = None,
    window: str = "auto",
    body_part: str = "",
) -> NDArray[np.float32]:
    """Voxels as float32 in 0..1 on the image's own grid; `image` is usually canonical.

    CT goes through a window (Hounsfield units outside are clipped). Colour and 8-bit single pictures are
    divided by 255. All else (MR ...) is spread by robust percentiles of `mask` (the foreground, computed
    where not given): the body's range becomes 0..0.9, what is brighter bends towards 1. Raises ValueError
    for an unknown window.
    """

    array: NDArray[Any] = array_view(image)
    if image.GetNumberOfComponentsPerPixel() > 1 or (
        array.dtype == np.uint8 and array.shape[0] == 1 and modality not in ("CT", "MR", "PT", "NM")
    ):
        return array.astype(np.float32) / np.float32(255)
    if window != "auto" and window not in CT_WINDOWS:
        raise ValueError(f"no CT window {window!r}; there are {', '.join(CT_WINDOWS)} and auto")
    if mask is None and (modality != "CT" or window == "auto"):
        mask = foreground_mask(image, modality)
    if modality == "CT":
        if window == "auto":
            assert mask is not None
            window = choose_ct_window(image, mask, body_part)
        level, width = CT_WINDOWS[window]
        return np.clip((array.astype(np.float32) - (level - width / 2)) / width, 0, 1)
    assert mask is not None
    return _by_percentiles(array, mask)


def _by_percentiles(array: NDArray[Any], mask: NDArray[np.bool_]) -> NDArray[np.float32]:
    tissue = _sample_of(array, mask) if mask.any() else _sample(array)
    low, high = (float(value) for value in np.percentile(tissue, _PERCENTILES))
    if high <= low:
        low, high = float(array.min()), float(array.max())
    shown = np.zeros(array.shape, np.float32)
    room = 1.0 - _TOP
    for part in _slabs(array) if high > low else ():
        # Subtract in double: an offset far larger than the contrast would swallow float32's digits.
        scaled = (array[part].astype(np.float64) - low) * (_TOP / (high - low))
        above = scaled > _TOP
        scaled[above] = 1.0 - room * np.exp(-(scaled[above] - _TOP) / room)
        shown[part] = np.clip(scaled, 0, 1)
    return shown


def _slabs(array: NDArray[Any]) -> Iterator[slice]:
    """Parts along the first axis of about a million values: double precision in little memory."""
    step = max(1, _SAMPLES * len(array) // max(1, array.size))
    for start in range(0, len(array), step):
        yield slice(start, start + step)


def match_histogram(
    moving: NDArray[np.float32],
    moving_mask: NDArray[np.bool_],
    fixed: NDArray[np.float32],
    fixed_mask: NDArray[np.bool_],
    in_place: bool = False,
) -> NDArray[np.float32]:
    """`moving` with its tissue brought to the intensities of the tissue of `fixed`.

    One increasing, piecewise linear map through percentiles 2 to 90 of both tissues and through both
    backgrounds; both arrays prepared (0..1), of any shapes. Give masks of the same anatomy: the overlap,
    where fields of view differ. A lesion of up to about 3 % of the tissue in `fixed` hardly moves these
    landmarks. Where a mask is empty, `moving` comes back as it is. in_place: in its memory.
    """
    if not moving_mask.any() or not fixed_mask.any():
        return moving
    source = np.percentile(_sample_of(moving, moving_mask), _LANDMARKS)
    target = np.percentile(_sample_of(fixed, fixed_mask), _LANDMARKS)
    if source[-1] - source[0] < 1e-3 or target[-1] - target[0] < 1e-3:
        return moving
    slope = (target[-1] - target[0]) / (source[-1] - source[0])
    bottoms = [_background(moving, moving_mask), _background(fixed, fixed_mask)]
    source, target = _increasing(source, target)
    # Background goes to background, also where the darkest tissue of the support is as dark.
    above = source > bottoms[0] + 1e-3
    source = np.concatenate([[bottoms[0]], source[above]])
    target = np.concatenate([[min(bottoms[1], target[above].min(initial=1.0))], target[above]])
    # Beyond the last landmark the overall contrast ratio goes on, whatever the tail holds.
    source = np.append(source, source[-1] + 2.0)
    target = np.append(target, target[-1] + 2.0 * slope)
    matched = moving if in_place else np.empty(moving.shape, np.float32)
    for part in _slabs(moving):
        matched[part] = np.interp(moving[part], source, target)
    return np.clip(matched, 0, 1, out=matched)


def _increasing(
    source: NDArray[np.float64], target: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Landmarks without repeated source values (a mode of many equal voxels), target non-decreasing."""
    kept = np.concatenate([[True], np.diff(source) > 1e-4])
    kept_index = np.flatnonzero(kept)
    groups = np.split(target, kept_index[1:])
    return source[kept], np.maximum.accumulate(np.array([group.mean() for group in groups]))


def _background(array: NDArray[np.float32], mask: NDArray[np.bool_]) -> float:
    outside = _sample_of(array, mask, inside=False)
    return float(np.median(outside)) if outside.size else float(array.min())


def _sample(values: NDArray[Any]) -> NDArray[Any]:
    """At most a million values at even steps: enough for percentiles, and the same every time."""
    flat = values.reshape(-1)
    return flat[:: max(1, flat.size // _SAMPLES)]


def _sample_of(values: NDArray[Any], mask: NDArray[np.bool_], inside: bool = True) -> NDArray[Any]:
    """`_sample` of the values where the mask is `inside`, without a copy of all of these."""
    count = int(np.count_nonzero(mask))
    step = max(1, (count if inside else mask.size - count) // _SAMPLES)
    found, seen = [], 0
    for part in _slabs(values):
        some = values[part][mask[part] == inside]
        found.append(some[-seen % step :: step])
        seen += len(some)
    return np.concatenate(found)
