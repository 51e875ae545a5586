"""References that stand out against the others.

Each reference has two numbers that the others' should resemble: the log of its mean residual against them,
and the log of its mean distance to them as a whole (`resemblance`). Each is standardised by the others'
(`predictive`); the larger t decides, against the limit that 5 % of normal references of other organs exceed.

A lesion in a volume is small: both numbers pass it over. There a third one looks at the reference's own map
against the others, smoothed to the size of a lesion (4 mm), less the mean of the other references' at the
same place, where people differ: the log of its highest value, less the mean of the others'. No other organ's
volumes tell how much that varies; the others of the same set tell too little; so its standard deviation
is set, such that twice as high as the others is about where the limit lies.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from D24FADLib.inference.checks import WARN, Check
from D24FADLib.inference.predictive import ScorePrior, outlyingness
from D24FADLib.inference.priors import Priors

MAP, WHOLE = "map", "whole"
_DEFAULTS = {MAP: ScorePrior(spread=0.12), WHOLE: ScorePrior(spread=0.12)}
_FLOOR = 1e-3
_LESION_MM = 4.0
_LEAST_HEIGHT = 1.0  # of a fused map, of which 4 is a reference's strongest
_PEAKS_SPREAD = 0.28


def map_scores(left_out: NDArray[np.float32]) -> list[float]:
    """Log mean residual of each reference's own map (K, n, h, w), NaN outside its body."""
    return [
        float(np.log(max(float(np.nanmean(one)), _FLOOR))) if (~np.isnan(one)).any() else 0.0
        for one in left_out
    ]


def standing_out(
    numbers: Mapping[str, Sequence[float]], priors: Priors, compact: Sequence[float] = ()
) -> list[float] | None:
    """The largest t of each reference, of its numbers by name (MAP, WHOLE) and of `compact_departures`; None
    with fewer than three."""
    found = [
        outlyingness(values, priors.outlier.get(name, _DEFAULTS[name])) for name, values in numbers.items()
    ]
    usable = [one for one in (*found, list(compact) or None) if one is not None]
    return np.max(usable, axis=0).tolist() if usable else None


def compact_departures(maps: NDArray[np.float32], pitch_mm: tuple[float, float, float]) -> list[float]:
    """How far each reference's own map (K, n, h, w) has a lesion that the others' have not, in standard
    deviations (see the module's text); none with fewer than three references."""
    if len(maps) < 3:
        return []
    sigma = [_LESION_MM / mm if size > 1 else 0.0 for mm, size in zip(pitch_mm, maps.shape[1:], strict=True)]
    smoothed = np.stack([ndimage.gaussian_filter(one, sigma, mode="nearest") for one in maps])
    alone = (len(maps) * smoothed - smoothed.sum(axis=0)) / (len(maps) - 1)
    logs = np.log(np.maximum(alone.reshape(len(maps), -1).max(axis=1), _LEAST_HEIGHT))
    others = (logs.sum() - logs) / (len(maps) - 1)
    return ((logs - others) / _PEAKS_SPREAD).tolist()


def check_outliers(names: Sequence[str], t: Sequence[float] | None, limit: float) -> list[Check]:
    return [
        Check(
            "stands-out", WARN, k,
            f"{name} stands out against the other references ({value:.1f} standard deviations): is it "
            "normal, and of the same protocol?",
            value,
        )
        for k, (name, value) in enumerate(zip(names, t or (), strict=False), start=1)
        if value > limit
    ]  # fmt: skip
