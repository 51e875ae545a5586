"""Splitting a series into stacks: images of one kind that form, or could form, one volume.

A series may mix orientations (a localizer), echoes, phases, time points, acquisitions or image types
(magnitude and phase, DIXON). What differs in matrix, spacing, orientation or frame of reference never
belongs together. What lies at the same position is told apart by the first attributes that do so.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from ..references.traits import plane_of
from .frames import Frame

_KEY_ORDER = (
    "stack",
    "image type",
    "complex component",
    "echo time",
    "echo",
    "b value",
    "inversion time",
    "flip angle",
    "phase",
    "trigger time",
    "cardiac phase",
    "acquisition",
    "acquisition time",
    "content time",
)
_POSITION_STEP_MM = 0.01


@dataclass(frozen=True)
class Stack:
    """Frames of one kind. `label` says what sets it apart within its series, "" for the only stack."""

    frames: tuple[Frame, ...]
    label: str = ""
    duplicates: int = 0

    def __len__(self) -> int:
        return len(self.frames)


def split(frames: Iterable[Frame]) -> list[Stack]:
    """The stacks of a series, the largest first; copies of an instance are dropped and counted."""
    unique, copies = _without_copies(frames)
    stacks: list[Stack] = []
    hard = _grouped(unique, _hard_key)
    for group in hard:
        for label, members in _split_by_keys(group):
            kept, doubles = _one_per_position(members)
            stacks.append(Stack(tuple(kept), label, doubles))
    stacks.sort(key=lambda stack: (-len(stack), stack.frames[0].instance_number, stack.frames[0].number))
    if copies and stacks:
        stacks[0] = Stack(stacks[0].frames, stacks[0].label, stacks[0].duplicates + copies)
    return _labelled(stacks, len(hard) > 1)


def plane_name(frame: Frame) -> str:
    """axial, sagittal or coronal by the slice normal, "oblique" between them, "" without orientation."""
    if frame.orientation is None:
        return ""
    return plane_of(np.cross(frame.orientation[:3], frame.orientation[3:]))


def _without_copies(frames: Iterable[Frame]) -> tuple[list[Frame], int]:
    """Each instance once: files copied under another name carry the same SOPInstanceUID."""
    seen: set[tuple[str, int]] = set()
    kept: list[Frame] = []
    copies = 0
    for frame in sorted(frames, key=lambda f: (f.path, f.number)):
        key = (frame.sop_instance_uid or frame.path, frame.number)
        copies += key in seen
        if key not in seen:
            seen.add(key)
            kept.append(frame)
    return kept, copies


def _grouped(frames: Sequence[Frame], key: Callable[[Frame], Hashable]) -> list[list[Frame]]:
    groups: dict[Hashable, list[Frame]] = {}
    for frame in frames:
        groups.setdefault(key(frame), []).append(frame)
    return list(groups.values())


def _hard_key(frame: Frame) -> Hashable:
    orientation = None if frame.orientation is None else tuple(round(v, 2) + 0.0 for v in frame.orientation)
    spacing = None if frame.spacing is None else tuple(round(v, 3) for v in frame.spacing)
    placed = orientation is not None and frame.position is not None
    # An image without a place in the patient stands for itself.
    alone = None if placed else (frame.sop_instance_uid or frame.path, frame.number)
    return (
        frame.rows,
        frame.columns,
        frame.samples,
        spacing,
        orientation,
        frame.frame_of_reference_uid,
        alone,
    )


def _position_key(frame: Frame) -> Hashable:
    if frame.position is None:
        return None
    return tuple(round(v / _POSITION_STEP_MM) for v in frame.position)


def _doubles(frames: Sequence[Frame]) -> int:
    return len(frames) - len({_position_key(frame) for frame in frames})


def _split_by_keys(frames: list[Frame]) -> list[tuple[str, list[Frame]]]:
    """Groups with as few images as possible at one position, and what names each group."""
    used: list[str] = []
    doubles = _doubles(frames)
    for key in _KEY_ORDER:
        if not doubles:
            break
        values = {frame.keys.get(key, "") for frame in frames}
        if len(values) < 2:
            continue
        left = sum(_doubles(group) for group in _grouped(frames, _key_of((*used, key))))
        if left < doubles and _even(frames, (*used, key)):
            used.append(key)
            doubles = left
    if doubles:
        passes = _passes(frames, used)
        if passes is not None:
            return passes
    if not used:
        return [("", frames)]
    groups = _grouped(frames, _key_of(tuple(used)))
    return [(_name(group[0], used), group) for group in groups]


def _positions(frames: Sequence[Frame]) -> set[Hashable]:
    return {_position_key(frame) for frame in frames}


def _even(frames: Sequence[Frame], keys: tuple[str, ...]) -> bool:
    """True unless the keys shatter the frames into many groups that miss most of the positions."""
    groups = _grouped(frames, _key_of(keys))
    typical = float(np.median([len(_positions(group)) for group in groups]))
    return typical >= 0.5 * len(_positions(frames)) or len(groups) <= 4


def _key_of(keys: tuple[str, ...]) -> Callable[[Frame], Hashable]:
    return lambda frame: tuple(frame.keys.get(key, "") for key in keys)


def _name(frame: Frame, keys: Sequence[str]) -> str:
    units = {"echo time": " ms", "inversion time": " ms", "trigger time": " ms", "flip angle": " degrees"}
    return ", ".join(f"{key} {frame.keys.get(key, '') or 'not given'}{units.get(key, '')}" for key in keys)


def _passes(frames: list[Frame], used: Sequence[str]) -> list[tuple[str, list[Frame]]] | None:
    """Several images at every position, and only their numbers tell them apart: one stack per pass."""
    result: list[tuple[str, list[Frame]]] = []
    for group in _grouped(frames, _key_of(tuple(used))):
        by_position = _grouped(group, _position_key)
        counts = {len(members) for members in by_position}
        if len(counts) != 1 or len(by_position) < 2:
            return None
        ordered = [sorted(m, key=lambda f: (f.instance_number, f.number, f.path)) for m in by_position]
        prefix = _name(group[0], used)
        for index in range(counts.pop()):
            label = f"pass {index + 1}"
            result.append(
                (f"{prefix}, {label}" if prefix else label, [members[index] for members in ordered])
            )
    return result


def _one_per_position(frames: list[Frame]) -> tuple[list[Frame], int]:
    """The first image (by instance number) at each position, and how many others there were."""
    if any(frame.position is None for frame in frames):
        return frames, 0
    kept: dict[Hashable, Frame] = {}
    for frame in sorted(frames, key=lambda f: (f.instance_number, f.number, f.path)):
        kept.setdefault(_position_key(frame), frame)
    return list(kept.values()), len(frames) - len(kept)


def _labelled(stacks: list[Stack], several_kinds: bool) -> list[Stack]:
    if len(stacks) == 1:
        return [Stack(stacks[0].frames, "", stacks[0].duplicates)]
    if not several_kinds:
        return stacks
    result = []
    for stack in stacks:
        first = stack.frames[0]
        matrix = f"{first.columns} x {first.rows}"
        parts = [plane_name(first), matrix, stack.label]
        result.append(Stack(stack.frames, ", ".join(part for part in parts if part), stack.duplicates))
    return result
