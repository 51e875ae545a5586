"""The paper's own protocol: train on four of the five data sets, test on the fifth, at 128 pixels."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

from sklearn.metrics import roc_auc_score

from D24FADLib.benchmark.datasets import Task, without_organ
from D24FADLib.benchmark.distillation import StudentMethod
from D24FADLib.benchmark.draws import draw
from D24FADLib.benchmark.features import FeatureStore, TeacherBlocks
from D24FADLib.benchmark.methods import D24FAD, UNIFORM
from D24FADLib.benchmark.students import PAPER_SIZE, Students, paper
from D24FADLib.network.model import D24FADModel

EPOCHS, BATCH = 70, 16
Row = dict[str, Any]
Progress = Callable[[str, int, int], None]


def run(
    tasks: Sequence[Task],
    students: Students,
    store: FeatureStore,
    shots: Sequence[int],
    *,
    steps: int | None,
    seed: int,
    progress: Progress,
) -> list[Row]:
    """AUROC in percent by data set, shots, method and score (max, the official code; mean, the text).

    One training for each number of shots, all test images, the supports that the data set prescribes
    (train/shotK/goodK) or else a seeded draw. steps: None for the paper's 70 epochs. Unlike the
    official code, no epoch is chosen by the test set: the last one counts.
    """
    rows: list[Row] = []
    for task in tasks:
        seen = without_organ(tasks, task)
        wanted = steps or EPOCHS * math.ceil(sum(len(t.train) for t in seen) / BATCH)
        for k in shots:
            named = partial(progress, f"training without {task.name}, {k}-shot")
            trained = students.train(paper(wanted, seed, (k,)), seen, named)
            for method, score, auroc in _test(task, k, trained.model, students, store, seed, progress):
                rows.append(
                    {
                        "data set": task.name,
                        "shots": k,
                        "method": method,
                        "score": score,
                        "auroc_percent": 100 * auroc,
                        "steps": wanted,
                        "trained_on": [t.name for t in seen],
                    }
                )
    return rows


def _test(
    task: Task,
    shots: int,
    model: D24FADModel,
    students: Students,
    store: FeatureStore,
    seed: int,
    progress: Progress,
) -> Iterator[tuple[str, str, float]]:
    """Method, score and AUROC on all test images of one data set."""
    encoder = TeacherBlocks(students.teacher, students.teacher_sha256, PAPER_SIZE)
    trial = draw(task, shots=shots, draws=1, images=None, seed=seed)
    supports = store.load(encoder, task.fixed_supports.get(shots, trial.supports[0]))
    query = store.load(encoder, trial.queries, partial(progress, f"{task.name}: features"))
    methods = (
        StudentMethod(D24FAD, encoder, model),
        StudentMethod(UNIFORM, encoder, model, "uniform"),
    )
    for method in methods:
        scores = method.judge(query, supports, [len(supports[0])])[len(supports[0])].scores()
        for score in ("max", "mean"):
            yield method.name, score, float(roc_auc_score(trial.labels, scores[score]))
