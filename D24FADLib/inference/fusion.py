"""Several kinds of evidence as one map, each in units of what the supports show of it themselves.

    map(x) = 4 sqrt( sum_c (w_c max(z_c(x), 0) / p_c)^2 )

p_c: the mean over supports of the robust maximum of their own z_c, each judged by the others. So every kind
counts alike at the height that normal studies reach; 4 is about the z that they reach there, and the map
reads like one: 4 is as far as a reference departs from the others at its strongest places.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from D24FADLib.inference.calibration import robust_maximum

Array = NDArray[np.float32]

TEXTURE = "texture"
KINDS = ("brighter", "darker", "noisier", "blander", TEXTURE)  # than the references
UNIT = 4.0
_LEAST_PEAK = 1.0  # of z: identical supports have none
_WORTH_NAMING = 0.25  # of the squared map at a place


@dataclass(frozen=True, eq=False)
class Channel:
    """One kind of evidence: z of the query (n, h, w) and of the supports (K, n, h, w), 0 where not judged;
    what is below 0 does not count. kind: one of KINDS; weight: w of the module's text."""

    kind: str
    query: Array
    supports: Array
    weight: float = 1.0


@dataclass(frozen=True, eq=False)
class Fused:
    """The map of the query (n, h, w) and of the supports (K, n, h, w), and the query's map of each kind alone
    (whose squares sum up to the map's)."""

    query: Array
    supports: Array
    parts: dict[str, Array]


def both_sides(kinds: tuple[str, str], query: Array, supports: Array, weight: float) -> list[Channel]:
    """Above and below the references are two kinds."""
    return [
        Channel(kind, np.maximum(sign * query, 0), np.maximum(sign * supports, 0), weight)
        for kind, sign in zip(kinds, (1, -1), strict=True)
    ]


def fuse(channels: Sequence[Channel]) -> Fused:
    query, supports = np.zeros_like(channels[0].query), np.zeros_like(channels[0].supports)
    parts: dict[str, Array] = {}
    for channel in channels:
        peak = float(np.mean([robust_maximum(z[z != 0]) for z in channel.supports]))
        scale = UNIT * channel.weight / max(peak, _LEAST_PEAK)
        parts[channel.kind] = np.asarray(scale * np.maximum(channel.query, 0), np.float32)
        query += parts[channel.kind] ** 2
        supports += (scale * np.maximum(channel.supports, 0)) ** 2
    return Fused(np.sqrt(query), np.sqrt(supports), parts)


def named(heights: dict[str, float]) -> tuple[str, ...]:
    """The kinds that make up at least a quarter of the map at a place, the strongest first."""
    total = sum(h**2 for h in heights.values())
    order = sorted(heights, key=lambda kind: -heights[kind])
    return tuple(kind for kind in order if total > 0 and heights[kind] ** 2 >= _WORTH_NAMING * total)
