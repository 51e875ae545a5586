"""The command from end to end on miniature data sets."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from D24FADLib.benchmark import students as training
from D24FADLib.cli import main


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


def command(data: Path, output: Path, model: Path | str, cache: Path) -> list[str]:
    """A small run; later arguments win."""
    paths = ["benchmark", str(data), "--output", str(output), "--model", str(model), "--cache", str(cache)]
    return [*paths, *["--images", "4", "--sizes", "64", "--train-steps", "2", "--runtime", "torch"]]


@pytest.fixture(scope="module")
def finished(
    miniature: Path, small_model: Path, cache: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, dict[str, Any]]:
    output = tmp_path_factory.mktemp("benchmark") / "out"
    paths = command(miniature, output, small_model, cache)
    chosen = "--tasks ankle wrist --shots 2 4 --draws 2 --contaminate"
    code = main([*paths, *chosen.split()])
    assert code == 0
    return output, json.loads((output / "benchmark.json").read_text(encoding="utf-8"))


def test_all_outputs_are_there(finished: tuple[Path, dict[str, Any]]) -> None:
    output, content = finished
    assert {p.name for p in output.iterdir()} == {
        "benchmark.md", "benchmark.csv", "benchmark.json", "figures",
    }  # fmt: skip
    figures = {p.stem for p in (output / "figures").iterdir()}
    assert figures == {"score_distributions", "accuracy_and_cost", "student_features", "example_maps"}
    for path in (output / "figures").iterdir():
        with Image.open(path) as image:
            assert len(set(image.convert("L").tobytes())) > 50
    assert content["seed"] == 111
    assert content["environment"]["packages"]["torch"]


def test_every_method_has_every_draw(finished: tuple[Path, dict[str, Any]]) -> None:
    output, content = finished
    rows = content["images"]["rows"]
    keys = {(r["task"], r["method"], r["shots"], r["draw"]) for r in rows}
    methods = {r["method"] for r in rows}
    assert {"shipped", "d24fad (paper)", "d24fad, uniform weights", "d24fad, mean logits", "rd4ad"} <= methods
    assert sum(m.startswith("patchcore") for m in methods) == 4
    assert len(keys) == 2 * len(methods) * 2 * 2
    assert all(0 <= r["auroc"] <= 1 for r in rows)
    with (output / "benchmark.csv").open(encoding="utf-8") as file:
        table = list(csv.DictReader(file))
    assert {r["method"] for r in table} == methods
    assert len(table) == len({(r["task"], r["method"], r["shots"], r["score"]) for r in rows})
    first = table[0]
    per_draw = [
        r["auroc"] for r in rows if all(str(r[k]) == first[k] for k in ("task", "method", "shots", "score"))
    ]
    assert float(first["auroc"]) == pytest.approx(sum(per_draw) / len(per_draw), abs=1e-5)


def test_bright_blobs_are_found_and_localised(finished: tuple[Path, dict[str, Any]]) -> None:
    _, content = finished
    best = max(
        (r for r in content["images"]["pixels"] if r["method"].startswith("patchcore") and r["shots"] == 4),
        key=lambda r: r["pixel_auroc"],
    )
    assert best["pixel_auroc"] > 0.85
    assert best["dice"] <= best["dice_oracle"]


def test_no_image_of_the_tested_organ_is_trained_on(
    miniature: Path, small_model: Path, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the files that training reads, not by what the benchmark says about itself."""
    read: list[Path] = []
    original = training.load_pictures

    def watched(folder: Path, *args: Any) -> Any:
        read.append(folder)
        return original(folder, *args)

    monkeypatch.setattr(training, "load_pictures", watched)
    chosen = "--tasks ankle --shots 2 --draws 1 --methods shipped d24fad"
    paths = command(miniature, tmp_path / "out", small_model, tmp_path / "cache")
    assert main([*paths, *chosen.split()]) == 0
    # ankle and foot are of one organ
    assert {folder.parent.name for folder in read} == {"wrist"}
    assert {folder.name for folder in read} == {"train_normal"}


