"""Cutting volumes into slices by anatomy.

A volume's own array order says nothing about anatomy. Here every volume is first brought to the
canonical order (LPS: x to the patient's left, y to posterior, z to superior) by swapping and flipping
axes only, so no voxel is interpolated, and the way back is exact. Oblique grids count as the anatomical
axis that they are closest to. Canonical arrays are indexed (z, y, x), with a fourth axis for colour.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from enum import Enum
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from .volume import array_view

if TYPE_CHECKING:
    import SimpleITK as sitk

    from .volume import Volume

CANONICAL = "LPS"
# writes slices (n, rows, cols[, c]) from that number on, zeros to begin with
Fill = Callable[[NDArray[Any], int], None]
_AT_ONCE = 32  # slices
# One spacing counts as the slice distance from this ratio to the next smaller one on ...
_CLEARLY_THICKER = 1.3
# ... and one extent as a slab's thickness below this fraction of the next larger one.
_CLEARLY_THINNER = 0.4


class Plane(str, Enum):
    """An anatomical slicing plane."""

    AXIAL = "axial"
    CORONAL = "coronal"
    SAGITTAL = "sagittal"

    @property
    def normal_axis(self) -> int:
        """The canonical image axis (0 x, 1 y, 2 z) that the slices are stacked along."""
        return {Plane.SAGITTAL: 0, Plane.CORONAL: 1, Plane.AXIAL: 2}[self]


def _signed_axes(image: sitk.Image) -> list[tuple[int, bool]]:
    """For each canonical axis x, y, z: the image's own axis, and whether it runs the other way."""
    import SimpleITK as sitk

    code = sitk.DICOMOrientImageFilter.GetOrientationFromDirectionCosines(image.GetDirection())
    axes: list[tuple[int, bool]] = []
    for positive, negative in ("LR", "PA", "SI"):
        own = next(axis for axis, letter in enumerate(code) if letter in (positive, negative))
        axes.append((own, code[own] == negative))
    return axes


def slice_axis(image: sitk.Image, plane: Plane) -> int:
    """The image's own axis (0 i, 1 j, 2 k) that slices of this plane are stacked along."""
    return _signed_axes(image)[plane.normal_axis][0]


def to_canonical(image: sitk.Image) -> sitk.Image:
    """The same voxels at the same places with axes in LPS order; nothing is interpolated, and an image that
    has them so shares its memory."""
    import SimpleITK as sitk

    if _signed_axes(image) == [(0, False), (1, False), (2, False)]:
        return sitk.Image(image)
    return sitk.DICOMOrient(image, CANONICAL)


def canonical_view(image: sitk.Image) -> NDArray[Any]:
    """The voxels of `to_canonical`, (z, y, x[, c]), without a copy."""
    return as_canonical(array_view(image), image)


def as_canonical(array: NDArray[Any], image: sitk.Image) -> NDArray[Any]:
    """A view (z, y, x[, c]), in canonical order, of an array (k, j, i[, c]) on the image's own grid."""
    axes = _signed_axes(image)
    rest = (3,) if array.ndim == 4 else ()
    # Array axes run k, j, i: the image's own axis n is the array's 2 - n.
    ordered = array.transpose(*(2 - own for own, _ in reversed(axes)), *rest)
    return ordered[tuple(slice(None, None, -1 if flip else 1) for _, flip in reversed(axes))]


def from_canonical(image: sitk.Image, reference: sitk.Image) -> sitk.Image:
    """Undo `to_canonical`: an image on the canonical grid of `reference`, put on exactly its own grid.

    The result has the reference's size, spacing, origin and direction to the last bit. Raises ValueError
    where `image` does not lie on the reference's canonical grid.
    """
    import SimpleITK as sitk

    axes = _signed_axes(reference)
    _require_canonical_grid(image, reference, axes)
    flipped = sitk.Flip(image, [flip for _, flip in axes]) if any(flip for _, flip in axes) else image
    # Axis i of the output is the canonical axis that the reference's axis i became.
    order = [[own for own, _ in axes].index(axis) for axis in range(3)]
    result = sitk.PermuteAxes(flipped, order) if order != [0, 1, 2] else flipped
    if result is image:
        result = sitk.Image(image)  # the caller's keeps its grid
    result.CopyInformation(reference)
    return result


def _require_canonical_grid(image: sitk.Image, reference: sitk.Image, axes: list[tuple[int, bool]]) -> None:
    size = np.array(reference.GetSize())
    spacing = np.array(reference.GetSpacing())
    direction = np.array(reference.GetDirection()).reshape(3, 3)
    order = [own for own, _ in axes]
    signs = np.array([-1.0 if flip else 1.0 for _, flip in axes])
    corner = np.zeros(3)
    for own, flip in axes:
        corner[own] = size[own] - 1 if flip else 0
    origin = np.array(reference.GetOrigin()) + direction @ (corner * spacing)
    tolerance = 1e-3 * spacing.min()
    agrees = (
        np.array_equal(image.GetSize(), size[order])
        and np.allclose(image.GetSpacing(), spacing[order], rtol=1e-5)
        and np.allclose(image.GetOrigin(), origin, rtol=0, atol=tolerance)
        and np.allclose(np.array(image.GetDirection()).reshape(3, 3), direction[:, order] * signs, atol=1e-4)
    )
    if not agrees:
        raise ValueError("the image does not lie on the canonical grid of the reference")


