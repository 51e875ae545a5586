"""Bringing arrays from the query's grid onto the frames of the source series, by position.

A volume may list slices in another order than the series, or with flipped or swapped axes (Slicer does).
What counts is where a voxel lies in the patient: each slice goes to the frame at its own position.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError
from ..imaging.volume import Volume
from .frames import Frame
from .source import Source

if TYPE_CHECKING:
    from highdicom import PixelMeasuresSequence, PlaneOrientationSequence, PlanePositionSequence
    from pydicom.dataset import Dataset

_PARALLEL = 0.999
_OFFSET_MM = 0.1
_SIDEWAYS = 0.6  # pixels; geometry.py straightens what drifts by more than half a pixel


@dataclass(frozen=True)
class Placement:
    """How arrays (k, j, i) of the query become frames.

    `frames` are the source frames behind the slices, or None where the query's grid is not that of the
    source (a resampled or cropped volume); then the frames of a result lie on the query's own grid.
    """

    source: Source
    axes: tuple[int, int, int]
    flips: tuple[bool, bool, bool]
    frames: tuple[Frame, ...] | None
    positions: tuple[tuple[float, float, float], ...]
    orientation: tuple[float, ...]
    spacing: tuple[float, float]  # between rows, between columns
    step: float
    thickness: float
    placed: bool

    def arranged(self, array: NDArray[Any]) -> NDArray[Any]:
        """The array as (frame, row, column)."""
        turned = np.transpose(array, self.axes)
        steps = tuple(slice(None, None, -1) if flip else slice(None) for flip in self.flips)
        return np.ascontiguousarray(turned[steps])

    def restored(self, array: NDArray[Any]) -> NDArray[Any]:
        """What `arranged` did, undone."""
        steps = tuple(slice(None, None, -1) if flip else slice(None) for flip in self.flips)
        return np.ascontiguousarray(np.transpose(array[steps], np.argsort(self.axes)))

    def source_images(self) -> list[Dataset]:
        """The source datasets: in the order of the frames where these are single-frame objects."""
        if self.frames is None or self.source.multiframe:
            return list(self.source.datasets.values())
        return [self.source.datasets[frame.sop_instance_uid] for frame in self.frames]

    def plane_positions(self) -> list[PlanePositionSequence]:
        from highdicom import PlanePositionSequence

        return [PlanePositionSequence("PATIENT", position) for position in self.positions]

    def plane_orientation(self) -> PlaneOrientationSequence:
        from highdicom import PlaneOrientationSequence

        return PlaneOrientationSequence("PATIENT", self.orientation)

    def pixel_measures(self) -> PixelMeasuresSequence:
        from highdicom import PixelMeasuresSequence

        return PixelMeasuresSequence(
            pixel_spacing=tuple(_decimal(v) for v in self.spacing),
            slice_thickness=_decimal(self.thickness),
            spacing_between_slices=_decimal(self.step) if len(self.positions) > 1 else None,
        )


def _decimal(value: float) -> float:
    """A number whose text fits a decimal string of 16 characters (PS3.5 section 6.2)."""
    return float(f"{value:.10g}")


def place(query: Volume, source: Source) -> Placement:
    """Where the query's voxels lie among the frames of its source; raises InputError where they do not."""
    placed = [frame for frame in _own_frames(query, source) if frame.position and frame.orientation]
    if not placed:
        return _unplaced(query, source)
    direction = np.array(query.image.GetDirection()).reshape(3, 3)
    options = {frame.orientation: frame for frame in placed}
    fitting = [f for f in options.values() if _turn(direction, _frame_axes(f)) is not None]
    if not fitting:
        return _own_grid(query, source, direction)
    best: tuple[int, Placement] | None = None
    for frame in fitting:
        candidates = [f for f in placed if _same_plane(f, frame)]
        placement, hits = _on_frames(query, source, direction, candidates)
        if best is None or hits > best[0]:
            best = (hits, placement)
    assert best is not None
    return best[1]


def _own_frames(query: Volume, source: Source) -> list[Frame]:
    """The frames that the query says it was read from, all where it does not say."""
    uids = set(query.info.tags.get("SOPInstanceUIDs") or ())
    numbers = query.info.tags.get("FrameNumbers")
    pairs = set(zip(query.info.tags.get("SOPInstanceUIDs") or (), numbers, strict=False)) if numbers else None
    own = [f for f in source.frames if (_id(f) in pairs if pairs else f.sop_instance_uid in uids)]
    return own or list(source.frames)


def _frame_axes(frame: Frame) -> NDArray[np.float64]:
    assert frame.orientation is not None
    row, column = np.array(frame.orientation, dtype=float).reshape(2, 3)
    return np.stack([row, column, np.cross(row, column)], axis=1)


def _same_plane(one: Frame, other: Frame) -> bool:
    return np.allclose(one.orientation or (), other.orientation or (), atol=1e-3) and (
        one.rows,
        one.columns,
    ) == (
        other.rows,
        other.columns,
    )


def _turn(direction: NDArray[np.float64], axes: NDArray[np.float64]) -> tuple[list[int], list[float]] | None:
    """For each axis of a frame (column index, row index, slice) the volume's axis along it, and its sign."""
    cosines = axes.T @ direction
    which = [int(np.abs(row).argmax()) for row in cosines]
    signs = [float(cosines[n, axis]) for n, axis in enumerate(which)]
    if sorted(which) != [0, 1, 2] or min(abs(sign) for sign in signs) < _PARALLEL:
        return None
    return which, signs


