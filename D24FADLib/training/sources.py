"""The folders of a training: which tasks there are, and their normals as image sets."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from D24FADLib.errors import InputError
from D24FADLib.training.images import PICTURE_SUFFIXES, ImageSet, find_pictures, load_pictures
from D24FADLib.training.volumes import VOLUME_SUFFIXES, VolumeOptions, find_volumes, load_slices


def find_tasks(data: Sequence[Path], leave_out: Sequence[str] = ()) -> dict[str, Path]:
    """Folder of normals by task. A task is a folder of pictures or volumes, or has them in `train_normal`.

    data: tasks, or folders of tasks. Raises InputError for a folder without any, for two tasks of one name
    and where a left-out one does not exist.
    """
    tasks: dict[str, Path] = {}
    for folder in data:
        if not folder.is_dir():
            raise InputError(f"{folder.name}: no such folder of training data")
        candidates = [folder, *(p for p in sorted(folder.iterdir()) if p.is_dir())]
        found = {p.name: normals for p in candidates if (normals := _normals(p)) is not None}
        if folder.name in found:  # a task itself: what lies below belongs to it
            found = {folder.name: found[folder.name]}
        if twice := tasks.keys() & found.keys():
            raise InputError(f"{', '.join(sorted(twice))}: two folders of this name; rename one")
        tasks |= found
    if unknown := set(leave_out) - tasks.keys():
        names = ", ".join(folder.name for folder in data)
        raise InputError(f"--leave-out {', '.join(sorted(unknown))}: no such task in {names}")
    kept = {name: folder for name, folder in tasks.items() if name not in leave_out}
    if not kept:
        raise InputError(
            f"{', '.join(folder.name for folder in data)}: holds no folders of normals (expected TASK/ or "
            f"TASK/train_normal/ with {', '.join((*PICTURE_SUFFIXES, *VOLUME_SUFFIXES))} or DICOM folders)"
        )
    return kept


def _normals(task: Path) -> Path | None:
    inner = task / "train_normal"
    if inner.is_dir():
        return inner
    return task if find_pictures(task) or find_volumes(task) else None


def load_task(
    folder: Path,
    task: str,
    size: int,
    volumes: VolumeOptions,
    cache: Path,
    warn: Callable[[str], None] = lambda text: None,
) -> ImageSet:
    """The normals of a task at one input size; InputError for pictures and volumes in one folder."""
    found = find_volumes(folder)
    if found and find_pictures(folder):
        raise InputError(f"{task}: holds pictures and volumes; put them into two folders")
    return (
        load_slices(found, task, size, volumes, cache, warn) if found else load_pictures(folder, task, size)
    )
