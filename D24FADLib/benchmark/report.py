"""benchmark.md, benchmark.csv and benchmark.json."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from D24FADLib.benchmark.images import ImageResults, example_shots
from D24FADLib.benchmark.methods import D24FAD, SHIPPED
from D24FADLib.benchmark.summary import (
    Setting,
    best_training_free,
    contamination_summary,
    fixed,
    settings,
    table,
)
from D24FADLib.benchmark.volumes import VolumeResults

Row = dict[str, Any]
NAMES = {"patchcore": "PatchCore, best fixed setting", "padim": "PaDiM, best fixed setting"}


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Not-a-numbers become null."""
    path.write_text(json.dumps(_plain(content), indent=1) + "\n", encoding="utf-8")


def write_csv(path: Path, rows: Sequence[Row]) -> None:
    columns = list(dict.fromkeys(name for row in rows for name in row))
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(
            {k: round(v, 5) if isinstance(v, float) else v for k, v in row.items()} for row in rows
        )


def image_sections(results: ImageResults, shots: Sequence[int]) -> list[str]:
    tasks = list(results.labels)
    counts = ", ".join(f"{t} {(v == 0).sum()} + {(v == 1).sum()}" for t, v in results.labels.items())
    draws = len({row["draw"] for row in results.rows})
    lines = [
        "## Image AUROC, each organ left out of training",
        "",
        f"Mean of {draws} support draws; after the mean of the tasks its 95 % interval over draws, then the "
        "standard deviation over draws (mean of the tasks). Test images (normal + abnormal): "
        f"{counts}. Score: what of the map is the image's score. Settings of the baselines are the best on "
        "these very tasks; the shipped configuration has no such choice.",
        "",
    ]
    for k in shots:
        lines += [f"### {k} shots", "", *_auroc_table(results, tasks, fixed(settings(results, k))), ""]
    example = example_shots(shots)
    lines += _comparison(fixed(settings(results, example)), example)
    lines += _intervals(results, example)
    lines += _pixel_section(results, example)
    lines += _contamination_section(results)
    lines += _cost_section(results, example)
    lines += _all_settings(results, tasks, example)
    return lines


def _auroc_table(results: ImageResults, tasks: Sequence[str], chosen: dict[str, Setting]) -> list[str]:
    rows = []
    for family, setting in sorted(chosen.items(), key=lambda item: -item[1].mean):
        low, high = setting.interval
        cells = [_f(np.mean(setting.by_task[t])) for t in tasks]
        rows.append(
            [_bold(_label(family, setting), family == SHIPPED), setting.score, *cells, _f(setting.mean),
             f"{_f(low)} to {_f(high)}", _f(setting.spread)]
        )  # fmt: skip
    if results.probes:
        aurocs = {row["task"]: row for row in results.probes}
        cells = [f"{_f(aurocs[t]['auroc'])} ({aurocs[t]['number']})" for t in tasks]
        mean = np.mean([aurocs[t]["auroc"] for t in tasks])
        rows.append(["one-number probe (no method: the shortcut)", "", *cells, _f(mean), "", ""])
    head = ["method", "score", *tasks, "mean", "95 % over draws", "sd"]
    return markdown_table(head, rows)


def _comparison(chosen: dict[str, Setting], shots: int) -> list[str]:
    """The shipped configuration against the best training-free baseline and the paper's."""
    if SHIPPED not in chosen:
        return []
    ours, rows = chosen[SHIPPED], []
    for name, other in (("best training-free baseline", best_training_free(chosen)),
                        ("the paper's configuration", chosen.get(D24FAD))):  # fmt: skip
        if other is not None:
            worst = min(
                ((float(np.mean(ours.by_task[t]) - np.mean(other.by_task[t]))), t) for t in ours.by_task
            )
            rows.append(
                [f"{name} ({other.method}, {other.score})", _f(other.mean), f"{ours.mean - other.mean:+.3f}",
                 f"{worst[0]:+.3f} ({worst[1]})"]
            )  # fmt: skip
    head = [
        f"shipped, {shots} shots: {_f(ours.mean)}",
        "its mean AUROC",
        "ours minus it",
        "smallest on a task",
    ]
    return [*markdown_table(head, rows), ""] if rows else []


def _intervals(results: ImageResults, shots: int) -> list[str]:
    chosen = {(s.method, s.score) for s in fixed(settings(results, shots)).values()}
    rows = [
        [r["task"], r["method"], r["score"], _f(r["auroc"]),
         f"{_f(r['auroc_draws_low'])} to {_f(r['auroc_draws_high'])}",
         f"{_f(r['auroc_images_low'])} to {_f(r['auroc_images_high'])}", _f(r["auprc"]),
         _f(r["sensitivity_at_90"])]
        for r in table(results)
        if r["shots"] == shots and (r["method"], r["score"]) in chosen
    ]  # fmt: skip
    rows.sort(key=lambda r: (r[0], -float(r[3])))
    head = ["task", "method", "score", "AUROC", "95 % over draws", "95 % over images (bootstrap)", "AUPRC",
            "sensitivity at 90 % specificity"]  # fmt: skip
    return [f"## Each task, {shots} shots", "", *markdown_table(head, rows), ""]