def _on_frames(
    query: Volume, source: Source, direction: NDArray[np.float64], frames: Sequence[Frame]
) -> tuple[Placement, int]:
    turn = _turn(direction, _frame_axes(frames[0]))
    assert turn is not None
    which, signs = turn
    size, spacing = np.array(query.size), np.array(query.spacing)
    corner = np.array(query.image.GetOrigin())
    for axis, sign in zip(which, signs, strict=True):
        if sign < 0:
            corner = corner + direction[:, axis] * spacing[axis] * (size[axis] - 1)
    step_vector = direction[:, which[2]] * np.sign(signs[2]) * spacing[which[2]]
    places = [corner + k * step_vector for k in range(int(size[which[2]]))]
    # Array axes are (k, j, i); wanted are (slice, row, column) = the frame's axes (2, 1, 0).
    array_axes = tuple(2 - which[n] for n in (2, 1, 0))
    flips = tuple(signs[n] < 0 for n in (2, 1, 0))
    step = float(spacing[which[2]])
    found = [_frame_at(place, frames, step) for place in places]
    first = frames[0]
    in_plane = (float(spacing[which[1]]), float(spacing[which[0]]))
    same_grid = (
        first.spacing is not None
        and np.allclose(first.spacing, in_plane, rtol=1e-3)
        and (first.rows, first.columns) == (int(size[which[1]]), int(size[which[0]]))
    )
    hits = sum(frame is not None for frame in found)
    exact = [frame for frame in found if frame is not None]
    if not same_grid or len(exact) < len(found) or len({_id(f) for f in exact}) < len(exact):
        return _own_grid(query, source, direction), hits
    placement = Placement(
        source,
        array_axes,  # type: ignore[arg-type]
        flips,  # type: ignore[arg-type]
        tuple(exact),
        tuple(frame.position for frame in exact if frame.position is not None),
        tuple(first.orientation or ()),
        first.spacing or in_plane,
        step,
        first.thickness or step,
        True,
    )
    return placement, hits


def _id(frame: Frame) -> tuple[str, int]:
    return frame.sop_instance_uid, frame.number


def _frame_at(place: NDArray[np.float64], frames: Sequence[Frame], step: float) -> Frame | None:
    """The frame whose first pixel lies here: within a quarter of a slice, and about half a pixel sideways."""
    normal = _frame_axes(frames[0])[:, 2]
    offsets = np.array([frame.position for frame in frames]) - place
    along = np.abs(offsets @ normal)
    sideways = np.linalg.norm(offsets - np.outer(offsets @ normal, normal), axis=1)
    nearest = int((along + sideways).argmin())
    near = along[nearest] <= max(_OFFSET_MM, 0.25 * step)
    return (
        frames[nearest] if near and sideways[nearest] <= max(_OFFSET_MM, _SIDEWAYS * _pixel(frames)) else None
    )


def _pixel(frames: Sequence[Frame]) -> float:
    return min(frames[0].spacing or (1.0,))


def _own_grid(query: Volume, source: Source, direction: NDArray[np.float64]) -> Placement:
    """The query's own slices, where they are not those of the source."""
    _require_near(query, source)
    spacing, size = query.spacing, query.size
    # Slices along +k must lie along row x column, or readers see them mirrored.
    flip = float(np.dot(np.cross(direction[:, 0], direction[:, 1]), direction[:, 2])) < 0
    origin = np.array(query.image.GetOrigin())
    places = [origin + direction[:, 2] * spacing[2] * k for k in range(size[2])]
    if flip:
        places.reverse()
    return Placement(
        source,
        (0, 1, 2),
        (flip, False, False),
        None,
        tuple((_decimal(p[0]), _decimal(p[1]), _decimal(p[2])) for p in places),
        tuple(_decimal(v) for v in (*direction[:, 0], *direction[:, 1])),
        (spacing[1], spacing[0]),
        spacing[2],
        spacing[2],
        True,
    )


def _require_near(query: Volume, source: Source) -> None:
    """Raises InputError where the query's grid and the series do not even overlap in the patient."""
    corners = [
        np.array(
            query.image.TransformIndexToPhysicalPoint(
                [int(c * (n - 1)) for c, n in zip(at, query.size, strict=True)]
            )
        )
        for at in np.ndindex(2, 2, 2)
    ]
    low, high = np.min(corners, axis=0), np.max(corners, axis=0)
    ends = []
    for frame in source.frames:
        if frame.position is None or frame.orientation is None or frame.spacing is None:
            continue
        axes = _frame_axes(frame)
        start = np.array(frame.position)
        reach = axes[:, 0] * frame.spacing[1] * frame.columns + axes[:, 1] * frame.spacing[0] * frame.rows
        ends += [start, start + reach]
    if not ends:
        return
    apart = (np.min(ends, axis=0) > high + 5).any() or (np.max(ends, axis=0) < low - 5).any()
    if apart:
        raise InputError(
            "The results do not lie where the given DICOM series lies in the patient. Give the files of the "
            "series that the query was read from."
        )


def _unplaced(query: Volume, source: Source) -> Placement:
    frame = source.frames[0]
    if query.size != (frame.columns, frame.rows, 1) or len(source.frames) != 1:
        raise InputError(
            "The given DICOM images have no positions and are not the query. Give the query's own file."
        )
    spacing = frame.spacing or (1.0, 1.0)
    return Placement(
        source,
        (0, 1, 2),
        (False, False, False),
        (frame,),
        (),
        (),
        spacing,
        1.0,
        frame.thickness or 1.0,
        False,
    )
