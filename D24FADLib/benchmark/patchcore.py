"""PatchCore (Roth et al. 2022) with K supports: distance to the nearest support position, no training."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from D24FADLib.benchmark.features import Features, TeacherBlocks, of_stride
from D24FADLib.benchmark.judgement import Judgement, on_eval_grid, size_of

_CHUNK = 2048  # query positions at a time


def averaged(features: Sequence[Tensor]) -> Tensor:
    """Features concatenated along channels, each position averaged with its 3 x 3 neighbours."""
    return F.avg_pool2d(torch.cat(list(features), 1), 3, 1, 1, count_include_pad=False)


def nearest(query: Tensor, supports: Tensor) -> Tensor:
    """1 - the highest cosine to any position of each support: query (N, C, h, w) -> (N, K, h, w)."""
    height, width = query.shape[-2:]
    points = F.normalize(query, dim=1).permute(0, 2, 3, 1).flatten(0, 2)
    banks = F.normalize(supports, dim=1).flatten(2)  # (K, C, positions)
    columns = []
    for bank in banks:
        best = [(chunk @ bank).amax(1) for chunk in points.split(_CHUNK)]
        columns.append(torch.cat(best).unflatten(0, (len(query), height, width)))
    return 1.0 - torch.stack(columns, 1)


class PatchCore:
    """strides: those whose distance maps are added; blocks: "all" of a stride, or only the "last"."""

    def __init__(self, encoder: TeacherBlocks, strides: Sequence[int], blocks: str) -> None:
        self.encoder = encoder
        self.strides = tuple(strides)
        self.blocks = blocks
        place = "+".join(str(s) for s in self.strides)
        self.name = f"patchcore {blocks} stride {place} @{encoder.size}"

    def _per_stride(self, features: Features) -> list[Tensor]:
        chosen = [of_stride(features, self.encoder.size, s) for s in self.strides]
        return [averaged(c if self.blocks == "all" else c[-1:]) for c in chosen]

    @torch.inference_mode()
    def judge(self, query: Features, supports: Features, shots: Sequence[int]) -> dict[int, Judgement]:
        pairs = zip(self._per_stride(query), self._per_stride(supports), strict=True)
        distances = [nearest(q, s) for q, s in pairs]
        return {k: Judgement(on_eval_grid([d[:, :k].amin(1) for d in distances])) for k in shots}

    def state_bytes(self, supports: Features) -> int:
        return size_of(self._per_stride(supports))
