"""Which voxels are the body, and which are air around it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from .volume import array_view

if TYPE_CHECKING:
    import SimpleITK as sitk

_WORKING_MM = 3.0
_SLAB = 32  # slices at a time
_CT_BODY_HU = -300.0
_SMALL_PART = 0.03  # of the largest component: smaller ones are noise, the table, a head rest
_MIN_BORDER_AIR = 0.25
_MAX_AIR_SPREAD = 0.08


def foreground_mask(image: sitk.Image, modality: str = "") -> NDArray[np.bool_]:
    """True for body, False for the air around it, (z, y, x) on the image's grid (usually canonical).

    Works at about 3 mm, so the outline is smooth. Holes are filled slice by slice in all three
    directions, so that ventricles, lungs and other dark anatomy belong to the body. A picture or volume
    with no air around its content (a histology tile, a close-up) is foreground everywhere. "CT" takes a
    fixed threshold in Hounsfield units, all else one from the histogram.
    """

    coarse = coarse_foreground(image, modality)
    mask = np.asarray(array_view(on_grid(coarse, image)) > 0)
    return mask if mask.any() else ~mask  # a body too thin for the coarse grid


def coarse_foreground(image: sitk.Image, modality: str = "") -> sitk.Image:
    """`foreground_mask` as a float32 image (0 or 1) on the grid of about 3 mm that it is made on."""
    import SimpleITK as sitk

    small = _shrunk(_gray(image))
    values = sitk.GetArrayFromImage(small).astype(np.float64)
    body = values > _CT_BODY_HU if modality == "CT" else _brighter_than_air(values)
    if not body.any():
        body = np.ones_like(body)
    elif not body.all():
        # Closing first: a scalp ring with gaps would neither enclose the brain nor survive on its own.
        body = _filled(_main_parts(_filled(_closed(body))))
    mask = sitk.GetImageFromArray(body.astype(np.float32))
    mask.CopyInformation(small)
    return mask


def on_grid(mask: sitk.Image, reference: sitk.Image) -> sitk.Image:
    """A coarse foreground on the grid of `reference`, as uint8."""
    import SimpleITK as sitk

    # Linear, so that the outline is not blocky; extrapolated, so that the border belongs to its neighbour.
    shown = sitk.Resample(
        mask,
        reference,
        sitk.Transform(),
        sitk.sitkLinear,
        0.0,
        sitk.sitkFloat32,
        useNearestNeighborExtrapolator=True,
    )
    return shown >= 0.5


def _gray(image: sitk.Image) -> sitk.Image:
    import SimpleITK as sitk

    if image.GetNumberOfComponentsPerPixel() > 1:
        mean = array_view(image).mean(axis=-1, dtype=np.float32)
        gray = sitk.GetImageFromArray(mean)
        gray.CopyInformation(image)
        return gray
    return image


def _shrunk(gray: sitk.Image) -> sitk.Image:
    """Block averages of about 3 mm; a single image's pixels have no known size, so it goes to ~128 pixels."""
    size = gray.GetSize()
    if min(size) == 1:
        factors = [max(1, round(count / 128)) for count in size]
    else:
        factors = [max(1, round(_WORKING_MM / step)) for step in gray.GetSpacing()]
    factors = [min(factor, max(1, count // 12)) for factor, count in zip(factors, size, strict=True)]
    # Double keeps the mask the same when a large offset is added to the values.
    return shrunk(gray, factors)


def shrunk(image: sitk.Image, factors: Sequence[int]) -> sitk.Image:
    """Averages of blocks, in double; some slices at a time, as all in double would need much memory."""
    import SimpleITK as sitk

    factors = [int(factor) for factor in factors]
    if max(factors) == 1:
        return sitk.Cast(image, sitk.sitkFloat64)
    across, count = factors[2], image.GetSize()[2]
    step = across * max(1, _SLAB // across)
    parts = [
        sitk.BinShrink(sitk.Cast(image[:, :, start : start + step], sitk.sitkFloat64), factors)
        for start in range(0, count - across + 1, step)
    ]
    if len(parts) == 1:
        return parts[0]
    joined = sitk.GetImageFromArray(np.concatenate([array_view(part) for part in parts]))
    joined.SetSpacing(parts[0].GetSpacing())
    joined.SetOrigin(parts[0].GetOrigin())
    joined.SetDirection(parts[0].GetDirection())
    return joined


def _brighter_than_air(values: NDArray[np.float64]) -> NDArray[np.bool_]:
    everything = np.ones(values.shape, bool)
    low, high = np.percentile(values, (0.5, 98))
    if high <= low:
        low, high = values.min(), values.max()
    if high <= low:
        return everything
    scaled = np.clip((values - low) / (high - low), 0, 1)
    threshold = _otsu(scaled)
    air, tissue = np.median(scaled[scaled <= threshold]), np.median(scaled[scaled > threshold])
    # Otsu alone cuts between dark and bright tissue where the air is very even.
    noise = 1.4826 * np.median(np.abs(scaled[scaled <= threshold] - air))
    body = scaled > air + max(0.15 * (tissue - air), min(5 * noise, 0.3 * (tissue - air)))
    # Air surrounds the body and is even; a dark part of the content is neither.
    border = _border(values.shape)
    dark_border = ~body & border
    if dark_border.sum() < _MIN_BORDER_AIR * border.sum() or scaled[dark_border].std() > _MAX_AIR_SPREAD:
        return everything
    return body


def _otsu(scaled: NDArray[np.float64]) -> float:
    counts, edges = np.histogram(scaled, bins=128, range=(0.0, 1.0))
    centres = (edges[:-1] + edges[1:]) / 2
    below = np.cumsum(counts)[:-1].astype(np.float64)
    above = counts.sum() - below
    sums = np.cumsum(counts * centres)
    with np.errstate(divide="ignore", invalid="ignore"):
        distance = sums[:-1] / below - (sums[-1] - sums[:-1]) / above
    between = np.nan_to_num(below * above * distance**2)
    return float(edges[int(np.argmax(between)) + 1])


def _border(shape: tuple[int, ...]) -> NDArray[np.bool_]:
    """The outer in-plane frame of an array (z, y, x): a slab's first and last slice are full of body."""
    border = np.zeros(shape, bool)
    thin = int(np.argmin(shape))
    for axis in range(3):
        if axis != thin:
            index: list[Any] = [slice(None)] * 3
            index[axis] = [0, -1]
            border[tuple(index)] = True
    return border


def _ball(shape: tuple[int, ...]) -> NDArray[np.bool_]:
    """The 6 neighbours; only the 4 in the plane of a few slices."""
    from scipy import ndimage

    structure: NDArray[np.bool_] = ndimage.generate_binary_structure(3, 1)
    if min(shape) < 5:
        structure = structure & (np.indices((3, 3, 3))[int(np.argmin(shape))] == 1)
    return structure


def _closed(body: NDArray[np.bool_]) -> NDArray[np.bool_]:
    from scipy import ndimage

    # Replicated at the border, so that neither air nor body grows in from there.
    padded = ndimage.binary_closing(np.pad(body, 2, mode="edge"), _ball(body.shape))
    return np.asarray(padded[2:-2, 2:-2, 2:-2])


def _main_parts(body: NDArray[np.bool_]) -> NDArray[np.bool_]:
    from scipy import ndimage

    # One erosion cuts the thin bridges to a table or a cable; the outline comes back with the dilation.
    structure = _ball(body.shape)
    core = ndimage.binary_erosion(body, structure, border_value=1)
    labels, count = ndimage.label(core if core.any() else body)
    sizes = np.bincount(labels.ravel())[1:]
    kept = np.flatnonzero(sizes >= _SMALL_PART * sizes.max()) + 1 if count else np.array([], int)
    parts = ndimage.binary_dilation(np.isin(labels, kept), structure, iterations=2)
    return parts & body


def _filled(body: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The body with what each slice, along any of the three axes, encloses."""
    from scipy import ndimage

    result = body.copy()
    for axis in range(3):
        others = [other for other in range(3) if other != axis]
        if min(body.shape[other] for other in others) < 8:
            continue
        # All slices of the axis in one go: air is connected within them only.
        structure = ndimage.generate_binary_structure(3, 1) & (np.indices((3, 3, 3))[axis] == 1)
        labels, count = ndimage.label(~body, structure)
        open_air = np.zeros(count + 1, bool)
        for other in others:
            for side in (0, -1):
                open_air[np.take(labels, side, axis=other)] = True
        open_air[0] = True  # the body itself
        result |= ~open_air[labels]
    return result
