"""Distance of the teacher's finest features to the supports' mean, in units of how the supports differ.

    r(x)^2 = d' S^-1 d / C,    d = f(x) - mean_k f_k(x),    f: smoothed features of stride 4, C channels

S is the covariance of the supports' own d, each against the mean of the others, pooled over the body: the
supports are too few for one at each place (PaDiM's, Defard 2021), but many enough for one in all. The
query's d, against the mean of more supports, varies less; it is widened to match. Supports that do not reach
a place do not take part in its mean.

All that depends on the supports alone is found once (`fit`) and may be kept; a query then costs its own
features (`Fitted.distance`). Everything is computed where the features are.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

WIDTH = 0.8  # sigma in positions; across slices as many mm
MOST_SLICES = 2.5
_SHRINKAGE = 0.05  # of S towards a multiple of the identity
_LEAST_VARIANCE = 1e-6  # of the features' mean square: identical supports have none
_SLAB = 16  # slices at a time


def smoothed_in_plane(features: Tensor) -> Tensor:
    """(..., h, w), the border repeated; float16, as all slices of a study are kept."""
    rows, cols = (_smoother(length, WIDTH, features.device) for length in features.shape[-2:])
    return (rows @ features.float() @ cols.T).half()


@dataclass(frozen=True, eq=False)
class Fitted:
    """What a query is measured against; all float32, on one device.

    whiten (C, C): W of S^-1 = W'W. mean (n, C, h, w): of the supports' smoothed features, whitened. widened
    (n, h, w): factor of the query's distance. sigma: of the smoothing across slices, in slices.
    """

    whiten: Tensor
    mean: Tensor
    widened: Tensor
    sigma: float

    def on(self, device: torch.device) -> Fitted:
        """The same there."""
        return Fitted(self.whiten.to(device), self.mean.to(device), self.widened.to(device), self.sigma)

    @torch.inference_mode()
    def distance(self, features: Tensor) -> Tensor:
        """r (n, h, w) of a query's features (n, C, h, w), smoothed in plane, on the same device."""
        found = torch.empty_like(self.widened)
        for part, slab in _slabs(features[:, None], self.sigma):
            away = _whitened(self.whiten, slab[0]).sub_(self.mean[part])
            found[part] = _length(away).mul_(self.widened[part])
        return found


@torch.inference_mode()
def fit(supports: Tensor, reach: Tensor, judged: Tensor, sigma: float) -> tuple[Fitted, Tensor]:
    """From the supports' features (n, K, C, h, w), K >= 2, smoothed in plane; and r of each of them against
    the others, (K, n, h, w).

    reach: (K, n, h, w) bool, where each support shows anything; judged: (K, n, h, w) bool, where support k
    and others have body (S is taken there). sigma: see `Fitted`.
    """
    count, volumes, channels = supports.shape[:3]
    grid, device = supports.shape[3:], supports.device
    reach, judged = reach.to(device), judged.to(device)
    covariance = torch.zeros(channels, channels, dtype=torch.float64, device=device)
    power = torch.zeros((), dtype=torch.float64, device=device)
    mean = torch.empty(count, channels, *grid, device=device)
    for part, slab in _slabs(supports, sigma):
        own = _from_others(slab, reach[:, part], mean[part])
        power += slab.square().sum(dtype=torch.float64)
        for one, where in zip(own, judged[:, part], strict=True):
            rows = (one * where[:, None]).flatten(2)
            covariance += torch.bmm(rows, rows.mT).sum(0, dtype=torch.float64)
    covariance /= judged.sum().clamp_min(1)
    ridge = _SHRINKAGE * covariance.trace() / channels + _LEAST_VARIANCE * power / max(supports.numel(), 1)
    covariance *= 1 - _SHRINKAGE
    covariance += (ridge + 1e-12) * torch.eye(channels, dtype=torch.float64, device=device)
    # on the processor: a card would load a library for it
    whiten = torch.linalg.inv(torch.linalg.cholesky(covariance.cpu())).float().to(device)
    left_out = torch.empty(volumes, count, *grid, device=device)
    for part, slab in _slabs(supports, sigma):
        for one, found in zip(_from_others(slab, reach[:, part]), left_out[:, part], strict=True):
            found.copy_(_length(_whitened(whiten, one)))
        mean[part] = _whitened(whiten, mean[part])
    few = reach.sum(0).clamp_min(2).float()
    widened = ((1 + 1 / (few - 1)) / (1 + 1 / few)).sqrt()
    return Fitted(whiten, mean, widened, sigma), left_out


def _from_others(slab: Tensor, reach: Tensor, mean: Tensor | None = None) -> Iterator[Tensor]:
    """Each support's d (b, C, h, w) of a slab (K, b, C, h, w), 0 where it does not reach; into `mean`, where
    given, comes that of those which do."""
    everywhere = bool(reach.all())
    hits = reach.sum(0)[:, None].float()
    total = slab.sum(0) if everywhere else (slab * reach[:, :, None]).sum(0)
    if mean is not None:
        torch.div(total, hits.clamp_min(1), out=mean)
    share = 1 / (hits - 1).clamp_min(1)
    for one, where in zip(slab, reach, strict=True):
        d = torch.addcmul(one, one - total, share)
        yield d if everywhere else d.mul_(where[:, None])


def _whitened(whiten: Tensor, d: Tensor) -> Tensor:
    """(b, C, h, w)."""
    return (whiten @ d.flatten(2)).unflatten(2, d.shape[2:])


def _length(d: Tensor) -> Tensor:
    """(b, C, h, w) -> (b, h, w)."""
    return d.square().mean(1).sqrt_()


def _slabs(features: Tensor, sigma: float) -> Iterator[tuple[slice, Tensor]]:
    """Slices of a stack (n, K, C, h, w), some at a time, smoothed across slices: (K, b, C, h, w)."""
    count, device = len(features), features.device
    smooth = sigma > 0 and count > 1
    kernel = _smoother(count, sigma, device) if smooth else torch.eye(count, device=device)
    reached = kernel.cpu().numpy() > 0
    for start in range(0, count, _SLAB):
        part = slice(start, min(start + _SLAB, count))
        used = np.flatnonzero(reached[part].any(axis=0))
        near = slice(int(used[0]), int(used[-1]) + 1)
        weights = kernel[part, near]
        yield (
            part,
            torch.stack(
                [
                    (weights @ features[near, k].float().flatten(1)).unflatten(1, features.shape[2:])
                    for k in range(features.shape[1])
                ]
            ),
        )


def _smoother(length: int, sigma: float, device: torch.device) -> Tensor:
    """(length, length): a Gaussian about each position, beyond the border its value repeated."""
    eye = np.eye(length, dtype=np.float32)
    return torch.from_numpy(ndimage.gaussian_filter1d(eye, sigma, axis=0, mode="nearest")).to(device)
