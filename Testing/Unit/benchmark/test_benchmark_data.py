from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from D24FADLib.benchmark.datasets import read_official, read_tasks, select, without_organ
from D24FADLib.benchmark.draws import draw
from D24FADLib.benchmark.probe import best_shortcut
from D24FADLib.errors import InputError


def test_tasks_masks_and_organs(miniature: Path) -> None:
    tasks = {t.name: t for t in read_tasks(miniature)}
    assert {t.organ for t in tasks.values()} == {"leg", "arm"}
    ankle = tasks["ankle"]
    assert (len(ankle.train), len(ankle.normal), len(ankle.abnormal)) == (10, 6, 7)
    assert {m.stem for m in ankle.masks.values()} == {p.stem for p in ankle.abnormal}


def test_organs_of_one_kind_leave_together(miniature: Path) -> None:
    tasks = read_tasks(miniature)
    ankle = next(t for t in tasks if t.name == "ankle")
    assert [t.name for t in without_organ(tasks, ankle)] == ["wrist"]
    with pytest.raises(InputError, match="no other organ"):
        without_organ([t for t in tasks if t.organ == "leg"], ankle)


def test_unknown_task_names_those_that_exist(miniature: Path) -> None:
    with pytest.raises(InputError, match=r"elbow.*ankle, foot, wrist"):
        select(read_tasks(miniature), ["elbow"])


def test_draws_are_disjoint_reproducible_and_apart_from_the_test(miniature: Path) -> None:
    task = read_tasks(miniature)[0]
    trial = draw(task, shots=2, draws=5, images=4, seed=7)
    supports = [p for paths in trial.supports for p in paths]
    assert len(set(supports)) == 10
    assert set(supports) <= set(task.train)
    assert len(trial.normal) == len(trial.abnormal) == 4
    assert not set(trial.spare_abnormal) & set(trial.queries)
    assert trial.labels.tolist() == [0] * 4 + [1] * 4
    assert draw(task, shots=2, draws=5, images=4, seed=7) == trial
    assert draw(task, shots=2, draws=5, images=4, seed=8).supports != trial.supports


def test_fewer_normals_than_draws_ask_for(miniature: Path) -> None:
    task = read_tasks(miniature)[0]
    trial = draw(task, shots=4, draws=5, images=None, seed=7)
    assert all(len(set(paths)) == 4 for paths in trial.supports)
    assert len(set(trial.supports)) == 5
    with pytest.raises(InputError, match="ankle: 10 training normals"):
        draw(task, shots=11, draws=1, images=None, seed=7)


def test_official_layout(official: Path) -> None:
    tasks = {t.name: t for t in read_official(official)}
    assert list(tasks) == ["HIS", "LAG", "APTOS", "RSNA", "Brain_Tumor"]
    assert len(tasks["LAG"].abnormal) == 4  # test/ungood
    assert [len(p) for p in tasks["RSNA"].fixed_supports.values()] == [2]
    # train/good only: the prescribed supports are not trained on
    assert len(tasks["RSNA"].train) == 6
    assert {p.parent.name for t in tasks.values() for p in t.train} == {"good"}


def test_official_layout_with_a_set_missing(official: Path, tmp_path: Path) -> None:
    shutil.copytree(official, tmp_path / "data")
    shutil.rmtree(tmp_path / "data" / "APTOS")
    with pytest.raises(InputError, match="APTOS missing"):
        read_official(tmp_path / "data")


def test_probe_sees_the_shortcut(miniature: Path) -> None:
    task = read_tasks(miniature)[0]
    trial = draw(task, shots=2, draws=1, images=None, seed=0)
    _, auroc = best_shortcut(trial.queries, trial.labels)
    assert auroc == 1.0  # the blobs are bright
