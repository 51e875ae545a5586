"""Two plain values of a volume at each place: how bright it is, and how noisy.

Deep features see what a lesion looks like; they are poor at "too dark here" and blind to a changed noise
level. Both are read off the prepared voxels v, in [0, 1]; G(s) is a Gaussian of s positions of the grid of
comparison in plane, and of as many mm, 2 at most, across slices:

    brightness  G(0.6) * u - slow    u: v with `intensity.prepare`'s compression of the top undone;
                                     slow: mean of u in the tissue, G(5.5) wide (the coil's bias field)
    noise       G(0.45) * log(|H * v| + 0.0015), less its median in the body
                                     H: [1 -2 1] x [1 -2 1] / 6 in plane, blind to straight edges
                                     (Immerkaer, Comput. Vis. Image Underst. 64, 1996)

Positions, not mm: a grid fits the body it shows, and so does what counts as small in it.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

Array = NDArray[np.float32]
Pitch = tuple[float, float, float]

FINE, SLOW, NOISE = 0.6, 5.5, 0.45  # sigmas in positions
_ACROSS_MM = 2.0
_TOP = 0.9  # of `intensity.prepare`: above it values bend towards 1
_BRIGHTEST = 1.6
_TISSUE = 0.15
_LEAST_TISSUE = 0.05
_NOISE_FLOOR = 1.5e-3
_SLAB = 16  # slices at a time


def brightness_and_noise(
    volume: NDArray[np.floating], grid: tuple[int, int], pitch_mm: Pitch, compressed: bool
) -> tuple[Array, Array]:
    """Of voxels (n, rows, cols), on a grid (n, h, w); pitch_mm: between its positions along slice, row,
    column. compressed: whether values above 0.9 are (not those of CT). The noise is not centred yet."""
    count, rows, cols = volume.shape
    fine, noise = (_kernels((rows, cols), grid, sigma) for sigma in (FINE, NOISE))
    step = max(
        1, min(rows // grid[0], cols // grid[1])
    )  # the slow part needs no more than a voxel a position
    slow = _kernels((rows, cols), grid, SLOW, step)
    shape = (count, *grid)
    bright, level, tissue, noisy = (np.empty(shape, np.float32) for _ in range(4))
    for start in range(0, count, _SLAB):
        part = slice(start, start + _SLAB)
        v = np.asarray(volume[part], np.float32)
        noisy[part] = _sampled(np.log(np.abs(_high_pass(v)) + _NOISE_FLOOR), noise)
        u = _uncompressed(v) if compressed else v
        bright[part] = _sampled(u, fine)
        sparse = u[:, ::step, ::step]
        inside = (v[:, ::step, ::step] > _TISSUE).astype(np.float32)
        level[part] = _sampled(sparse * inside, slow)
        tissue[part] = _sampled(inside, slow)
    if count > 1:
        in_plane = (pitch_mm[1] + pitch_mm[2]) / 2
        for values, sigma in ((bright, FINE), (level, FINE), (tissue, FINE), (noisy, NOISE)):
            across = min(sigma * in_plane, _ACROSS_MM) / pitch_mm[0]
            ndimage.gaussian_filter1d(values, across, axis=0, output=values, mode="nearest")
    return np.asarray(bright - level / np.maximum(tissue, _LEAST_TISSUE), np.float32), noisy


def centred(noise: Array, body: NDArray[np.bool_]) -> Array:
    """Noise (n, h, w) less its median in the body: a scan may be noisier as a whole."""
    return noise - np.float32(np.median(noise[body])) if body.any() else noise


def _uncompressed(v: Array) -> Array:
    above = v > _TOP
    u = v.copy()
    room = np.float32(1.0 - _TOP)
    u[above] = _TOP - room * np.log(np.maximum(1.0 - v[above], 1e-4) / room)
    return np.minimum(u, np.float32(_BRIGHTEST))


def _high_pass(v: Array) -> Array:
    kernel = np.array([1.0, -2.0, 1.0], np.float32)
    return np.asarray(ndimage.convolve1d(ndimage.convolve1d(v, kernel, axis=1), kernel, axis=2) / 6.0)


def _kernels(
    size: tuple[int, int], grid: tuple[int, int], sigma: float, step: int = 1
) -> tuple[Array, Array]:
    """Gaussians about the grid's positions (corners aligned), (h, rows) and (w, cols), of every step-th
    voxel."""
    found = []
    for length, positions in zip(size, grid, strict=True):
        centres = np.linspace(0, length - 1, positions)
        spread = max(sigma * (length - 1) / max(positions - 1, 1), 0.5)
        weights = np.exp(-0.5 * ((np.arange(0, length, step) - centres[:, None]) / spread) ** 2)
        found.append((weights / weights.sum(axis=1, keepdims=True)).astype(np.float32))
    return found[0], found[1]


def _sampled(slices: Array, kernels: tuple[Array, Array]) -> Array:
    """(b, rows, cols) -> (b, h, w)."""
    return np.asarray(kernels[0] @ slices @ kernels[1].T)
