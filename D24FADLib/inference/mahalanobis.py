"""Distance of the teacher's finest features to the supports' mean, in units of how the supports differ.

    r(x)^2 = d' S^-1 d / C,    d = f(x) - mean_k f_k(x),    f: smoothed features of stride 4, C channels

S is the covariance of the supports' own d, each against the mean of the others, pooled over the body: the
supports are too few for one at each place (PaDiM's, Defard 2021), but many enough for one in all. The
query's d, against the mean of more supports, varies less; it is widened to match. Supports that do not reach
a place do not take part in its mean.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor

WIDTH = 0.8  # sigma in positions; across slices as many mm
MOST_SLICES = 2.5
_SHRINKAGE = 0.05  # of S towards a multiple of the identity
_LEAST_VARIANCE = 1e-6  # of the features' mean square: identical supports have none
_SLAB = 16  # slices at a time


def smoothed_in_plane(features: Tensor) -> Tensor:
    """(..., h, w), the border repeated; float16, as all slices of a study are kept."""
    rows, cols = (
        torch.from_numpy(_smoother(length, WIDTH)).to(features.device) for length in features.shape[-2:]
    )
    return (rows @ features.float() @ cols.T).half()


def distances(
    features: NDArray[np.float16],
    reach: NDArray[np.bool_],
    judged: NDArray[np.bool_],
    sigma: float,
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """r of the query (n, h, w) and of each support against the others (K, n, h, w), K >= 2.

    features: (n, 1 + K, C, h, w), the query first, smoothed in plane; reach: (K, n, h, w), where each support
    shows anything; judged: (K, n, h, w), where support k and others have body (S is taken there). sigma: of
    the smoothing across slices, in slices.
    """
    count, volumes, channels = features.shape[:3]
    grid = features.shape[3:]
    covariance = np.zeros((channels, channels))
    number, power, seen = 0, 0.0, 0
    for part, slab in _slabs(features, sigma):
        _, own, _ = _differences(slab, reach[:, part])
        for k in range(volumes - 1):
            rows = np.moveaxis(own[k], 1, -1)[judged[k, part]].astype(np.float64)
            covariance += rows.T @ rows
            number += len(rows)
        power += float(np.square(slab, dtype=np.float64).sum())
        seen += slab.size
    covariance /= max(number, 1)
    usual = np.trace(covariance) / channels
    covariance *= 1 - _SHRINKAGE
    covariance += (_SHRINKAGE * usual + _LEAST_VARIANCE * power / max(seen, 1) + 1e-12) * np.eye(channels)
    whiten = np.linalg.inv(np.linalg.cholesky(covariance)).astype(np.float32)

    def length(d: NDArray[np.float32]) -> NDArray[np.float32]:
        flat = np.moveaxis(d, 1, 0).reshape(channels, -1)
        return np.sqrt(np.square(whiten @ flat).mean(axis=0)).reshape(len(d), *grid)

    query = np.zeros((count, *grid), np.float32)
    left_out = np.zeros((volumes - 1, count, *grid), np.float32)
    for part, slab in _slabs(features, sigma):
        towards, own, widened = _differences(slab, reach[:, part])
        query[part] = widened * length(towards)
        for k in range(volumes - 1):
            left_out[k, part] = length(own[k])
    return query, left_out


def _differences(
    slab: NDArray[np.float32], reach: NDArray[np.bool_]
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
    """d of the query (b, C, h, w), of the supports (K, b, C, h, w) and what widens the query's (b, h, w)."""
    supports = np.moveaxis(slab[:, 1:], 1, 0)
    there = reach[:, :, None]
    hits = there.sum(axis=0).astype(np.float32)
    total = np.where(there, supports, 0).sum(axis=0)
    own = supports - (total - supports) / np.maximum(hits - 1, 1)
    few = np.maximum(hits[:, 0], 2)
    widened = np.sqrt((1 + 1 / (few - 1)) / (1 + 1 / few))
    return slab[:, 0] - total / np.maximum(hits, 1), np.where(there, own, 0), widened


def _slabs(features: NDArray[np.float16], sigma: float) -> Iterator[tuple[slice, NDArray[np.float32]]]:
    """Slices of the stack, some at a time, smoothed across slices: (b, 1 + K, C, h, w)."""
    count = len(features)
    kernel = _smoother(count, sigma) if sigma > 0 and count > 1 else np.eye(count, dtype=np.float32)
    for start in range(0, count, _SLAB):
        part = slice(start, min(start + _SLAB, count))
        used = np.flatnonzero(kernel[part].any(axis=0))
        near = slice(int(used[0]), int(used[-1]) + 1)
        flat = features[near].astype(np.float32).reshape(near.stop - near.start, -1)
        yield part, (kernel[part, near] @ flat).reshape(-1, *features.shape[1:])


def _smoother(length: int, sigma: float) -> NDArray[np.float32]:
    """(length, length): a Gaussian about each position, beyond the border its value repeated."""
    return np.asarray(
        ndimage.gaussian_filter1d(np.eye(length, dtype=np.float32), sigma, axis=0, mode="nearest")
    )