def _pixel_section(results: ImageResults, shots: int) -> list[str]:
    seen: dict[tuple[str, str], Row] = {}
    for row in table(results):
        if row["shots"] == shots and not math.isnan(row["pixel_auroc"]):
            seen.setdefault((row["task"], row["method"]), row)
    if not seen:
        return []
    ranked = sorted(seen.values(), key=lambda r: (r["task"], -r["pixel_auroc"]))
    rows = [
        [r["task"], _bold(r["method"], r["method"] == SHIPPED),
         *(_f(r[n]) for n in ("pixel_auroc", "pixel_ap", "aupro", "dice", "dice_oracle"))]
        for r in ranked
    ]  # fmt: skip
    head = [
        "task",
        "method",
        "pixel AUROC",
        "pixel AP",
        "AUPRO (FPR to 0.3)",
        "Dice, calibrated",
        "Dice, oracle",
    ]
    return [f"## Localisation, {shots} shots", "", *markdown_table(head, rows), ""]


def _contamination_section(results: ImageResults) -> list[str]:
    rows = [
        [r["method"], _f(r["auroc"]), _f(r["auroc_contaminated"]), f"{r['auroc_loss']:+.3f}",
         _f(r["bad_weight"]), "" if math.isnan(r["below_uniform"]) else f"{r['below_uniform']:.0%}"]
        for r in contamination_summary(results)
    ]  # fmt: skip
    if not rows:
        return []
    head = ["method", "AUROC", "with one abnormal of 4 supports", "loss", "weight of the bad support",
            "queries in which it is below 1/4"]  # fmt: skip
    return ["## A bad support", "", *markdown_table(head, rows), ""]


def _cost_section(results: ImageResults, shots: int) -> list[str]:
    rows = []
    for method in dict.fromkeys(r["method"] for r in results.costs):
        mine = [r for r in results.costs if r["method"] == method]
        encode, judge, size = (
            float(np.median([r[k] for r in mine])) for k in ("encode_seconds", "judge_seconds", "megabytes")
        )
        rows.append([method, f"{1000 * encode:.0f}", f"{1000 * judge:.0f}", f"{size:.1f}"])
    head = ["method", "encoding, ms an image", f"judging, ms a query ({shots} supports)", "MB kept"]
    return ["## Cost", "", *markdown_table(head, rows), ""] if rows else []


def _all_settings(results: ImageResults, tasks: Sequence[str], shots: int) -> list[str]:
    rows = [
        [s.method, s.score, *(_f(np.mean(s.by_task[t])) for t in tasks), _f(s.mean), _f(s.spread)]
        for s in settings(results, shots)
    ]
    head = ["method", "score", *tasks, "mean", "sd over draws"]
    return [f"## All settings, {shots} shots", "", *markdown_table(head, rows), ""]


def volume_sections(results: VolumeResults) -> list[str]:
    rows = [
        [r["group"], str(r["lesions"]), *(_f(r[k]) for k in ("sample_auroc", "voxel_ap", "voxel_auroc")),
         *(f"{r[k]:.0%}" for k in ("peak_in_lesion", "found", "found_by_default"))]
        for r in results.summary
    ]  # fmt: skip
    normal = [c for c in results.cases if not c["kind"]]
    head = ["lesions", "n", "sample AUROC", "voxel AP", "voxel AUROC", "peak in the lesion",
            "found at 1 false finding a study", "found at the default threshold"]  # fmt: skip
    false = float(np.mean([c["findings"] for c in normal]))
    return [
        "## Lesions implanted in volumes",
        "",
        f"{len(normal)} untouched studies; threshold for 1 false finding a study: {results.threshold:.2f}; "
        f"false findings at the default threshold: {false:.2f} a study; median "
        f"{np.median([c['seconds'] for c in results.cases]):.1f} s a study.",
        "",
        *markdown_table(head, rows),
        "",
    ]


def paper_sections(rows: Sequence[Row]) -> list[str]:
    sets = list(dict.fromkeys(r["data set"] for r in rows))
    lines = ["## The paper's protocol: AUROC (%), trained on four data sets, tested on the fifth", ""]
    body = []
    for method, shots, score in dict.fromkeys((r["method"], r["shots"], r["score"]) for r in rows):
        values = {
            r["data set"]: r["auroc_percent"]
            for r in rows
            if (r["method"], r["shots"], r["score"]) == (method, shots, score)
        }
        mean = float(np.mean(list(values.values())))
        body.append([method, str(shots), score, *(f"{values[s]:.1f}" for s in sets), f"{mean:.1f}"])
    return [*lines, *markdown_table(["method", "shots", "score", *sets, "mean"], body), ""]


def markdown_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return [
        "| " + " | ".join(head) + " |",
        "|" + " --- |" * len(head),
        *("| " + " | ".join(row) + " |" for row in rows),
    ]


def _label(family: str, setting: Setting) -> str:
    return f"{NAMES[family]} ({setting.method})" if family in NAMES else setting.method


def _f(value: Any) -> str:
    return "" if math.isnan(value) else f"{value:.3f}"


def _bold(text: str, yes: bool) -> str:
    return f"**{text}**" if yes else text


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    if isinstance(value, (float, np.floating)):
        return None if math.isnan(value) else round(float(value), 6)
    if isinstance(value, np.integer):
        return int(value)
    return value
