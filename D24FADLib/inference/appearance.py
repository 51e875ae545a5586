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

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor

from D24FADLib.inference.threads import side_by_side

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
    volumes: Sequence[NDArray[np.floating]], grid: tuple[int, int], pitch_mm: Pitch, compressed: bool
) -> tuple[Array, Array]:
    """Of volumes of voxels (n, rows, cols), each on a grid: (volumes, n, h, w). pitch_mm: between its
    positions along slice, row, column. compressed: whether values above 0.9 are (not those of CT). The noise
    is not centred yet."""
    count, rows, cols = volumes[0].shape
    fine, noise = (_kernels((rows, cols), grid, sigma) for sigma in (FINE, NOISE))
    # The slow part needs no more than a voxel a position.
    step = max(1, min(rows // grid[0], cols // grid[1]))
    slow = _kernels((rows, cols), grid, SLOW, step)
    bright, level, tissue, noisy = (np.empty((len(volumes), count, *grid), np.float32) for _ in range(4))

    @torch.inference_mode()
    def look(number: int, start: int) -> None:
        part = slice(start, start + _SLAB)
        v = torch.from_numpy(np.array(volumes[number][part], np.float32))
        noisy[number, part] = _sampled(_high_pass(v).abs_().add_(_NOISE_FLOOR).log_(), noise)
        u = _uncompressed(v) if compressed else v
        bright[number, part] = _sampled(u, fine)
        inside = (v[:, ::step, ::step] > _TISSUE).float()
        level[number, part] = _sampled(u[:, ::step, ::step] * inside, slow)
        tissue[number, part] = _sampled(inside, slow)

    slabs = [(number, start) for number in range(len(volumes)) for start in range(0, count, _SLAB)]
    side_by_side(look, *zip(*slabs, strict=True))
    if count > 1:
        in_plane = (pitch_mm[1] + pitch_mm[2]) / 2
        for values, sigma in ((bright, FINE), (level, FINE), (tissue, FINE), (noisy, NOISE)):
            across = min(sigma * in_plane, _ACROSS_MM) / pitch_mm[0]
            ndimage.gaussian_filter1d(values, across, axis=1, output=values, mode="nearest")
    return np.asarray(bright - level / np.maximum(tissue, _LEAST_TISSUE), np.float32), noisy


def centred(noise: Array, body: NDArray[np.bool_]) -> Array:
    """Noise (n, h, w) less its median in the body: a scan may be noisier as a whole."""
    return noise - np.float32(np.median(noise[body])) if body.any() else noise


def _uncompressed(v: Tensor) -> Tensor:
    room, above, u = 1.0 - _TOP, v > _TOP, v.clone()
    u[above] = _TOP - room * torch.log((1.0 - v[above]).clamp_min_(1e-4).div_(room))
    return u.clamp_max_(_BRIGHTEST)


def _high_pass(v: Tensor) -> Tensor:
    if min(v.shape[1:]) < 2:
        return torch.zeros_like(v)
    for axis in (1, 2):  # second differences; beyond the border its value is repeated
        steps = v.diff(dim=axis)
        last = steps.narrow(axis, steps.shape[axis] - 1, 1)
        v = torch.cat([steps.narrow(axis, 0, 1), steps.diff(dim=axis), -last], axis)
    return v.div_(6.0)


def _kernels(
    size: tuple[int, int], grid: tuple[int, int], sigma: float, step: int = 1
) -> tuple[Tensor, Tensor]:
    """Gaussians about the grid's positions (corners aligned), (h, rows) and (w, cols), of every step-th
    voxel."""
    found = []
    for length, positions in zip(size, grid, strict=True):
        centres = np.linspace(0, length - 1, positions)
        spread = max(sigma * (length - 1) / max(positions - 1, 1), 0.5)
        weights = np.exp(-0.5 * ((np.arange(0, length, step) - centres[:, None]) / spread) ** 2)
        weights /= weights.sum(axis=1, keepdims=True)
        found.append(torch.from_numpy(weights.astype(np.float32)))
    return found[0], found[1]


def _sampled(slices: Tensor, kernels: tuple[Tensor, Tensor]) -> Array:
    """(b, rows, cols) -> (b, h, w)."""
    return np.asarray((kernels[0] @ slices @ kernels[1].T).numpy())