def test_the_same_seed_gives_the_same_figures(
    finished: tuple[Path, dict[str, Any]], miniature: Path, small_model: Path, cache: Path, tmp_path: Path
) -> None:
    _, content = finished
    chosen = "--tasks wrist --shots 2 4 --draws 2 --methods d24fad patchcore"
    assert main([*command(miniature, tmp_path, small_model, cache), *chosen.split()]) == 0
    again = json.loads((tmp_path / "benchmark.json").read_text(encoding="utf-8"))["images"]["rows"]
    before = {tuple(r[k] for k in ("task", "method", "shots", "draw", "score")): r["auroc"]
              for r in content["images"]["rows"]}  # fmt: skip
    assert again
    for row in again:
        assert row["auroc"] == before[tuple(row[k] for k in ("task", "method", "shots", "draw", "score"))]


def test_contamination_compares_the_same_queries(finished: tuple[Path, dict[str, Any]]) -> None:
    _, content = finished
    rows = content["images"]["contamination"]
    assert {r["method"] for r in rows} == {"shipped", "d24fad (paper)", "d24fad, mean logits"}
    assert len(rows) == 2 * 3 * 2
    for row in rows:
        assert row["auroc_loss"] == pytest.approx(row["auroc"] - row["auroc_contaminated"], abs=2e-6)
        assert 0 < row["bad_weight"] < 1


def test_a_model_that_has_seen_the_task_is_refused(
    miniature: Path, small_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for task in ("ankle", "wrist"):
        folder = tmp_path / f"without-{task}"
        folder.mkdir()
        for part in small_model.iterdir():
            (folder / part.name).symlink_to(part)
        (folder / "configs").unlink()
        (folder / "configs").mkdir()
        about = json.loads((small_model / "configs" / "metadata.json").read_text(encoding="utf-8"))
        about["d24fad"]["training"] = {"normal_images": {"ankle": 10}}
        (folder / "configs" / "metadata.json").write_text(json.dumps(about), encoding="utf-8")
    paths = command(miniature, tmp_path / "out", tmp_path / "without-{task}", tmp_path / "cache")
    base = [*paths, *["--shots", "2", "--draws", "1", "--methods", "shipped"]]
    assert main([*base, "--tasks", "ankle"]) == 2
    assert "without-ankle: was trained on ankle" in capsys.readouterr().err
    assert main([*base, "--tasks", "wrist"]) == 0


def test_the_papers_protocol(official: Path, small_model: Path, tmp_path: Path) -> None:
    paths = ["--data", str(official), "--output", str(tmp_path / "out"), "--cache", str(tmp_path / "cache")]
    options = ["--protocol", "paper", "--shots", "2", "--train-steps", "2"]
    code = main(["benchmark", *paths, "--model", str(small_model), *options])
    assert code == 0
    rows = json.loads((tmp_path / "out" / "benchmark.json").read_text(encoding="utf-8"))["paper"]
    assert len(rows) == 5 * 2 * 2
    for row in rows:
        assert 0 <= row["auroc_percent"] <= 100
        assert len(row["trained_on"]) == 4
        assert row["data set"] not in row["trained_on"]
    text = (tmp_path / "out" / "benchmark.md").read_text(encoding="utf-8")
    assert "| method | shots | score | HIS | LAG | APTOS | RSNA | Brain_Tumor | mean |" in text


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "give DATA"),
        (["{data}", "--tasks", "elbow"], "no such task"),
        (["{data}", "--methods", "magic"], "--methods magic"),
        (["{data}", "--shots", "0"], "--shots"),
        (["{data}", "--sizes", "100"], "--sizes"),
        (["{data}/nowhere"], "no such folder"),
        (["--protocol", "paper", "--data", "{data}"], "HIS, LAG, APTOS, RSNA, Brain_Tumor missing"),
    ],
)
def test_bad_input(
    arguments: list[str], said: str, miniature: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    filled = [a.replace("{data}", str(miniature)) for a in arguments]
    assert main(["benchmark", *filled, "--output", str(tmp_path / "out")]) == 2
    assert said in capsys.readouterr().err
