"""Copies: a reference that equals the query or another reference, voxel for voxel or nearly so.

Images of different patients agree in their anatomy but never in their noise. So the finest detail is
compared: what is left of each image after smoothing (sigma one pixel), inside the body, as outlines are
alike. Between patients it correlates near 0 in pictures and 0.2 in aligned volumes, and stays high in a copy
that was compressed, rescaled, resampled or stored in another file. In images that were smoothed the finest
detail is anatomy and all correlate, up to 0.8: there a copy must stand out among the pairs, too.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from D24FADLib.imaging.volume import Volume
from D24FADLib.inference.checks import WARN, Check
from D24FADLib.inference.threads import side_by_side

# Correlation of the finest detail from which on two images are one: at least, in pictures and in volumes,
# which are aligned with each other; and however alike all are.
PICTURES, VOLUMES, SURELY = 0.4, 0.7, 0.85
_BEYOND = 0.4  # of the way from what the other pairs have to 1
_USUAL = 0.2  # where there is no other pair
_SLICES, _PIXELS = 12, 2**20  # that are looked at: enough, and soon done
_BODY = 0.1  # of prepared intensities: what is darker is air
_RIM = 2  # pixels of the body's outline that do not count
_LEAST = 200  # pixels: fewer agree by chance

Detail = tuple[NDArray[np.float32], NDArray[np.bool_]]


def detail(slices: NDArray[np.float32]) -> Detail:
    """The finest detail of prepared slices (n, rows, cols[, 3]), of at most 12 of them, and where it counts.

    Both in a row. Colours are averaged. The detail has a mean of 0, is clipped so that a few edges do not
    decide, and is 0 where it does not count.
    """
    count = min(_SLICES, max(3, _PIXELS // (slices.shape[1] * slices.shape[2])))
    chosen = slices[np.unique(np.linspace(0, len(slices) - 1, count).round().astype(int))]
    grey = np.asarray(chosen, np.float32)
    if grey.ndim == 4:
        grey = grey.mean(axis=-1)
    inside = ndimage.binary_erosion(grey > _BODY, np.ones((1, 3, 3)), _RIM)
    fine = grey - ndimage.gaussian_filter(grey, (0, 1, 1))
    if inside.any():
        size = np.abs(fine[inside])
        limit = 3 * 1.4826 * float(np.median(size)) or float(size.max())
        fine = np.clip(fine, -limit, limit)
        fine = np.where(inside, fine - fine[inside].mean(), 0)
    return np.asarray(fine, np.float32).ravel(), inside.ravel()


def agreement(a: Detail, b: Detail) -> float:
    """Correlation of two details where both count; 0 for flat ones, and for too few pixels to tell."""
    (x, in_x), (y, in_y) = a, b
    if np.count_nonzero(in_x & in_y) < _LEAST:
        return 0.0
    norm = float(np.sqrt(np.dot(x * x, in_y) * np.dot(y * y, in_x)))
    return float(x @ y) / norm if norm > 0 else 0.0


def _limits(found: dict[tuple[int, int], float], least: float) -> dict[tuple[int, int], float]:
    """The correlation from which on each pair is a copy."""
    limits = {}
    for pair in found:
        others = [value for other, value in found.items() if other != pair]
        usual = float(np.median(others)) if others else _USUAL
        limits[pair] = float(np.clip(usual + _BEYOND * (1 - usual), least, SURELY))
    return limits


def repeated(supports: Sequence[Volume]) -> list[int]:
    """Positions of references whose voxels equal those of an earlier one."""
    seen: set[str] = set()
    again = []
    for k, support in enumerate(supports):
        digest = support.content_hash()
        if digest in seen:
            again.append(k)
        seen.add(digest)
    return again


def check_copies(
    query: Volume,
    supports: Sequence[Volume],
    prepared_query: NDArray[np.float32],
    prepared_supports: Sequence[NDArray[np.float32]],
) -> list[Check]:
    """References that are, or nearly are, the query or an earlier reference.

    prepared_*: slices on one grid, aligned, (n, rows, cols[, 3]).
    """
    hashes = [query.content_hash(), *(s.content_hash() for s in supports)]
    details = side_by_side(detail, (prepared_query, *prepared_supports))
    values = {(a, b): agreement(details[a], details[b]) for a, b in combinations(range(len(details)), 2)}
    limits = _limits(values, PICTURES if len(prepared_query) == 1 else VOLUMES)
    found = []
    for k, support in enumerate(supports, start=1):
        for earlier in range(k):
            equal = hashes[earlier] == hashes[k]
            value = 1.0 if equal else values[earlier, k]
            if not equal and value < limits[earlier, k]:
                continue
            what = "is" if equal else "is nearly"
            if earlier == 0:
                text = f"{support.name} {what} the study itself: it hides whatever is abnormal in it."
            else:
                text = (
                    f"{support.name} {what} the same as reference {earlier} ({supports[earlier - 1].name}): "
                    "it tells nothing more about what is normal."
                )
            found.append(Check("duplicate", WARN, k, text, value))
            break
    return found
