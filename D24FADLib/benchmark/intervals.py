"""95 % intervals: over support draws (Student's t) and over test images (bootstrap)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import stats

Interval = tuple[float, float]


def over_draws(values: Sequence[float]) -> Interval:
    """t-interval of the mean; NaN for a single value."""
    array = np.asarray(values, float)
    if array.size < 2:
        return float("nan"), float("nan")
    half = stats.t.ppf(0.975, array.size - 1) * array.std(ddof=1) / np.sqrt(array.size)
    return float(array.mean() - half), float(array.mean() + half)


def comparisons(labels: NDArray[np.integer], scores: NDArray[np.floating]) -> NDArray[np.float64]:
    """(abnormal, normal): 1 where the abnormal image scores higher, 0.5 for ties. Its mean is the AUROC."""
    higher, lower = scores[labels == 1][:, None], scores[labels == 0][None]
    return (higher > lower) + 0.5 * (higher == lower)


def over_images(
    labels: NDArray[np.integer], draws: Sequence[NDArray[np.floating]], seed: int, rounds: int = 1000
) -> Interval:
    """Bootstrap interval of the AUROC averaged over draws.

    draws: the scores of the same images, one array a draw. Both classes are resampled apart; an image
    is resampled with its scores in all draws, so that draws do not count as further images.
    """
    mean = np.mean([comparisons(labels, scores) for scores in draws], axis=0)
    rng = np.random.default_rng(seed)
    positives, negatives = mean.shape
    rows = rng.multinomial(positives, np.full(positives, 1 / positives), rounds) / positives
    columns = rng.multinomial(negatives, np.full(negatives, 1 / negatives), rounds) / negatives
    values = np.einsum("rp,pn,rn->r", rows, mean, columns, optimize=True)
    low, high = np.quantile(values, [0.025, 0.975])
    return float(low), float(high)
