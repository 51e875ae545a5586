"""Copies: a reference that equals the query or another reference, voxel for voxel or nearly so.

Images of different patients agree in their anatomy but never in their noise. So the finest detail is
compared: what is left of each image after smoothing (sigma one pixel) correlates near 0 between patients,
registered or not, and stays high in a copy that was compressed, rescaled or stored in another file.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from D24FADLib.imaging.volume import Volume
from D24FADLib.inference.checks import WARN, Check
from D24FADLib.inference.threads import side_by_side

COPY = 0.5  # correlation of the finest detail from which on two images are one
_SLICES = 12


def detail(slices: NDArray[np.float32]) -> NDArray[np.float32]:
    """The finest detail of prepared slices (n, rows, cols[, 3]), of at most 12 of them, colours averaged."""
    chosen = slices[np.unique(np.linspace(0, len(slices) - 1, _SLICES).round().astype(int))]
    grey = np.asarray(chosen, np.float32)
    if grey.ndim == 4:
        grey = grey.mean(axis=-1)
    return np.asarray(grey - ndimage.gaussian_filter(grey, (0, 1, 1)), np.float32)


def agreement(a: NDArray[np.float32], b: NDArray[np.float32]) -> float:
    """Rank-free correlation of two details, clipped so that a few edges do not decide; 0 for flat ones."""
    return _correlation(_clipped(a), _clipped(b))


def _clipped(detail: NDArray[np.float32]) -> NDArray[np.float32]:
    """In a row, its mean taken off."""
    limit = 3 * 1.4826 * float(np.median(np.abs(detail))) or float(np.abs(detail).max())
    clipped = np.clip(detail, -limit, limit).ravel()
    return np.asarray(clipped - clipped.mean(), np.float32)


def _correlation(x: NDArray[np.float32], y: NDArray[np.float32]) -> float:
    norm = float(np.linalg.norm(x) * np.linalg.norm(y))
    return float(x @ y) / norm if norm > 0 else 0.0


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
    details = side_by_side(lambda s: _clipped(detail(s)), (prepared_query, *prepared_supports))
    found = []
    for k, support in enumerate(supports, start=1):
        for earlier in range(k):
            equal = hashes[earlier] == hashes[k]
            value = 1.0 if equal else _correlation(details[earlier], details[k])
            if not equal and value < COPY:
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
