"""One of the supports is abnormal: does learn-to-weight turn it down, and what does it cost?"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score

from D24FADLib.benchmark.draws import Trial
from D24FADLib.benchmark.features import Features
from D24FADLib.benchmark.judgement import Judgement, Method

SHOTS = 4


def bad_supports(trial: Trial) -> list[Path]:
    """One abnormal image for each draw, from those that are not tested where there are any."""
    pool = trial.spare_abnormal or trial.abnormal
    return [pool[i % len(pool)] for i in range(len(trial.supports))]


def main_score(judged: Judgement) -> NDArray[np.float32]:
    """The method's own image score, else the map's mean (as the paper's text has it)."""
    scores = judged.scores()
    return scores.get("own", scores["mean"])


def contaminate(
    method: Method, trial: Trial, draw: int, query: Features, supports: Features, bad: Features
) -> dict[str, Any]:
    """Judge with SHOTS supports, then with the first of them replaced by an abnormal image.

    `bad`: features of that one image. It is left out of the queries of both runs.
    Returns both AUROCs, the loss between them, the bad support's mean weight and the share of queries
    in which it weighs less than 1 / K, NaN where the method does not weigh supports.
    """
    image = bad_supports(trial)[draw]
    kept = np.array([path != image for path in trial.queries])
    labels = trial.labels[kept]
    queries = [f[torch.from_numpy(kept)] for f in query]
    clean_supports = [f[:SHOTS] for f in supports]
    spoilt_supports = [torch.cat([b, f[1:]]) for b, f in zip(bad, clean_supports, strict=True)]
    count = len(clean_supports[0])
    clean = method.judge(queries, clean_supports, [count])[count]
    spoilt = method.judge(queries, spoilt_supports, [count])[count]
    aurocs = [float(roc_auc_score(labels, main_score(j))) for j in (clean, spoilt)]
    weight = np.full(len(labels), np.nan) if spoilt.weights is None else spoilt.weights[:, 0]
    weighs = not np.isnan(weight).any()
    return {
        "task": trial.task.name,
        "method": method.name,
        "draw": draw,
        "auroc": aurocs[0],
        "auroc_contaminated": aurocs[1],
        "auroc_loss": aurocs[0] - aurocs[1],
        "bad_weight": float(weight.mean()),
        "below_uniform": float((weight < 1 / count).mean()) if weighs else float("nan"),
    }
