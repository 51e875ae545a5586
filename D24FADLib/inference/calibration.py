"""What a residual means: normal variation, learned from the references themselves.

Every support was compared with the K - 1 others, and the query with every K - 1 of the supports, so
that both are one study against K - 1 normals: under the hypothesis that the query is normal too, their
residuals follow one distribution (against all K, a query's would be smaller than a support's).

Residuals are positive and spread in proportion to their size (cortex varies more than white matter), so
the score is a z-score of the logarithm:

    z(x) = (log r(x) - m(x)) / s

m(x), the expected log residual, is the supports' mean in a neighbourhood of x, shrunk towards the mean
at the same depth below the body's surface because K maps cannot say much about one place; s pools the
deviations of all supports at that depth. Depth matters: registration leaves the surface a few
millimetres off, so that tissue meets air there in normal studies too. Each support counts inside its
own body and by its own depth, as the query does. The deviations of a support are taken from the m of
the others, so that no support is judged by itself.

Last, z is made to keep its word. Pooled deviations of a few studies are not normal, so z is taken through the
monotone curve that gives the supports' own z the quantiles of a standard normal at `LEVELS` (straight beyond
them), drawn towards the curve of other organs (`priors`) as far as K references are few: a z above 1.64
then is what 5 % of a normal study's positions reach, above 2.33 1 %.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.special import ndtri

from D24FADLib.inference.threads import side_by_side

Sigma = tuple[float, float, float]

_SHRINKAGE = 0.4  # weight of the depth's mean in the expected log residual
_NEIGHBOURHOOD = 3.0  # sigma in feature positions
_FLOOR = 1e-3  # residuals below are numerical noise
_MIN_SPREAD = 0.05  # of log residuals: identical supports must not divide by zero
_SCORE_SHARE = 5e-4  # of the positions: the study's score is the mean of the highest
_DEPTHS_MM = (0.0, 3.0, 6.0, 10.0, 16.0)  # lower ends of the depth classes
LEVELS = (0.5, 0.75, 0.9, 0.95, 0.98, 0.99, 0.995, 0.999)  # quantiles that z is made to keep
LEARNED_WORTH = 4.0  # references that the other organs' curve counts for
_LEAST_STEP = 1e-3  # between the curve's points


@dataclass(frozen=True, eq=False)
class Calibration:
    """What is normal, fitted to the supports.

    local: (n, h, w) mean log residual in the neighbourhood, NaN where no support tells; by_depth: mean
    log residual of each depth class; spread: standard deviation about the expected one in each class.
    support_scores: (K, n, h, w), each support's own z, 0 outside its body. knots: the z before that become
    the standard normal quantiles at LEVELS.
    """

    local: NDArray[np.float32]
    by_depth: NDArray[np.float64]
    spread: NDArray[np.float64]
    support_scores: NDArray[np.float32]
    knots: NDArray[np.float64]

    def scores(self, residual: NDArray[np.float32], depth_mm: NDArray[np.float32]) -> NDArray[np.float32]:
        """z (n, h, w) of a residual against K - 1 supports, smoothed as those of the calibration were."""
        classes = depth_class(depth_mm)
        deviation = _log(residual) - _shrunk(self.local, self.by_depth[classes])
        return to_normal(np.asarray(deviation / self.spread[classes], np.float32), self.knots)


def to_normal(z: NDArray[np.float32], knots: NDArray[np.float64]) -> NDArray[np.float32]:
    """The monotone curve through the knots: below the first a shift, beyond the last the last stretch's
    slope."""
    levels = ndtri(np.asarray(LEVELS))
    scaled = np.interp(z, knots, levels)
    slope = (levels[-1] - levels[-3]) / max(knots[-1] - knots[-3], _LEAST_STEP)
    scaled = np.where(z > knots[-1], levels[-1] + np.minimum(slope, 3.0) * (z - knots[-1]), scaled)
    return np.where(z < knots[0], levels[0] + (z - knots[0]), scaled).astype(np.float32)


def own_knots(scores: NDArray[np.float32]) -> NDArray[np.float64]:
    """Quantiles of supports' own z at LEVELS, each a little above the one before."""
    if not scores.size:
        return np.asarray(ndtri(np.asarray(LEVELS)), np.float64)
    found = np.quantile(scores, LEVELS).astype(np.float64)
    return np.maximum.accumulate(found + _LEAST_STEP * np.arange(len(LEVELS)))


def smooth(residual: NDArray[np.float32], sigma: Sigma) -> NDArray[np.float32]:
    """Gaussian smoothing in feature positions (slice, row, column), the paper's last step done in 3D.

    NaN, where nothing is known, counts for nothing and stays NaN.
    """
    known = ~np.isnan(residual)
    if known.all():
        return np.asarray(ndimage.gaussian_filter(residual, sigma, mode="nearest"), np.float32)
    share = ndimage.gaussian_filter(known.astype(np.float32), sigma, mode="nearest")
    filled = np.where(known, residual, 0).astype(np.float32)
    smoothed = ndimage.gaussian_filter(filled, sigma, mode="nearest") / np.maximum(share, 1e-6)
    return np.where(known, smoothed, np.nan).astype(np.float32)


def depth_below_surface(body: NDArray[np.bool_], pitch_mm: Sigma) -> NDArray[np.float32]:
    """mm to the nearest position outside the body; the grid's own border is no surface."""
    if body.all():
        return np.full(body.shape, np.inf, np.float32)
    sampling = pitch_mm if body.shape[0] > 1 else (1e6, *pitch_mm[1:])
    return np.asarray(ndimage.distance_transform_edt(body, sampling=sampling), np.float32)


