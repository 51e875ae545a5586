"""From the places of a stack's frames to the grid of a volume.

Slices are sorted along their normal and never by file name or instance number. A regular stack keeps its
voxels as they are. A tilted gantry or slightly irregular spacing is brought onto a regular grid with a
stated warning; what would have to be invented is refused with the reason.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError
from ..wording import counted
from .frames import Frame
from .stacks import Stack

Array = NDArray[np.float64]

_IN_PLANE_TOLERANCE_MM = 0.1
# More than this of the stack invented between measured slices, or a hole wider than this: refused.
_MOST_MISSING = 0.15
_WIDEST_GAP = 3.5


@dataclass(frozen=True)
class Arrangement:
    """Where the frames of a stack lie.

    `frames` are in the order of their positions along the slice normal. The grid (`origin`, `spacing`,
    `direction` with the axes of i, j, k as columns) is the output's. `shifts` (slice, (i, j)) in pixels is
    non-zero for a tilted gantry; `depths` are the measured slice positions in units of output slices when
    the spacing is irregular, else None. `notes` are sentences for the reader.
    """

    frames: tuple[Frame, ...]
    origin: Array
    spacing: tuple[float, float, float]
    direction: Array
    placed: bool
    size: tuple[int, int, int]
    shifts: Array | None = None
    depths: Array | None = None
    notes: tuple[str, ...] = ()

    @property
    def resampled(self) -> bool:
        return self.shifts is not None or self.depths is not None

    def nearest_frames(self) -> list[Frame]:
        """For each slice of the output the frame that lies nearest to it."""
        if self.depths is None:
            return list(self.frames)
        return [self.frames[int(np.abs(self.depths - k).argmin())] for k in range(self.size[2])]


def arrange(stack: Stack, name: str) -> Arrangement:
    """The grid of a stack; raises InputError, with `name` as its subject, where it forms no volume."""
    first = stack.frames[0]
    spacing = first.spacing or (1.0, 1.0)
    in_plane = (spacing[1], spacing[0])
    notes = [] if first.spacing else ["the header gives no pixel spacing; 1 mm is assumed"]
    if stack.duplicates:
        notes.append(
            counted(stack.duplicates, "image is a copy", "images are copies")
            + " of another or lie at its position, and left out"
        )
    thickness = abs(first.thickness or 1.0)
    if first.position is None or first.orientation is None:
        if len(stack) > 1:
            raise InputError(
                f"{name}: {len(stack)} images without positions do not form a volume. Choose one."
            )
        size = (first.columns, first.rows, 1)
        return Arrangement(
            stack.frames, np.zeros(3), (*in_plane, thickness), np.eye(3), False, size, notes=tuple(notes)
        )
    axes = _axes(first, name)
    ordered = sorted(stack.frames, key=lambda f: float(_place(f) @ axes[:, 2]))
    places = np.stack([_place(frame) for frame in ordered])
    if len(ordered) == 1:
        size = (first.columns, first.rows, 1)
        return Arrangement(
            tuple(ordered), places[0], (*in_plane, thickness), axes, True, size, notes=tuple(notes)
        )
    along = places @ axes[:, 2]
    step, depths, note = _depths(along, name)
    if note:
        notes.append(note)
    elif first.thickness and step > 2 * thickness:
        notes.append(f"the slices lie {step:.1f} mm apart but are {thickness:.1f} mm thick: there are gaps")
    shifts, note, extra = _shifts(places @ axes[:, :2], along, in_plane, name)
    if note:
        notes.append(note)
    origin = places[0] + axes[:, :2] @ (np.array(in_plane) * extra[0]) if shifts is not None else places[0]
    count = len(ordered) if depths is None else round(float(depths[-1])) + 1
    size = (first.columns + extra[1][0], first.rows + extra[1][1], count)
    return Arrangement(
        tuple(ordered), origin, (*in_plane, step), axes, True, size, shifts, depths, tuple(notes)
    )


def _place(frame: Frame) -> Array:
    return np.array(frame.position, dtype=np.float64)


def _axes(frame: Frame, name: str) -> Array:
    """Direction of columns, of rows and of the normal as matrix columns, orthonormal."""
    assert frame.orientation is not None
    cosines = np.array(frame.orientation, dtype=np.float64).reshape(2, 3)
    along_row, along_column = cosines / np.linalg.norm(cosines, axis=1, keepdims=True)
    if abs(float(along_row @ along_column)) > 1e-3:
        raise InputError(
            f"{name}: the image axes in the header are not perpendicular. Export the series again."
        )
    axes = np.stack([along_row, along_column, np.cross(along_row, along_column)], axis=1)
    left, _, right = np.linalg.svd(axes)  # takes out what the few decimals of the header leave
    return np.asarray(left @ right)


def _depths(along: Array, name: str) -> tuple[float, Array | None, str]:
    """Slice distance, and for irregular stacks the slices' places in units of it, with a note."""
    gaps = np.diff(along)
    step = float(np.median(gaps))
    tolerance = max(0.02 * step, 0.05)
    if np.abs(gaps - step).max() <= tolerance:
        return float((along[-1] - along[0]) / len(gaps)), None, ""
    holes = np.round(gaps / step - 1).clip(0).astype(int)
    on_grid = np.abs(gaps / step - (holes + 1)).max() <= 0.1
    missing, total = int(holes.sum()), len(along) + int(holes.sum())
    widest = float(gaps.max() / step)
    if widest > _WIDEST_GAP or missing > _MOST_MISSING * total:
        what = (
            f"about {counted(missing, 'slice is', 'slices are')} missing"
            if missing
            else "the slices do not adjoin"
        )
        raise InputError(
            f"{name}: irregular slice spacing, {gaps.min():.2f} to {gaps.max():.2f} mm between slices "
            f"({what}). "
            "Too much of the volume would be invented; fetch the complete series from the archive."
        )
    if not on_grid and len(along) < 4:
        raise InputError(
            f"{name}: irregular slice spacing, {gaps.min():.2f} to {gaps.max():.2f} mm between {len(along)} "
            "slices. "
            "Fetch the complete series from the archive."
        )
    if on_grid:
        step = float((along[-1] - along[0]) / (total - 1))
        where = ", ".join(f"{i + 1}" for i in np.flatnonzero(holes)[:8])
        note = (
            f"{counted(missing, 'slice is', 'slices are')} missing (after slice {where} of those present) "
            "and interpolated from the neighbours"
        )
    else:
        count = max(2, round(float(along[-1] - along[0]) / step) + 1)
        step = float((along[-1] - along[0]) / (count - 1))
        note = (
            f"irregular slice spacing ({gaps.min():.2f} to {gaps.max():.2f} mm); resampled to one slice "
            f"every {step:.2f} mm"
        )
    return step, (along - along[0]) / step, note


