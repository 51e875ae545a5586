"""Fitting a bundle's calibration (`inference.priors`) to the normals of many organs, each weighing the
same."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, stats

from D24FADLib.benchmark.normals import Draws
from D24FADLib.inference.calibration import LEARNED_WORTH, to_normal
from D24FADLib.inference.outliers import MAP, WHOLE
from D24FADLib.inference.predictive import ScorePrior, outlyingness
from D24FADLib.inference.priors import Priors, Resemblance
from D24FADLib.inference.resemblance import directions, distance, mean_logs
from D24FADLib.inference.study_score import PICTURE, VOLUME

SHOTS = (2, 4, 8)
SHRINKAGE = 0.2  # of the distance to the references' own
_SPREADS = {PICTURE: (0.005, 0.015, 0.03, 0.06, 0.1), VOLUME: (0.05, 0.15, 0.3, 0.5, 0.8)}
_LEAST_FREEDOM, _MOST_FREEDOM = 1.5, 60.0
_OUTLIER_RATE = 0.05  # of normal references that may be flagged
# The limit of resemblance lies a share of the way from this quantile of normals to this one of others.
_OWN, _OTHER, _TOWARDS_OTHER = 0.99, 0.03, 0.3


@dataclass(frozen=True, eq=False)
class OrganNormals:
    """One organ's draws by number of supports, and the descriptors of the pictures that they draw from."""

    organ: str
    draws: Mapping[int, Draws]
    descriptors: NDArray[np.float64]


def fit(organs: Mapping[str, OrganNormals], splits: Sequence[int]) -> Priors:
    """The calibration that these organs (by task) tell. splits: channels of a descriptor's parts."""
    known = list(organs.values())
    knots = {
        k: tuple(np.mean([o.draws[k].knots.mean(axis=0) for o in known], axis=0).tolist()) for k in SHOTS
    }
    scores = {
        kind: {k: _score_prior([scores_of(o.draws[k], kind, knots[k]) for o in known], kind) for k in SHOTS}
        for kind in (PICTURE, VOLUME)
    }
    found = [o.draws[k].findings.mean() for o in known for k in SHOTS if k > 2]
    space = _resemblance(known, splits)
    spreads = {
        MAP: _typical_spread([o.draws[4].map_score for o in known]),
        WHOLE: _typical_spread([_whole(o, space) for o in known]),
    }
    outlier = {name: ScorePrior(spread=spread) for name, spread in spreads.items()}
    limit = _outlier_limit(known, space, outlier)
    return Priors(scores, knots, float(np.mean(found)), outlier, limit, space)