def depth_class(depth_mm: NDArray[np.float32]) -> NDArray[np.intp]:
    return np.searchsorted(_DEPTHS_MM, depth_mm, side="right") - 1


def calibrate(
    left_out: NDArray[np.float32],
    pitch_mm: Sigma,
    learned: NDArray[np.float64] | None = None,
    worth: float = LEARNED_WORTH,
) -> Calibration:
    """Fit to the supports' smoothed residuals (K, n, h, w), K >= 2, NaN outside each support's own body.

    pitch_mm: distance of neighbouring positions along slice, row, column. learned: the knots of other organs'
    supports, None where there are none; worth: references that they count for, infinity for them alone.
    """
    valid = ~np.isnan(left_out)
    filled = np.where(valid, _log(np.where(valid, left_out, 1.0)), 0.0).astype(np.float32)
    classes = np.stack(side_by_side(lambda body: depth_class(depth_below_surface(body, pitch_mm)), valid))
    number = len(_DEPTHS_MM)
    # Sums per support, class and place: leaving one support out is a subtraction.
    class_sums = np.stack(
        [np.bincount(c[v], f[v], number) for c, f, v in zip(classes, filled, valid, strict=True)]
    )
    class_hits = np.stack([np.bincount(c[v], minlength=number) for c, v in zip(classes, valid, strict=True)])
    sigma = (_NEIGHBOURHOOD / 2 if filled.shape[1] > 1 else 0.0, _NEIGHBOURHOOD, _NEIGHBOURHOOD)
    local_sums = np.stack(side_by_side(lambda f: ndimage.gaussian_filter(f, sigma), filled))
    local_hits = np.stack(side_by_side(lambda v: ndimage.gaussian_filter(v.astype(np.float32), sigma), valid))

    def fit(kept: list[int]) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
        hits, sums = local_hits[kept].sum(0), local_sums[kept].sum(0)
        local = np.where(hits > 0.05, sums / np.maximum(hits, 0.05), np.nan).astype(np.float32)
        return local, _class_means(class_sums[kept].sum(0), class_hits[kept].sum(0))

    everyone = list(range(len(filled)))
    deviations = np.zeros_like(filled)
    for k in everyone:
        local, by_depth = fit([j for j in everyone if j != k])
        deviations[k] = filled[k] - _shrunk(local, by_depth[classes[k]])
    squares = np.bincount(classes[valid], deviations[valid] ** 2, number).astype(np.float64)
    spread = np.sqrt(_class_means(squares, class_hits.sum(0)))
    spread = np.maximum(spread, _MIN_SPREAD)
    own = (deviations / spread[classes]).astype(np.float32)
    knots = own_knots(own[valid])
    if learned is not None:
        share = 1.0 / (1.0 + len(filled) / worth)
        knots = (1 - share) * knots + share * learned
    support_scores = np.where(valid, to_normal(own, knots), 0.0).astype(np.float32)
    local, by_depth = fit(everyone)
    return Calibration(local, by_depth, spread, support_scores, knots)


def _class_means(sums: NDArray[Any], hits: NDArray[Any]) -> NDArray[np.float64]:
    """Mean per class; that of all where a class was not seen."""
    overall = sums.sum() / max(hits.sum(), 1)
    return np.where(hits > 0, sums / np.maximum(hits, 1), overall)


def _shrunk(local: NDArray[np.float32], by_depth: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.where(np.isnan(local), by_depth, (1 - _SHRINKAGE) * local + _SHRINKAGE * by_depth)


def _log(residual: NDArray[Any]) -> NDArray[Any]:
    return np.log(np.maximum(residual, _FLOOR))


def robust_maximum(scores: NDArray[np.float32]) -> float:
    """The image's or study's score: the mean of the highest of its positions, at least five; 0 for none."""
    top = min(max(5, round(_SCORE_SHARE * scores.size)), scores.size)
    if not top:
        return 0.0
    highest = np.partition(scores, scores.size - top, axis=None)[scores.size - top :]
    return float(np.sort(highest)[::-1].mean())


def findings_above(
    support_scores: NDArray[np.float32], threshold: float, min_size: int, structure: NDArray[np.bool_]
) -> float:
    """Connected components above the threshold of at least `min_size` positions, a support on average."""
    total = 0
    for scores in support_scores:
        labels, number = ndimage.label(_condensed(scores > threshold), structure)
        if number:
            total += int((np.bincount(labels.ravel())[1:] >= min_size).sum())
    return total / len(support_scores)


def _condensed(above: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The same components in fewer positions: of sections without any, one in a row stays."""
    for axis in range(above.ndim):
        others = tuple(other for other in range(above.ndim) if other != axis)
        hit: NDArray[np.bool_] = np.asarray(above.any(axis=others))
        hit[1:] |= hit[:-1].copy()
        above = above.compress(hit, axis=axis)
    return above


def threshold_for(
    support_scores: NDArray[np.float32],
    false_positives: float,
    min_size: int,
    structure: NDArray[np.bool_],
    floor: float = 2.0,
) -> float:
    """The lowest z at which the supports have at most `false_positives` findings each on average.

    min_size: positions below which a component is no finding. Not below `floor`, whatever the budget.
    """
    high = max(3.0, float(support_scores.max()))
    low = max(floor, float(np.median(support_scores)))

    # Components can split as the threshold rises: start from the top and stop at the first excess.
    candidates = np.linspace(high, low, 33)
    chosen = high
    for candidate in candidates:
        if findings_above(support_scores, float(candidate), min_size, structure) > false_positives:
            break
        chosen = float(candidate)
    return chosen
