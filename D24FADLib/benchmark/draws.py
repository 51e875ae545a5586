"""Which images are supports and which are tested: drawn by a seed, the same for every method."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from D24FADLib.benchmark.datasets import Task
from D24FADLib.errors import InputError


@dataclass(frozen=True)
class Trial:
    """The images of one task's test. supports: one tuple a draw; K shots are its first K."""

    task: Task
    supports: tuple[tuple[Path, ...], ...]
    normal: tuple[Path, ...]
    abnormal: tuple[Path, ...]
    spare_abnormal: tuple[Path, ...]  # not tested: where contaminated supports come from

    @property
    def queries(self) -> tuple[Path, ...]:
        return self.normal + self.abnormal

    @property
    def labels(self) -> np.ndarray:
        """1 for abnormal, in the order of `queries`."""
        return np.repeat([0, 1], [len(self.normal), len(self.abnormal)])


def draw(task: Task, *, shots: int, draws: int, images: int | None, seed: int) -> Trial:
    """Supports from the task's training normals, and at most `images` test images a class (None: all).

    The draws share no image as long as there are enough; where there are not, each draw is without
    repetition but draws may overlap. A task's draws do not depend on the other tasks.
    """
    if len(task.train) < shots:
        raise InputError(
            f"{task.name}: {len(task.train)} training normals, but {shots} supports are asked for; "
            "lower --shots"
        )
    rng = np.random.default_rng([seed, zlib.crc32(task.name.encode())])

    def shuffled(paths: Sequence[Path]) -> list[Path]:
        return [paths[int(i)] for i in rng.permutation(len(paths))]

    pool = shuffled(task.train)
    if len(pool) >= shots * draws:
        supports = [tuple(pool[i * shots : (i + 1) * shots]) for i in range(draws)]
    else:
        supports = [tuple(shuffled(task.train)[:shots]) for _ in range(draws)]
    normal, abnormal = shuffled(task.normal), shuffled(task.abnormal)
    kept = images if images is not None else max(len(normal), len(abnormal))
    return Trial(
        task=task,
        supports=tuple(supports),
        normal=tuple(sorted(normal[:kept])),
        abnormal=tuple(sorted(abnormal[:kept])),
        spare_abnormal=tuple(abnormal[kept:]),
    )
