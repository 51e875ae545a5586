"""References whose left and right are exchanged.

Of every image the asymmetry is taken: the coarse image less its own mirror image. In studies that show the
patient from the same side asymmetries correlate (the heart's side, the liver's); in a mirrored one they
correlate negatively with the rest. Where the rest do not agree among themselves, as in symmetric anatomy or
in pictures of either eye, nothing can be told and nothing is said.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from D24FADLib.imaging.planes import Plane
from D24FADLib.inference.checks import QUERY, WARN, Check

AGREE = 0.25  # correlation that the others must have with each other, on average
OPPOSED = -0.25  # of the one with the others
_COARSE = 24  # positions along each axis of the coarse image
_LEAST = 3


def asymmetry(slices: NDArray[np.float32], plane: Plane) -> NDArray[np.float64] | None:
    """Unit vector of the left-right differences of prepared slices (n, rows, cols[, 3]).

    The patient's left-right is the columns of axial and coronal slices and the slice axis of sagittal ones.
    None for a perfectly symmetric image.
    """
    grey = np.asarray(slices)
    if grey.ndim == 4:
        grey = grey.mean(axis=-1)
    grey = grey[tuple(slice(None, None, max(1, side // (2 * _COARSE))) for side in grey.shape)].astype(
        np.float32
    )
    count = [min(side, _COARSE) for side in grey.shape]
    smoothed = ndimage.gaussian_filter(grey, [0.5 * s / c for s, c in zip(grey.shape, count, strict=True)])
    places = [np.linspace(0, s - 1, c).round().astype(int) for s, c in zip(grey.shape, count, strict=True)]
    coarse = smoothed[np.ix_(*places)].astype(np.float64)
    difference = coarse - np.flip(coarse, axis=0 if plane is Plane.SAGITTAL else 2)
    norm = float(np.linalg.norm(difference))
    return (difference / norm).ravel() if norm > 1e-6 else None


def check_mirrored(
    names: Sequence[str],
    query: NDArray[np.float32],
    supports: Sequence[NDArray[np.float32]],
    plane: Plane,
) -> list[Check]:
    """Which of the query and its references, aligned slices of one grid, is mirrored against all others."""
    vectors = [asymmetry(s, plane) for s in (query, *supports)]
    known = [n for n, vector in enumerate(vectors) if vector is not None]
    if len(known) < _LEAST:
        return []
    stacked = np.stack([vectors[n] for n in known])  # type: ignore[misc]
    correlation = stacked @ stacked.T
    found = []
    for row, number in enumerate(known):
        others = [r for r in range(len(known)) if r != row]
        among = correlation[np.ix_(others, others)][np.triu_indices(len(others), 1)]
        towards = correlation[row, others]
        if among.min() > 0 and among.mean() >= AGREE and towards.max() < 0 and towards.mean() <= OPPOSED:
            who = "The study" if number == 0 else names[number - 1]
            found.append(
                Check(
                    "mirrored", WARN, number or QUERY,
                    f"{who} looks left-right mirrored against the others: is its orientation right?",
                    float(towards.mean()),
                )
            )  # fmt: skip
    return found
