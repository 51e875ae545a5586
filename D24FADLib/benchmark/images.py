"""The benchmark on pictures: every method on the same draws of every task."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from D24FADLib.benchmark.contamination import SHOTS, bad_supports, contaminate
from D24FADLib.benchmark.draws import Trial
from D24FADLib.benchmark.features import Features, FeatureStore, load_image
from D24FADLib.benchmark.intervals import over_images
from D24FADLib.benchmark.judgement import GRID, Judgement, Method, calibrated_threshold
from D24FADLib.benchmark.methods import D24FAD, L2W_MEAN, SHIPPED, UNIFORM, Workshop
from D24FADLib.benchmark.metrics import image_metrics, pixel_metrics
from D24FADLib.benchmark.probe import best_shortcut

Progress = Callable[[str, int, int], None]
Row = dict[str, Any]
PROBE = "one-number probe"
WEIGHING = (D24FAD, L2W_MEAN, SHIPPED)
_TIMED = 8  # queries


@dataclass(eq=False)
class ImageResults:
    """rows: image metrics by task, method, shots, draw and score; pixels: by task, method, shots and draw.

    bootstrap: interval over images by task, method, shots and score. scores: of the queries at the
    example number of shots, per task and method, the first draw, "own" or the mean. maps: of a few
    queries. embeddings: student features of queries, pooled.
    """

    rows: list[Row] = field(default_factory=list)
    pixels: list[Row] = field(default_factory=list)
    bootstrap: list[Row] = field(default_factory=list)
    probes: list[Row] = field(default_factory=list)
    costs: list[Row] = field(default_factory=list)
    contaminated: list[Row] = field(default_factory=list)
    scores: dict[tuple[str, str], NDArray[np.float32]] = field(default_factory=dict)
    labels: dict[str, NDArray[np.intp]] = field(default_factory=dict)
    maps: dict[tuple[str, str], NDArray[np.float32]] = field(default_factory=dict)
    embeddings: dict[str, NDArray[np.float32]] = field(default_factory=dict)


def example_shots(shots: Sequence[int]) -> int:
    """The number of shots that figures and headline tables show."""
    return 4 if 4 in shots else max(shots)


def run(
    trials: Sequence[Trial],
    workshop: Workshop,
    store: FeatureStore,
    shots: Sequence[int],
    *,
    contamination: bool,
    seed: int,
    progress: Progress,
) -> ImageResults:
    """All trials; features come from the store, methods from the workshop."""
    results = ImageResults()
    for trial in trials:
        results.labels[trial.task.name] = trial.labels
        if "probe" in workshop.plan.families:
            name, auroc = best_shortcut(trial.queries, trial.labels)
            results.probes.append({"task": trial.task.name, "method": PROBE, "number": name, "auroc": auroc})
        methods = workshop.methods(trial.task)
        for encoder_key in dict.fromkeys((m.encoder.key, m.encoder.size) for m in methods):
            group = [m for m in methods if (m.encoder.key, m.encoder.size) == encoder_key]
            bench = _Bench(trial, group[0], store, shots, seed, progress)
            for number, method in enumerate(group):
                progress(f"{trial.task.name}: judging @{encoder_key[1]}", number, len(group))
                bench.judge(method, results)
                if contamination and method.name in WEIGHING and max(shots) >= SHOTS:
                    bench.contaminate(method, results)
    return results


class _Bench:
    """One task's features of one encoder, and what is measured on them."""

    def __init__(
        self, trial: Trial, any_method: Method, store: FeatureStore, shots: Sequence[int], seed: int,
        progress: Progress,
    ) -> None:  # fmt: skip
        self.trial, self.shots, self.seed = trial, tuple(shots), seed
        self._example = example_shots(shots)
        self._bad = bad_supports(trial)
        name, encoder = trial.task.name, any_method.encoder
        paths = list(dict.fromkeys([*trial.queries, *(p for s in trial.supports for p in s), *self._bad]))
        self._position = {path: i for i, path in enumerate(paths)}
        self._features = store.load(
            encoder, paths, lambda done, total: progress(f"{name}: features @{encoder.size}", done, total)
        )
        self._masks = read_masks(trial) if trial.task.masks else None
        self.query = self._of(trial.queries)

    def _of(self, paths: Sequence[Path]) -> Features:
        index = torch.tensor([self._position[p] for p in paths])
        return [f[index] for f in self._features]

    def judge(self, method: Method, results: ImageResults) -> None:
        task, labels = self.trial.task.name, self.trial.labels
        collected: dict[tuple[int, str], list[NDArray[np.float32]]] = {}
        for draw, paths in enumerate(self.trial.supports):
            supports = self._of(paths)
            judged = method.judge(self.query, supports, self.shots)
            for shots, judgement in judged.items():
                key = {"task": task, "method": method.name, "shots": shots, "draw": draw}
                for score, values in judgement.scores().items():
                    results.rows.append({**key, "score": score, **image_metrics(labels, values)})
                    collected.setdefault((shots, score), []).append(values)
                if self._masks is not None:
                    threshold = calibrated_threshold(method, [f[:shots] for f in supports], judgement)
                    results.pixels.append({**key, **pixel_metrics(self._masks, judgement.maps, threshold)})
            if draw == 0:
                self._keep(method, judged[self._example], supports, results)
        for (shots, score), draws in collected.items():
            low, high = over_images(labels, draws, self.seed)
            results.bootstrap.append(
                {
                    "task": task,
                    "method": method.name,
                    "shots": shots,
                    "score": score,
                    "low": low,
                    "high": high,
                }
            )

    def _keep(self, method: Method, judged: Judgement, supports: Features, results: ImageResults) -> None:
        """What the figures need, and the cost of one query."""
        task, scores = self.trial.task.name, judged.scores()
        results.scores[task, method.name] = scores.get("own", scores["mean"])
        if self._masks is not None:
            results.maps[task, method.name] = judged.maps
        if method.name == D24FAD or (method.name == UNIFORM and task not in results.embeddings):
            deepest = method.student(self.query)[-1]  # type: ignore[attr-defined]
            results.embeddings[task] = deepest.mean((2, 3)).numpy()
        chosen = [f[: self._example] for f in supports]
        few = [f[:_TIMED] for f in self.query]
        start = time.perf_counter()
        method.judge(few, chosen, [self._example])
        judging = (time.perf_counter() - start) / len(few[0])
        pictures = torch.stack(
            [load_image(p, method.encoder.size) for p in self.trial.queries[: len(few[0])]]
        )
        method.encoder(pictures[:1])  # the first call may compile
        start = time.perf_counter()
        method.encoder(pictures)
        encoding = (time.perf_counter() - start) / len(pictures)
        results.costs.append(
            {
                "task": task, "method": method.name, "shots": self._example, "encode_seconds": encoding,
                "judge_seconds": judging, "megabytes": method.state_bytes(chosen) / 1e6,
            }
        )  # fmt: skip

    def contaminate(self, method: Method, results: ImageResults) -> None:
        for draw, paths in enumerate(self.trial.supports):
            bad = self._of([self._bad[draw]])
            results.contaminated.append(
                contaminate(method, self.trial, draw, self.query, self._of(paths), bad)
            )


def read_masks(trial: Trial) -> NDArray[np.bool_]:
    """(N, GRID, GRID) of the queries, empty for normals; a pixel is abnormal where most of it is."""
    from PIL import Image

    masks = np.zeros((len(trial.queries), GRID, GRID), bool)
    for number, path in enumerate(trial.queries):
        if path in trial.task.masks:
            with Image.open(trial.task.masks[path]) as image:
                small = image.convert("L").point(lambda v: 255 * (v > 0)).resize(
                    (GRID, GRID), Image.Resampling.BOX
                )  # fmt: skip
            masks[number] = np.asarray(small) > 127
    return masks
