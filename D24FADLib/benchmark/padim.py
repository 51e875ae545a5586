"""PaDiM (Defard et al. 2021) for few supports: a Gaussian at each position, its covariance shrunk."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.covariance import ledoit_wolf
from torch import Tensor

from D24FADLib.benchmark.features import Features, TeacherBlocks, of_stride
from D24FADLib.benchmark.judgement import Judgement, for_each_shot, on_eval_grid, size_of

_CHANNELS = 64  # drawn at random, as PaDiM does
_SHRINKAGE = 0.5  # weight of the covariance pooled over positions
_SEED = 5


class PaDiM:
    """Mahalanobis distance at each position to the supports' features there and one position around.

    K supports cannot tell a covariance of 64 channels: each position's (of 9 K neighbours) is mixed with
    that of all positions together, itself shrunk by Ledoit and Wolf's rule.
    """

    def __init__(self, encoder: TeacherBlocks, stride: int = 16) -> None:
        self.encoder = encoder
        self.stride = stride
        self.name = f"padim stride {stride} @{encoder.size}"

    def _chosen(self, features: Features) -> Tensor:
        stacked = torch.cat(of_stride(features, self.encoder.size, self.stride), 1)
        order = np.random.default_rng(_SEED).permutation(stacked.shape[1])[:_CHANNELS]
        return stacked[:, np.sort(order)]

    def judge(self, query: Features, supports: Features, shots: Sequence[int]) -> dict[int, Judgement]:
        points = self._chosen(query)
        return for_each_shot(
            shots, [self._chosen(supports)], lambda s: Judgement(on_eval_grid([mahalanobis(points, s[0])]))
        )

    def state_bytes(self, supports: Features) -> int:
        chosen = self._chosen(supports)
        positions, channels = chosen[0, 0].numel(), chosen.shape[1]
        return size_of([chosen[:1]]) + positions * channels * channels * 4


def mahalanobis(query: Tensor, supports: Tensor) -> Tensor:
    """(N, h, w): distance of query (N, C, h, w) to the supports' (K, C, h, w) Gaussian of each position."""
    count, channels, height, width = supports.shape
    patches = F.unfold(F.pad(supports, (1,) * 4, mode="replicate"), 3)  # (K, C * 9, positions)
    samples = patches.unflatten(1, (channels, 9)).permute(3, 0, 2, 1).flatten(1, 2)  # (positions, 9K, C)
    mean = samples.mean(1)
    centred = samples - mean[:, None]
    pooled, _ = ledoit_wolf(centred.flatten(0, 1).numpy(), assume_centered=True)
    local = centred.transpose(1, 2) @ centred / (9 * count - 1)
    covariance = (1 - _SHRINKAGE) * local + _SHRINKAGE * torch.from_numpy(pooled).to(local.dtype)
    covariance += 1e-4 * covariance.diagonal(dim1=1, dim2=2).mean() * torch.eye(channels)
    deviation = query.flatten(2).permute(2, 1, 0) - mean[..., None]  # (positions, C, N)
    solved = torch.linalg.solve(covariance, deviation)
    squared = (deviation * solved).sum(1).clamp_min(0)  # (positions, N)
    return squared.sqrt().T.unflatten(1, (height, width))
