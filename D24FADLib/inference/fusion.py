"""Several kinds of evidence as one map, each in units of what the supports show of it themselves.

    map(x) = 4 sqrt( sum_c (w_c max(z_c(x), 0) / p_c)^2 )

p_c: the mean over supports of the robust maximum of their own z_c, each judged by the others. So every kind
counts alike at the height that normal studies reach; 4 is about the z that they reach there, and the map
reads like one: 4 is as far as a reference departs from the others at its strongest places.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from D24FADLib.inference.calibration import robust_maximum

Array = NDArray[np.float32]

TEXTURE = "texture"
KINDS = ("brighter", "darker", "noisier", "blander", TEXTURE)  # than the references
UNIT = 4.0
_LEAST_PEAK = 1.0  # of z: identical supports have none
_WORTH_NAMING = 0.25  # of the squared map at a place


def both_sides(kinds: tuple[str, str], z: Array) -> dict[str, Array]:
    """Above and below the references are two kinds."""
    return {kinds[0]: np.maximum(z, 0), kinds[1]: np.maximum(-z, 0)}


def scale_of(supports: Array, weight: float) -> float:
    """4 w / p of the module's text, of one kind's z of the supports (K, n, h, w), 0 where not judged."""
    peak = float(np.mean([robust_maximum(z[z != 0]) for z in supports]))
    return UNIT * weight / max(peak, _LEAST_PEAK)


def fuse(z: Mapping[str, Array], scales: Mapping[str, float]) -> tuple[Array, dict[str, Array]]:
    """The map of z of each kind (any shape, 0 where not judged; what is below 0 does not count), and the map
    of each kind alone, whose squares sum up to the map's."""
    parts = {kind: np.asarray(scales[kind] * np.maximum(one, 0), np.float32) for kind, one in z.items()}
    total = np.zeros_like(next(iter(parts.values())))
    for part in parts.values():
        total += part**2
    return np.sqrt(total), parts


def named(heights: dict[str, float]) -> tuple[str, ...]:
    """The kinds that make up at least a quarter of the map at a place, the strongest first."""
    total = sum(h**2 for h in heights.values())
    order = sorted(heights, key=lambda kind: -heights[kind])
    return tuple(kind for kind in order if total > 0 and heights[kind] ** 2 >= _WORTH_NAMING * total)