def slices(array: NDArray[Any], plane: Plane) -> NDArray[Any]:
    """A view (n, rows, cols[, c]) of a canonical array (z, y, x[, c]), as a radiologist looks at it.

    Slices run inferior to superior (axial), anterior to posterior (coronal), right to left (sagittal).
    Axial: anterior at the top; coronal and sagittal: superior at the top. The patient's right is at the
    image's left (axial, coronal), anterior is at the left (sagittal).
    """
    if plane is Plane.AXIAL:
        return array
    upright = array[::-1]
    return upright.swapaxes(0, 1) if plane is Plane.CORONAL else np.moveaxis(upright, 2, 0)


def unslices(array: NDArray[Any], plane: Plane) -> NDArray[Any]:
    """The canonical array (z, y, x[, c]) whose `slices` these are (a view)."""
    if plane is Plane.AXIAL:
        return array
    upright = array.swapaxes(0, 1) if plane is Plane.CORONAL else np.moveaxis(array, 0, 2)
    return upright[::-1]


def image_of_slices(
    fill: Fill, like: sitk.Image, plane: Plane, dtype: DTypeLike, color: bool = False
) -> sitk.Image:
    """An image on exactly the grid of `like`, made of all its slices of a plane (see `slices`).

    Some go into it at a time: a large image is never in memory twice.
    """
    import SimpleITK as sitk

    own, flipped = _signed_axes(like)[plane.normal_axis]
    count = like.GetSize()[own]
    image: sitk.Image | None = None
    for start in range(0, count, _AT_ONCE):
        shape = list(like.GetSize()[::-1])
        shape[2 - own] = min(_AT_ONCE, count - start)
        part = np.zeros([*shape, 3] if color else shape, dtype)
        fill(slices(as_canonical(part, like), plane), start)
        piece = sitk.GetImageFromArray(part, isVector=color)
        if image is None:
            image = sitk.Image(like.GetSize(), piece.GetPixelID(), piece.GetNumberOfComponentsPerPixel())
        first = count - start - shape[2 - own] if flipped else start
        place = [slice(None)] * 3
        place[own] = slice(first, first + shape[2 - own])
        image[tuple(place)] = piece
    assert image is not None
    image.CopyInformation(like)
    return image


def default_plane(volume: Volume) -> Plane:
    """The plane the volume was acquired in, as far as its grid tells.

    A single image: its own plane. Else the plane of the clearly largest spacing; else that of a slab's
    clearly shortest side; else axial.
    """
    by_axis = {plane.normal_axis: plane for plane in Plane}
    axes = [own for own, _ in _signed_axes(volume.image)]
    found = acquired_axis([volume.size[own] for own in axes], [volume.spacing[own] for own in axes])
    return Plane.AXIAL if found is None else by_axis[found]


def acquired_axis(size: Sequence[int], spacing: Sequence[float]) -> int | None:
    """The axis that a grid's slices are stacked along: that of the one single voxel, of the clearly largest
    spacing, else of a slab's clearly shortest side; None where the grid does not tell."""
    shape, steps = np.asarray(size), np.asarray(spacing, dtype=float)
    if (shape == 1).sum() == 1:
        return int(np.argmin(shape))
    thickest = int(np.argmax(steps))
    if steps[thickest] >= _CLEARLY_THICKER * np.sort(steps)[1]:
        return thickest
    extent = shape * steps
    thinnest = int(np.argmin(extent))
    return thinnest if extent[thinnest] <= _CLEARLY_THINNER * np.sort(extent)[1] else None


def slice_index(volume: Volume, plane: Plane, canonical_slice: int) -> int:
    """Where slice `canonical_slice` of `slices(canonical array, plane)` lies along the volume's own axis
    (`slice_axis`). The map is its own inverse. Raises IndexError outside the volume."""
    own, flipped = _signed_axes(volume.image)[plane.normal_axis]
    count = volume.size[own]
    if not 0 <= canonical_slice < count:
        raise IndexError(f"slice {canonical_slice} of {count}")
    return count - 1 - canonical_slice if flipped else canonical_slice


def slice_spacing(image: sitk.Image, plane: Plane) -> float:
    """Millimetres between neighbouring slices; the image may be canonical or on its own grid."""
    return float(image.GetSpacing()[slice_axis(image, plane)])


def in_plane_spacing(image: sitk.Image, plane: Plane) -> tuple[float, float]:
    """Millimetres (between rows, between columns) of the slices; canonical or own grid."""
    axes = _signed_axes(image)
    row, column = {Plane.AXIAL: (1, 0), Plane.CORONAL: (2, 0), Plane.SAGITTAL: (2, 1)}[plane]
    spacing = image.GetSpacing()
    return float(spacing[axes[row][0]]), float(spacing[axes[column][0]])
