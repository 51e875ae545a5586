"""How far a value departs, place by place, from the supports' own.

    d = half of x - mean_k x_k, plus half of its distance to [min_k x_k, max_k x_k]
    z = d / s,    s^2 = 0.7 local + 0.3 overall mean square of the supports' own d

Each support is compared with the K - 1 others, and so is the query with every K - 1 of them, the mean taken.
local: Gaussian, 1.8 positions wide. Where fewer than half of the supports have body nothing is judged.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

Array = NDArray[np.float32]
Mask = NDArray[np.bool_]

WIDTH = 1.8  # positions: of the local spread, and of the rim
_LOCAL = 0.7
_LEAST_SHARE = 0.05
_RIM = 0.2  # what counts at the surface itself


def rim(depths_mm: Array, pitch_mm: tuple[float, float, float]) -> Array:
    """How much a departure counts, of depths below bodies' surfaces (bodies, n, h, w): less near any one's,
    as people's scalps differ in thickness."""
    width = WIDTH * (pitch_mm[1] + pitch_mm[2]) / 2
    return np.clip(depths_mm.min(axis=0) / width, _RIM, 1.0).astype(np.float32)


def deviations(
    values: Array, body: Mask, bodies: Mask, pitch_mm: tuple[float, float, float], least: float
) -> tuple[Array, Array]:
    """z of the query (n, h, w) and of each support (K, n, h, w), K >= 2; 0 where not judged.

    values: (1 + K, n, h, w), the query first; body, bodies: where it and the supports have tissue. least: a
    spread below which differences are numerical (identical supports have none).
    """
    query, supports = values[0], values[1:]
    everyone = list(range(len(supports)))
    others = [[j for j in everyone if j != k] for k in everyone]
    own = np.zeros_like(supports)
    judged = np.zeros_like(bodies)
    total, times = np.zeros_like(query), np.zeros(query.shape, np.int16)
    for k in everyone:
        found, known = _against(supports[k], supports[others[k]], bodies[others[k]])
        judged[k] = known & bodies[k]
        own[k][judged[k]] = found[judged[k]]
        found, known = _against(query, supports[others[k]], bodies[others[k]])
        total[known] += found[known]
        times += known
    in_mm = WIDTH * (pitch_mm[1] + pitch_mm[2]) / 2
    sigma = (in_mm / pitch_mm[0] if len(query) > 1 else 0.0, WIDTH, WIDTH)
    squares = np.stack([ndimage.gaussian_filter(d**2, sigma, mode="nearest") for d in own])
    shares = np.stack([ndimage.gaussian_filter(j.astype(np.float32), sigma, mode="nearest") for j in judged])
    overall = [float(np.mean(d[j] ** 2)) if j.any() else 0.0 for d, j in zip(own, judged, strict=True)]

    def spread(kept: Sequence[int]) -> Array:
        usual = float(np.median([overall[k] for k in kept]))
        share = shares[kept].sum(axis=0)
        near = squares[kept].sum(axis=0) / np.maximum(share, _LEAST_SHARE)
        near = np.where(share > _LEAST_SHARE, near, usual)
        return np.sqrt(np.maximum(_LOCAL * near + (1 - _LOCAL) * usual, least**2)).astype(np.float32)

    enough = body & (times > 0) & (bodies.sum(axis=0) >= (len(supports) + 1) // 2)
    z = np.where(enough, total / np.maximum(times, 1) / spread(everyone), 0)
    return z.astype(np.float32), np.stack([own[k] / spread(others[k]) for k in everyone])


def _against(x: Array, supports: Array, bodies: Mask) -> tuple[Array, Mask]:
    """d of x (n, h, w) against supports (m, n, h, w), and where at least half of these have body."""
    hits = bodies.sum(axis=0)
    mean = np.where(bodies, supports, 0).sum(axis=0) / np.maximum(hits, 1)
    # Without any support's body there is no interval: any finite one does, as it is not looked at.
    low = np.where(bodies, supports, np.float32(1e9)).min(axis=0)
    high = np.where(bodies, supports, np.float32(-1e9)).max(axis=0)
    outside = np.maximum(x - high, 0) - np.maximum(low - x, 0)
    return (0.5 * (x - mean) + 0.5 * outside).astype(np.float32), hits >= (len(supports) + 1) // 2
