"""How unusual a score is among those of K references: a predictive distribution instead of K numbers.

K references were each scored against the K - 1 others, x_1 .. x_K, and the study against every K - 1 of
them, x. K = 4 numbers have no 1 % quantile. So scores of normal studies of one protocol are taken as normal,
with unknown mean and a variance whose prior (scaled inverse chi-square, worth one reference, spread^2) comes
from other organs. With a flat prior on the mean a further normal study then follows Student's t (Gelman et
al., Bayesian Data Analysis, 3rd ed., sections 2.6 and 3.2):

    T = (x - mean(x_k) - shift) / (widening * sqrt(v * (1 + 1 / K))),    v = (spread^2 + (K - 1) s^2) / K

The x_k share references: they vary less among themselves, and lie a little higher, than a further study's,
and no set of scores is quite normal. So shift, widening and the degrees of freedom are those with which
the normals of other organs, each weighing the same, exceed T's 5 % and 1 % quantiles in 5 % and 1 % of
cases. The spread is kept small, as organs differ threefold in it: a strong prior is wrong for each of
them. T rises with x: no order among studies changes. K = 1 has no x_k and no answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class ScorePrior:
    """What other organs say about how scores of normals vary; shift and spread in units of the score."""

    shift: float = 0.0
    spread: float = 0.05
    widening: float = 1.0
    freedom: float = 3.0


@dataclass(frozen=True)
class Unusual:
    """t: the standardised score; high, low: shares of normal studies that score at least, at most, this."""

    t: float
    high: float
    low: float


def standardised(score: float, references: Sequence[float], prior: ScorePrior) -> float | None:
    """T of the module's text; None with fewer than two references."""
    x = np.asarray(references, np.float64)
    count = len(x)
    if count < 2:
        return None
    variance = (prior.spread**2 + (count - 1) * x.var(ddof=1)) / count
    scale = prior.widening * np.sqrt(max(variance, 1e-12) * (1 + 1 / count))
    return float((score - x.mean() - prior.shift) / scale)


def unusual(score: float, references: Sequence[float], prior: ScorePrior) -> Unusual | None:
    """Where a score lies in the predictive distribution; None with fewer than two references."""
    from scipy.special import stdtr

    t = standardised(score, references, prior)
    if t is None:
        return None
    return Unusual(t, float(stdtr(prior.freedom, -t)), float(stdtr(prior.freedom, t)))


def outlyingness(scores: Sequence[float], prior: ScorePrior) -> list[float] | None:
    """T of each reference's score among the others'; None with fewer than three."""
    if len(scores) < 3:
        return None
    others = [[*scores[:k], *scores[k + 1 :]] for k in range(len(scores))]
    found = [standardised(x, rest, prior) for x, rest in zip(scores, others, strict=True)]
    return [t for t in found if t is not None]
