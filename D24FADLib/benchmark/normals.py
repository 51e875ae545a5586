"""How the detector's numbers vary among normal pictures of one organ: what `calibration_fit` learns from
and what coverage is measured on. Draws of supports judge held-back pictures with the library's own
comparison and calibration.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import ndtri

from D24FADLib.benchmark.features import load_image
from D24FADLib.benchmark.shipped import SIGMA, Among, ShippedMethod
from D24FADLib.inference.calibration import (
    LEVELS,
    calibrate,
    depth_below_surface,
    findings_above,
    own_knots,
    smooth,
    threshold_for,
)
from D24FADLib.inference.findings import neighbourhood
from D24FADLib.inference.outliers import map_scores
from D24FADLib.inference.resemblance import SIZE, descriptor
from D24FADLib.inference.study_score import PICTURE, study_score

Progress = Callable[[str, int, int], None]
Array = NDArray[np.float64]
PEAKS = 5  # highest z of a map that are kept
BINS = np.linspace(-10.0, 15.0, 1001)  # of z
_IDENTITY = np.asarray(ndtri(np.asarray(LEVELS)), np.float64)


@dataclass(frozen=True, eq=False)
class Draws:
    """D draws of K supports, each judging Q pictures. z is as it is before `calibration.to_normal`.

    supports (D, K), queries (D, Q): positions in the lists given. query_score (D, Q), support_score (D,
    K): of pictures (`study_score`). query_peaks (D, Q, PEAKS), support_peaks (D, K, PEAKS): highest z.
    knots (D, levels) of the supports' own z. histogram (D, Q, bins): of each query's z. findings (D, Q):
    the queries' at the threshold at which the supports have one (or the budget asked for) each. map_score
    (D, K): see `outliers`.
    """

    supports: NDArray[np.intp]
    queries: NDArray[np.intp]
    query_score: Array
    support_score: Array
    query_peaks: Array
    support_peaks: Array
    knots: Array
    histogram: Array
    findings: Array
    map_score: Array


def judge_draws(
    method: ShippedMethod,
    compare: Among,
    pool: int,
    tested: int | None,
    *,
    shots: int,
    draws: int,
    queries: int,
    seed: int,
    budget: float = 1.0,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Draws:
    """Supports from so many of a pool; queries from as many `tested` behind it, or, where that is None, from
    the rest of the pool. compare: see `ShippedMethod.among`.

    budget: findings that the supports have at the threshold of `Draws.findings`.
    """
    rng = np.random.default_rng([seed, shots])
    structure = neighbourhood((1, 2, 2))
    rows: dict[str, list[Array]] = {f.name: [] for f in fields(Draws)}
    for number in range(draws):
        progress(number, draws)
        order = rng.permutation(pool)
        chosen = order[:shots]
        judged = order[shots:] if tested is None else rng.permutation(tested)
        judged = judged[:queries]
        found = compare(judged if tested is None else pool + judged, chosen)
        reduced, own_maps, (whole, whole_own) = found.reduced, found.left_out, found.overall
        assert reduced is not None
        assert own_maps is not None
        assert whole_own is not None
        maps = reduced.numpy()
        left_out = smooth(own_maps.numpy(), SIGMA)[:, None]
        overall, overall_own = (smooth(m.numpy(), SIGMA) for m in (whole, whole_own))
        pitch = method.pitch(maps.shape)
        fitted = calibrate(left_out, pitch, _IDENTITY, worth=np.inf)
        depth = depth_below_surface(np.ones((1, *maps.shape[1:]), bool), pitch)
        residual = smooth(maps, SIGMA)
        z = fitted.scores(residual, depth)
        threshold = threshold_for(fitted.support_scores, budget, 2, structure, floor=-np.inf)
        for name, value in {
            "supports": chosen,
            "queries": judged,
            "query_score": [
                study_score(PICTURE, m.ravel(), r.ravel()) for m, r in zip(z, overall, strict=True)
            ],
            "support_score": [
                study_score(PICTURE, m.ravel(), r.ravel())
                for m, r in zip(fitted.support_scores, overall_own, strict=True)
            ],
            "query_peaks": _peaks(z),
            "support_peaks": _peaks(fitted.support_scores[:, 0]),
            "knots": own_knots(fitted.support_scores),
            "histogram": [np.histogram(np.clip(m, BINS[0], BINS[-1]), BINS)[0] for m in z],
            "findings": [findings_above(m[None, None], threshold, 2, structure) for m in z],
            "map_score": map_scores(left_out),
        }.items():
            rows[name].append(np.asarray(value))
    return Draws(**{name: np.stack(values) for name, values in rows.items()})  # type: ignore[arg-type]


def _peaks(maps: NDArray[np.float32]) -> Array:
    flat = maps.reshape(len(maps), -1)
    return np.partition(flat, -PEAKS, axis=1)[:, -PEAKS:].astype(np.float64)


def descriptors(method: ShippedMethod, images: Sequence[Path]) -> Array:
    """(N, channels), see `resemblance.descriptor`."""
    found = []
    for start in range(0, len(images), 16):
        batch = torch.stack([load_image(path, SIZE) for path in images[start : start + 16]])
        found.append(descriptor(method.model, batch))
    return np.concatenate(found)


def kept(file: Path, make: Callable[[], Draws]) -> Draws:
    """The draws of a file, made and written where it does not exist."""
    if not file.is_file():
        made = make()
        file.parent.mkdir(parents=True, exist_ok=True)
        partial = file.with_suffix(".partial.npz")
        np.savez_compressed(partial, **{f.name: getattr(made, f.name) for f in fields(Draws)})
        partial.replace(file)
    with np.load(file) as found:
        return Draws(**{f.name: found[f.name] for f in fields(Draws)})


def fingerprint(*parts: object) -> str:
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:20]
