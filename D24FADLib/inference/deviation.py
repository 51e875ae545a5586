"""How far a value departs, place by place, from the supports' own.

    d = half of x - mean_k x_k, plus half of its distance to [min_k x_k, max_k x_k]
    z = d / s,    s^2 = 0.7 local + 0.3 overall mean square of the supports' own d

Each support is compared with the K - 1 others, and so is the query with every K - 1 of them, the mean taken.
local: Gaussian, 1.8 positions wide. Where fewer than half of the supports have body nothing is judged.

All that depends on the supports alone is found once (`usual`) and may be kept; a query then costs the same
however many there are: leaving one out changes the highest and lowest value only where it is that one's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from D24FADLib.inference.threads import side_by_side

Array = NDArray[np.float32]
Mask = NDArray[np.bool_]

WIDTH = 1.8  # positions: of the local spread, and of the rim
_LOCAL = 0.7
_LEAST_SHARE = 0.05
_RIM = 0.2  # what counts at the surface itself
_BEYOND = np.float32(1e9)  # of all values: where no support has body there is no interval, and none is read


def rim(depths_mm: Array, pitch_mm: tuple[float, float, float]) -> Array:
    """How much a departure counts, of depths below bodies' surfaces (bodies, n, h, w): less near any one's,
    as people's scalps differ in thickness."""
    width = WIDTH * (pitch_mm[1] + pitch_mm[2]) / 2
    return np.clip(depths_mm.min(axis=0) / width, _RIM, 1.0).astype(np.float32)


@dataclass(frozen=True, eq=False)
class Usual:
    """What the supports show of a value at each place (n, h, w).

    mean: of their means without each one that can be left out. high, low: (2, n, h, w), the two outermost
    values; second_high, second_low: share of the sets of K - 1 in which the second one is the outermost.
    spread: s of the query. judged: where enough of them have body.
    """

    mean: Array
    high: Array
    low: Array
    second_high: Array
    second_low: Array
    spread: Array
    judged: Mask

    def z(self, query: Array, body: Mask) -> Array:
        """z of a query (n, h, w); 0 where not judged or beyond its body."""
        outside = (1 - self.second_high) * np.maximum(query - self.high[0], 0)
        outside += self.second_high * np.maximum(query - self.high[1], 0)
        outside -= (1 - self.second_low) * np.maximum(self.low[0] - query, 0)
        outside -= self.second_low * np.maximum(self.low[1] - query, 0)
        z = 0.5 * (query - self.mean + outside) / self.spread
        return np.where(body & self.judged, z, 0).astype(np.float32)


def usual(
    supports: Array, bodies: Mask, pitch_mm: tuple[float, float, float], least: float
) -> tuple[Usual, Array]:
    """What the supports (K, n, h, w), K >= 2, show, and z of each against the others, 0 where not judged.

    bodies: where they have tissue. least: a spread below which differences are numerical (identical supports
    have none).
    """
    count = len(supports)
    everyone = list(range(count))
    others = [[j for j in everyone if j != k] for k in everyone]
    hits = bodies.sum(axis=0, dtype=np.int16)
    total = np.where(bodies, supports, 0).sum(axis=0)
    high, highest = _outermost(np.where(bodies, supports, -_BEYOND))
    low, lowest = _outermost(np.where(bodies, -supports, -_BEYOND))
    low = -low
    own, judged = np.zeros_like(supports), np.zeros_like(bodies)
    sets, mean = np.zeros(hits.shape, np.int16), np.zeros(hits.shape, np.float32)
    second_high, second_low = np.zeros_like(mean), np.zeros_like(mean)
    for k, (x, body) in enumerate(zip(supports, bodies, strict=True)):
        rest = hits - body
        known = rest >= count // 2  # half of the K - 1 others
        without = (total - np.where(body, x, 0)) / np.maximum(rest, 1)
        above, below = highest == k, lowest == k
        outside = np.maximum(x - np.where(above, high[1], high[0]), 0)
        outside -= np.maximum(np.where(below, low[1], low[0]) - x, 0)
        judged[k] = known & body
        own[k] = np.where(judged[k], 0.5 * (x - without + outside), 0)
        sets += known
        mean += np.where(known, without, 0)
        second_high += known & above
        second_low += known & below
    some = np.maximum(sets, 1).astype(np.float32)
    in_mm = WIDTH * (pitch_mm[1] + pitch_mm[2]) / 2
    sigma = (in_mm / pitch_mm[0] if len(mean) > 1 else 0.0, WIDTH, WIDTH)

    def blurred(x: Array) -> Array:
        return np.asarray(ndimage.gaussian_filter(x, sigma, mode="nearest"))

    squares = np.stack(side_by_side(blurred, own**2))
    shares = np.stack(side_by_side(blurred, judged.astype(np.float32)))
    overall = [float(np.mean(d[j] ** 2)) if j.any() else 0.0 for d, j in zip(own, judged, strict=True)]

    def spread(kept: Sequence[int]) -> Array:
        typical = float(np.median([overall[k] for k in kept]))
        share = shares[kept].sum(axis=0)
        near = squares[kept].sum(axis=0) / np.maximum(share, _LEAST_SHARE)
        near = np.where(share > _LEAST_SHARE, near, typical)
        return np.sqrt(np.maximum(_LOCAL * near + (1 - _LOCAL) * typical, least**2)).astype(np.float32)

    enough = (sets > 0) & (hits >= (count + 1) // 2)
    mean, second_high, second_low = (
        np.asarray(x / some, np.float32) for x in (mean, second_high, second_low)
    )
    found = Usual(mean, high, low, second_high, second_low, spread(everyone), enough)
    return found, np.stack(side_by_side(lambda k: own[k] / spread(others[k]), everyone))


def _outermost(values: Array) -> tuple[Array, NDArray[np.int8]]:
    """The two highest of (K, n, h, w), (2, n, h, w), and whose the first is."""
    first, second = values[0].copy(), np.full_like(values[0], -_BEYOND)
    whose = np.zeros(first.shape, np.int8)
    for k, x in enumerate(values[1:], start=1):
        above = x > first
        second = np.where(above, first, np.maximum(second, x))
        first = np.where(above, x, first)
        whose[above] = k
    return np.stack([first, second]), whose
