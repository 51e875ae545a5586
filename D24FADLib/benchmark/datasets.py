"""The data sets that the benchmark reads: folders of tasks, or the paper's five in their official layout."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from D24FADLib.errors import InputError
from D24FADLib.training.images import find_pictures

# The tasks of the published table. The histology set is training variety only: one global number
# separates its classes.
PUBLISHED_TASKS = (
    "brain_mri_tumor",
    "breast_us_busi",
    "chest_ct_covid",
    "cxr_pediatric_pneumonia",
    "fundus_glaucoma",
    "head_ct_hemorrhage",
)
OFFICIAL_SETS = ("HIS", "LAG", "APTOS", "RSNA", "Brain_Tumor")
# Names that mean one organ: a brain left out of training means no head either.
_SAME_ORGAN = {"head": "brain"}


@dataclass(frozen=True)
class Task:
    """One data set: a folder of normals to draw supports from and to train on, and labelled test images.

    masks: file of the pixel mask by abnormal test image, where there are any. organ: tasks of one organ
    are left out of training together. fixed_supports: supports by number of shots where the data set
    prescribes them.
    """

    name: str
    organ: str
    train_folder: Path
    train: tuple[Path, ...]
    normal: tuple[Path, ...]
    abnormal: tuple[Path, ...]
    masks: dict[Path, Path] = field(default_factory=dict)
    fixed_supports: dict[int, tuple[Path, ...]] = field(default_factory=dict)

    @property
    def has_test(self) -> bool:
        return bool(self.normal and self.abnormal)


def read_tasks(data: Path) -> list[Task]:
    """Tasks of DATA/TASK/{train_normal,test_normal,test_abnormal,masks}; a mask has its image's stem.

    A task without test images serves training only. Organs come from MANIFEST.csv (columns
    task_or_volume, organ) in DATA or the folder above it; without it every task is its own organ.
    Raises InputError where DATA is no such folder.
    """
    if not data.is_dir():
        raise InputError(f"{data.name}: no such folder of benchmark data")
    organs = _organs(data)
    tasks = []
    for folder in sorted(p for p in data.iterdir() if (p / "train_normal").is_dir()):
        abnormal = _images(folder / "test_abnormal")
        by_stem = {p.stem: p for p in _images(folder / "masks")}
        tasks.append(
            Task(
                name=folder.name,
                organ=organs.get(folder.name, folder.name),
                train_folder=folder / "train_normal",
                train=_normals(folder / "train_normal"),
                normal=_images(folder / "test_normal"),
                abnormal=abnormal,
                masks={p: by_stem[p.stem] for p in abnormal if p.stem in by_stem},
            )
        )
    if not tasks:
        raise InputError(
            f"{data.name}: holds no tasks (expected DATA/TASK/train_normal, test_normal and test_abnormal)"
        )
    return tasks


def read_official(root: Path) -> list[Task]:
    """The paper's data sets: ROOT/SET/{train/good,test/good,test/<anything else>}.

    Set names are matched without regard to case and underscores, as the official README and code spell
    them differently. Prescribed supports lie in train/shotK/goodK, as the official test reads them.
    Raises InputError naming what is missing; all five are needed, as each is tested by training on the
    other four.
    """
    if not root.is_dir():
        raise InputError(f"{root.name}: no such folder of data sets")
    folders = {_plain(p.name): p for p in root.iterdir() if p.is_dir()}
    if absent := [name for name in OFFICIAL_SETS if _plain(name) not in folders]:
        raise InputError(
            f"{root.name}: {', '.join(absent)} missing; the paper's protocol needs all of "
            f"{', '.join(OFFICIAL_SETS)}, each as SET/train/good, SET/test/good and SET/test/bad"
        )
    return [_official_task(name, folders[_plain(name)]) for name in OFFICIAL_SETS]


def _official_task(name: str, folder: Path) -> Task:
    train = folder / "train" / "good"
    tests = sorted(p for p in (folder / "test").iterdir() if p.is_dir()) if (folder / "test").is_dir() else []
    normal = _images(folder / "test" / "good")
    abnormal = tuple(image for part in tests if part.name != "good" for image in _images(part))
    if not normal or not abnormal:
        raise InputError(f"{name}: test/good and test/bad must both hold images")
    fixed = {}
    for shots in sorted(folder.glob("train/shot*")):
        number = shots.name.removeprefix("shot")
        images = _images(shots / f"good{number}")
        if number.isdigit() and images:
            fixed[int(number)] = images
    return Task(name, name, train, _normals(train), normal, abnormal, fixed_supports=fixed)


def select(tasks: Sequence[Task], names: Sequence[str] | None) -> list[Task]:
    """The tasks to test: those named, or the published ones, or else all with test images."""
    testable = {task.name: task for task in tasks if task.has_test}
    if names:
        if unknown := [name for name in names if name not in testable]:
            raise InputError(
                f"--tasks {', '.join(unknown)}: no such task with test images; there are "
                f"{', '.join(testable) or 'none'}"
            )
        return [testable[name] for name in names]
    published = [testable[name] for name in PUBLISHED_TASKS if name in testable]
    if not testable:
        raise InputError("no task has test images (TASK/test_normal and TASK/test_abnormal)")
    return published or list(testable.values())


def without_organ(tasks: Sequence[Task], tested: Task) -> list[Task]:
    """What may be trained on when `tested` is tested: nothing of its organ."""
    rest = [task for task in tasks if task.name != tested.name and task.organ != tested.organ]
    if not rest:
        raise InputError(f"{tested.name}: no other organ is left to train on; add tasks of other organs")
    return rest


def _organs(data: Path) -> dict[str, str]:
    for manifest in (data / "MANIFEST.csv", data.parent / "MANIFEST.csv"):
        if manifest.is_file():
            with manifest.open(newline="", encoding="utf-8") as file:
                rows = [(r.get("task_or_volume"), r.get("organ")) for r in csv.DictReader(file)]
            return {task: _SAME_ORGAN.get(organ, organ) for task, organ in rows if task and organ}
    return {}


def _normals(folder: Path) -> tuple[Path, ...]:
    """Normals to draw supports from and to train on; InputError if there are fewer than two."""
    pictures = _images(folder)
    if len(pictures) < 2:
        raise InputError(f"{folder.parent.name}: {folder.name} must hold at least two images of normals")
    return pictures


def _images(folder: Path) -> tuple[Path, ...]:
    return tuple(find_pictures(folder)) if folder.is_dir() else ()


def _plain(name: str) -> str:
    return name.replace("_", "").lower()
