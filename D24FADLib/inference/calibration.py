"""What a residual means: normal variation, learned from the references themselves.

Every support was compared with the K - 1 others, and the query with every K - 1 of the supports, so
that both are one study against K - 1 normals: under the hypothesis that the query is normal too, their
residuals follow one distribution (against all K, a query's would be smaller than a support's).

Residuals are positive and spread in proportion to their size (cortex varies more than white matter), so
the score is a z-score of the logarithm:

    z(x) = (log r(x) - log m(x)) / s

m(x), the expected residual, is the supports' mean in a neighbourhood of x, shrunk towards the mean over
the body because K maps cannot say much about one place; s pools the deviations of all supports over the
body. The deviations of a support are taken from the m of the others, so that no support is judged by
itself.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

Sigma = tuple[float, float, float]

_SHRINKAGE = 0.3  # weight of the body's mean in the expected residual
_NEIGHBOURHOOD = 3.0  # sigma in feature positions
_FLOOR = 1e-3  # residuals below are numerical noise
_MIN_SPREAD = 0.05  # of log residuals: identical supports must not divide by zero


@dataclass(frozen=True, eq=False)
class Calibration:
    """Expected residual m (n, h, w), spread s of the log residual, and each support's own z map."""

    expected: NDArray[np.float32]
    spread: float
    support_scores: NDArray[np.float32]  # (K, n, h, w), 0 where a support does not reach

    def scores(self, residual: NDArray[np.float32]) -> NDArray[np.float32]:
        """z (n, h, w) of a residual against K - 1 supports, smoothed as those of the calibration were."""
        return _z(residual, self.expected, self.spread)


def smooth(residual: NDArray[np.float32], sigma: Sigma) -> NDArray[np.float32]:
    """Gaussian smoothing in feature positions (slice, row, column), the paper's last step done in 3D."""
    return np.asarray(ndimage.gaussian_filter(residual, sigma, mode="nearest"), np.float32)


def calibrate(left_out: NDArray[np.float32], body: NDArray[np.bool_]) -> Calibration:
    """Fit to the supports' smoothed residuals (K, n, h, w), K >= 2, NaN where a support does not reach."""
    count = len(left_out)
    valid = ~np.isnan(left_out)
    filled = np.where(valid, left_out, 0.0).astype(np.float32)
    sums, hits = filled.sum(0), valid.sum(0).astype(np.float32)

    def expected(total: NDArray[np.float32], number: NDArray[np.float32]) -> NDArray[np.float32]:
        inside = body & (number > 0)
        overall = float(total[inside].sum() / max(number[inside].sum(), 1.0)) if inside.any() else 1.0
        sigma = (_NEIGHBOURHOOD / 2 if body.shape[0] > 1 else 0.0, _NEIGHBOURHOOD, _NEIGHBOURHOOD)
        top = ndimage.gaussian_filter(np.where(body, total, 0.0).astype(np.float32), sigma)
        bottom = ndimage.gaussian_filter(np.where(body, number, 0.0).astype(np.float32), sigma)
        local = np.where(bottom > 1e-3, top / np.maximum(bottom, 1e-3), overall)
        return np.asarray((1 - _SHRINKAGE) * local + _SHRINKAGE * overall, np.float32)

    deviations = np.zeros_like(filled)
    for k in range(count):
        others = expected(sums - filled[k], hits - valid[k])
        deviations[k] = _z(filled[k], others, 1.0)
    inside = valid & body
    spread = float(np.sqrt(np.mean(deviations[inside] ** 2))) if inside.any() else 1.0
    spread = max(spread, _MIN_SPREAD)
    support_scores = np.where(inside, deviations / spread, 0.0).astype(np.float32)
    return Calibration(expected(sums, hits), spread, support_scores)


def threshold_for(
    support_scores: NDArray[np.float32], false_positives: float, min_size: int, structure: NDArray[np.bool_]
) -> float:
    """The lowest z at which the supports have at most `false_positives` findings each on average.

    min_size: positions below which a component is no finding. Not below 2, whatever the budget.
    """
    low, high = 2.0, max(3.0, float(support_scores.max()))

    def findings(threshold: float) -> float:
        total = 0
        for scores in support_scores:
            labels, number = ndimage.label(scores > threshold, structure)
            if number:
                total += int((np.bincount(labels.ravel())[1:] >= min_size).sum())
        return total / len(support_scores)

    # Components can split as the threshold rises: start from the top and stop at the first excess.
    candidates = np.linspace(high, low, 33)
    chosen = high
    for candidate in candidates:
        if findings(float(candidate)) > false_positives:
            break
        chosen = float(candidate)
    return chosen


def _z(residual: NDArray[np.float32], expected: NDArray[np.float32], spread: float) -> NDArray[np.float32]:
    ratio = np.maximum(residual, _FLOOR) / np.maximum(expected, _FLOOR)
    return np.asarray(np.log(ratio) / spread, np.float32)
