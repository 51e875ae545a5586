"""References that stand out against the others.

Each reference has two numbers that the others' should resemble: the log of its mean residual against them,
and the log of its mean distance to them as a whole (`resemblance`). Each is standardised by the others'
(`predictive`); the larger t decides, against the limit that 5 % of normal references of other organs exceed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from D24FADLib.inference.checks import WARN, Check
from D24FADLib.inference.predictive import ScorePrior, outlyingness
from D24FADLib.inference.priors import Priors

MAP, WHOLE = "map", "whole"
_DEFAULTS = {MAP: ScorePrior(spread=0.12), WHOLE: ScorePrior(spread=0.12)}
_FLOOR = 1e-3


def map_scores(left_out: NDArray[np.float32]) -> list[float]:
    """Log mean residual of each reference's own map (K, n, h, w), NaN outside its body."""
    return [
        float(np.log(max(float(np.nanmean(one)), _FLOOR))) if (~np.isnan(one)).any() else 0.0
        for one in left_out
    ]


def standing_out(numbers: Mapping[str, Sequence[float]], priors: Priors) -> list[float] | None:
    """The larger t of each reference, of its numbers by name (MAP, WHOLE); None with fewer than three."""
    found = [
        outlyingness(values, priors.outlier.get(name, _DEFAULTS[name])) for name, values in numbers.items()
    ]
    usable = [one for one in found if one is not None]
    return np.max(usable, axis=0).tolist() if usable else None


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