def _shifts(
    sideways: Array, along: Array, in_plane: tuple[float, float], name: str
) -> tuple[Array | None, str, tuple[Array, tuple[int, int]]]:
    """Sideways offsets of the slices in pixels, a note, and how the grid grows (first index, added)."""
    nothing = (np.zeros(2), (0, 0))
    offsets = sideways - sideways[0]
    drift = float(np.linalg.norm(offsets[-1]))
    height = float(along[-1] - along[0])
    tilt = float(np.degrees(np.arctan2(drift, height)))
    largest = float(np.linalg.norm(offsets, axis=1).max())
    if largest <= max(_IN_PLANE_TOLERANCE_MM, 0.5 * min(in_plane)):
        return None, "", nothing
    line = np.outer((along - along[0]) / height, offsets[-1])
    if np.abs(offsets - line).max() > max(_IN_PLANE_TOLERANCE_MM, 0.5 * min(in_plane)):
        raise InputError(
            f"{name}: the slices are shifted against each other by up to {largest:.1f} mm, and not along a "
            "line. "
            "They are no stack; choose another series."
        )
    if tilt > 45:
        raise InputError(
            f"{name}: the slices are stacked at {tilt:.0f} degrees to their normal. Choose another series."
        )
    pixels = offsets / np.array(in_plane)
    low, high = (
        np.floor(pixels.min(axis=0) + 1e-6).clip(max=0),
        np.ceil(pixels.max(axis=0) - 1e-6).clip(min=0),
    )
    note = f"gantry tilt of {tilt:.1f} degrees; resampled to an upright grid"
    added = high - low
    return pixels - low, note, (low, (int(added[0]), int(added[1])))
