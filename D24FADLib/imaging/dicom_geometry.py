"""The grid that the slices of a DICOM series lie on, and what keeps them from forming one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

_IN_PLANE_TOLERANCE_MM = 0.1


@dataclass(frozen=True)
class Slice:
    """One file of a series and its header, without the pixels."""

    path: Path
    header: Dataset


def has_geometry(header: Dataset) -> bool:
    """True where the header places the image in the patient."""
    position = header.get("ImagePositionPatient") or ()
    orientation = header.get("ImageOrientationPatient") or ()
    return len(position) == 3 and len(orientation) == 6


def _position(header: Dataset) -> NDArray[np.float64]:
    return np.array([float(value) for value in header.ImagePositionPatient])


def _axes(header: Dataset) -> NDArray[np.float64]:
    """Direction of columns, of rows and of the normal as matrix columns."""
    cosines = np.array([float(value) for value in header.ImageOrientationPatient]).reshape(2, 3)
    along_row, along_column = cosines / np.linalg.norm(cosines, axis=1, keepdims=True)
    return np.stack([along_row, along_column, np.cross(along_row, along_column)], axis=1)


def _pixel_spacing(header: Dataset) -> tuple[float, float]:
    """(along a row, along a column) in mm; 1 where the header does not say."""
    for keyword in ("PixelSpacing", "ImagerPixelSpacing", "NominalScannedPixelSpacing"):
        values = header.get(keyword)
        if values and len(values) == 2:
            return float(values[1]), float(values[0])
    return 1.0, 1.0


def checked_geometry(
    series: Sequence[Slice], name: str
) -> tuple[list[Slice], NDArray[np.float64], tuple[float, float, float], NDArray[np.float64]]:
    """Slices in order of position, and the grid they lie on: origin (LPS mm), spacing (mm), direction (its
    columns are the axes). Raises InputError, calling the series `name`, unless it is one regular stack."""
    first = series[0].header
    in_plane = _pixel_spacing(first)
    _require_same_matrix(series, in_plane, name)
    thickness = float(first.get("SpacingBetweenSlices") or first.get("SliceThickness") or 1.0)
    if not has_geometry(first):
        return list(series), np.zeros(3), (*in_plane, abs(thickness) or 1.0), np.eye(3)
    axes = _axes(first)
    if not np.allclose(axes.T @ axes, np.eye(3), atol=1e-3):
        raise InputError(
            f"{name}: the image axes in the header are not perpendicular. Export the series again."
        )
    if any(np.abs(_axes(s.header) - axes).max() > 1e-3 for s in series):
        raise InputError(
            f"{name}: the slices have different orientations (a localizer, or several stacks in one series). "
            "Keep one stack, or resample it to a regular grid."
        )
    ordered = sorted(series, key=lambda s: float(_position(s.header) @ axes[:, 2]))
    positions = np.stack([_position(s.header) for s in ordered])
    if len(ordered) > 1:
        thickness = _checked_slice_distance(positions, axes, name)
    # Remove what the few decimals of the header leave of non-orthogonality.
    left, _, right = np.linalg.svd(axes)
    return ordered, positions[0], (*in_plane, abs(thickness) or 1.0), left @ right


def _require_same_matrix(series: Sequence[Slice], in_plane: tuple[float, float], name: str) -> None:
    if not all(np.isfinite(value) and value > 0 for value in in_plane):
        raise InputError(f"{name}: the pixel spacing in the header is not positive. Export the series again.")
    if len({(int(s.header.Rows), int(s.header.Columns)) for s in series}) > 1:
        raise InputError(f"{name}: the slices differ in rows or columns. Keep one stack of equal slices.")
    if any(not np.allclose(_pixel_spacing(s.header), in_plane, rtol=1e-3) for s in series):
        raise InputError(f"{name}: the slices differ in pixel spacing. Resample them to a regular grid.")


def _checked_slice_distance(positions: NDArray[np.float64], axes: NDArray[np.float64], name: str) -> float:
    """Millimetres between slices; raises InputError unless they form one regular, upright stack."""
    along = positions @ axes[:, 2]
    gaps = np.diff(along)
    duplicates = int((gaps < 1e-3).sum())
    if duplicates:
        raise InputError(
            f"{name}: {duplicates} slices lie at the same position as another (several echoes, time points "
            "or copies in one series). Keep one image per position."
        )
    order = np.arange(len(along))
    distance, start = (float(value) for value in np.polyfit(order, along, 1))
    # Sideways drift of the stack against its normal is how gantry tilt shows in the positions.
    sideways = np.linalg.norm((positions[-1] - positions[0]) @ axes[:, :2])
    tilt = float(np.degrees(np.arctan2(sideways, along[-1] - along[0])))
    if tilt > 0.5 and sideways > _IN_PLANE_TOLERANCE_MM:
        raise InputError(
            f"{name}: gantry tilt of {tilt:.1f} degrees: the slices are not stacked along their normal. "
            "Resample it to a regular grid (Slicer does so when it loads the series with 'Acquisition "
            "geometry regularization' on) and use that volume."
        )
    # Judged by where each slice ends up, not by the gaps: many headers hold rounded positions.
    if np.abs(along - (start + distance * order)).max() > max(0.01 * distance, 0.05):
        missing = int(np.round(gaps / np.median(gaps) - 1).clip(0).sum())
        cause = f"about {missing} slices seem to be missing" if missing else "the slice distance varies"
        raise InputError(
            f"{name}: irregular slice spacing ({gaps.min():.2f} to {gaps.max():.2f} mm, {cause}). Export the "
            "complete series, or resample it to a regular grid."
        )
    return distance