def scores_of(
    draws: Draws, kind: str, learned: Sequence[float]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(D, Q) of the queries and (D, K) of the supports, as the detector scores them with these knots."""
    if kind == PICTURE:
        return draws.query_score, draws.support_score
    share = 1.0 / (1.0 + draws.supports.shape[1] / LEARNED_WORTH)
    pairs = []
    for own, query, support in zip(draws.knots, draws.query_peaks, draws.support_peaks, strict=True):
        knots = (1 - share) * own + share * np.asarray(learned)
        pairs.append([to_normal(p.astype(np.float32), knots).mean(axis=1) for p in (query, support)])
    return np.stack([p[0] for p in pairs]).astype(float), np.stack([p[1] for p in pairs]).astype(float)


def tails(query: NDArray[np.float64], support: NDArray[np.float64], prior: ScorePrior) -> NDArray[np.float64]:
    """T of each query (D, Q) among its draw's supports (D, K), see `predictive.standardised`."""
    count = support.shape[1]
    variance = (prior.spread**2 + (count - 1) * support.var(axis=1, ddof=1)) / count
    scale = prior.widening * np.sqrt(np.maximum(variance, 1e-12) * (1 + 1 / count))
    found = (query - support.mean(axis=1, keepdims=True) - prior.shift) / scale[:, None]
    return np.asarray(found, np.float64)


def _score_prior(organs: Sequence[tuple[NDArray[np.float64], NDArray[np.float64]]], kind: str) -> ScorePrior:
    """The spread with which each organ, left out of the fit, comes closest to its nominal rates."""
    best, least = ScorePrior(), np.inf
    for spread in _SPREADS[kind]:
        miss = 0.0
        for n, (query, support) in enumerate(organs):
            rest = [o for m, o in enumerate(organs) if m != n]
            prior = _shape(rest, spread)
            rates = stats.t.sf(tails(query, support, prior), prior.freedom)
            # Half a case added, so that none at all is no infinite miss.
            for level in (0.05, 0.01):
                rate = ((rates < level).sum() + 0.5) / (rates.size + 0.5 / level)
                miss += abs(float(np.log(rate / level)))
        if miss < least:
            best, least = _shape(organs, spread), miss
    return best


def _shape(organs: Sequence[tuple[NDArray[np.float64], NDArray[np.float64]]], spread: float) -> ScorePrior:
    """Shift, widening and freedom that give the organs' pooled T its 5 % and 1 % quantiles."""
    shift = float(np.mean([np.mean(q - s.mean(axis=1, keepdims=True)) for q, s in organs]))
    pooled = [tails(q, s, ScorePrior(shift, spread)).ravel() for q, s in organs]
    values, weights = np.concatenate(pooled), np.concatenate([np.full(p.size, 1 / p.size) for p in pooled])
    order = np.argsort(values)
    share = np.cumsum(weights[order]) / weights.sum()
    five, one = values[order][np.minimum(np.searchsorted(share, (0.95, 0.99)), len(values) - 1)]

    def excess(freedom: float) -> float:
        return float(stats.t.isf(0.01, freedom) / stats.t.isf(0.05, freedom) - one / five)

    if excess(_LEAST_FREEDOM) < 0:
        freedom = _LEAST_FREEDOM
    elif excess(_MOST_FREEDOM) > 0:
        freedom = _MOST_FREEDOM
    else:
        freedom = float(optimize.brentq(excess, _LEAST_FREEDOM, _MOST_FREEDOM))
    return ScorePrior(shift, spread, float(five / stats.t.isf(0.05, freedom)), freedom)


def _typical_spread(organs: Sequence[NDArray[np.float64]]) -> float:
    """Root mean square over organs of the standard deviation within draws (D, K)."""
    return float(np.sqrt(np.mean([o.var(axis=1, ddof=1).mean() for o in organs])))


def _whole(organ: OrganNormals, space: Resemblance, shots: int = 4) -> NDArray[np.float64]:
    vectors = directions(organ.descriptors, space.centre, space.splits)
    return np.stack([mean_logs(vectors[chosen]) for chosen in organ.draws[shots].supports])


def _outlier_limit(
    organs: Sequence[OrganNormals], space: Resemblance, outlier: Mapping[str, ScorePrior]
) -> float:
    """The t that 5 % of normal references exceed."""
    limits = []
    for organ in organs:
        for shots in (4, 8):
            numbers = {MAP: organ.draws[shots].map_score, WHOLE: _whole(organ, space, shots)}
            t = [
                np.max(
                    [outlyingness(n[d].tolist(), outlier[name]) or [] for name, n in numbers.items()], axis=0
                )
                for d in range(len(numbers[MAP]))
            ]
            limits.append(np.quantile(np.concatenate(t), 1 - _OUTLIER_RATE))
    return float(np.mean(limits))


def _resemblance(organs: Sequence[OrganNormals], splits: Sequence[int]) -> Resemblance:
    """The limit lies between what normals of one organ hardly exceed and what other organs hardly miss."""
    centre = np.mean([o.descriptors.mean(axis=0) for o in organs], axis=0)
    vectors = [directions(o.descriptors, centre, splits) for o in organs]
    own, alone, other = [], [], []
    for n, organ in enumerate(organs):
        draws = organ.draws[4]
        for chosen, held in zip(draws.supports, draws.queries, strict=True):
            references = vectors[n][chosen]
            own += [distance(vectors[n][q], references, SHRINKAGE) for q in held]
            alone += [distance(vectors[n][q], references[:1], SHRINKAGE) for q in held]
            for m, stranger in enumerate(organs):
                if stranger.organ != organ.organ:
                    asked = vectors[m][held % len(vectors[m])]
                    other += [distance(v, references, SHRINKAGE) for v in asked]
    usual = float(np.quantile(own, _OWN))
    limit = usual + _TOWARDS_OTHER * (float(np.quantile(other, _OTHER)) - usual)
    single = float(np.quantile(alone, _OWN)) - usual
    return Resemblance(centre, tuple(splits), limit, SHRINKAGE, single)
