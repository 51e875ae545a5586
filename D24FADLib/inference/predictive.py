"""How unusual a score is among those of K references: a predictive distribution instead of K numbers.

K references were each scored against the K - 1 others, x_1 .. x_K, and the study against every K - 1 of
them, x. K = 4 numbers have no 1 % quantile. So scores of normal studies of one protocol are taken as normal,
with unknown mean and a variance whose prior, scaled inverse chi-square (nu0, s0^2), was learned from other
organs' normals. With a flat prior on the mean, a further normal study follows Student's t (Gelman et al.,
Bayesian Data Analysis, 3rd ed., sections 3.2 and 2.6):

    T = (x - mean(x_k) - shift) / (widening * sqrt(v * (1 + 1 / K)))  ~  t(nu0 + K - 1)
    v = (nu0 * s0^2 + (K - 1) * s^2) / (nu0 + K - 1)

shift and widening, learned as well, are there because the x_k share references: they vary less among
themselves, and lie a little higher, than a further study's. T rises with x: no order changes.
K = 1 has no x_k and no answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class ScorePrior:
    """What other organs say about how scores of normals vary. Units are those of the score."""

    shift: float = 0.0
    spread: float = 0.15
    strength: float = 4.0
    widening: float = 1.0


@dataclass(frozen=True)
class Unusual:
    """t: the standardised score; high, low: shares of normal studies that score at least, at most, this."""

    t: float
    high: float
    low: float

    @property
    def z(self) -> float:
        """The standard normal deviate with the same upper tail."""
        from scipy.special import ndtri

        return float(-ndtri(self.high)) if self.high < 0.5 else float(ndtri(self.low))


def unusual(score: float, references: Sequence[float], prior: ScorePrior) -> Unusual | None:
    """Where a score lies in the predictive distribution; None with fewer than two references."""
    from scipy.special import stdtr

    x = np.asarray(references, np.float64)
    count = len(x)
    if count < 2:
        return None
    freedom = prior.strength + count - 1
    variance = (prior.strength * prior.spread**2 + (count - 1) * x.var(ddof=1)) / freedom
    scale = prior.widening * np.sqrt(max(variance, 1e-12) * (1 + 1 / count))
    t = float((score - x.mean() - prior.shift) / scale)
    return Unusual(t, float(stdtr(freedom, -t)), float(stdtr(freedom, t)))


def outlyingness(scores: Sequence[float], prior: ScorePrior) -> list[Unusual] | None:
    """Each reference's score among the others' (the prior's widening and shift are about further studies and
    are left out); None with fewer than three."""
    if len(scores) < 3:
        return None
    alone = ScorePrior(0.0, prior.spread, prior.strength, 1.0)
    found = [unusual(x, [*scores[:k], *scores[k + 1 :]], alone) for k, x in enumerate(scores)]
    return [one for one in found if one is not None]
