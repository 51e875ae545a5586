"""Comparing pictures: nothing aligns them, so every position is compared with all positions of all supports.

Teacher features of all blocks of a stride, at two input sizes, are levels (`network.model.joined_blocks`).
A position's distance to a support is 1 - the highest cosine to any of the support's positions, mirrored ones
included (PatchCore's idea, Roth 2022, with K pictures as the whole memory). Over supports it is a soft
minimum that counts each by its weight:

    d(x) = -s log sum_k w_k exp(-d_k(x) / s)

The weights come from the supports' agreement: softmax over k of -h t_k, t_k being how much farther support k
lies from the others than they lie from each other, relative and averaged over the levels. An abnormal
picture among the supports is thereby turned down by the normal ones.

The local levels make the map. The picture's score reads the wide ones as well: what is seen at a glance has
no place on a map.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from D24FADLib.inference.devices import exact_convolutions
from D24FADLib.network.model import D24FADModel, joined_blocks

Level = tuple[int, int]  # input size in pixels (of the longer side), stride
_DARKEST, _BRIGHTEST = 0.01, 0.995  # quantiles that are spread over [0, 1]
_LEAST_RANGE = 0.05
_LEAST_APART = 1e-3  # closer supports are the same picture: what is left is rounding
_SAMPLED = 1 << 16  # pixels that quantiles are read from


@dataclass(frozen=True)
class PictureEvidence:
    """Of a bundle's metadata ("pictures"). sharpness: h, softness: s of the module's text."""

    local: tuple[Level, ...] = ((256, 16), (256, 8), (128, 8))
    wide: tuple[Level, ...] = ((128, 32),)
    mirrored: bool = True
    sharpness: float = 10.0
    softness: float = 0.02

    @classmethod
    def of(cls, kept: Mapping[str, Any] | None) -> PictureEvidence | None:
        """From JSON; None where the bundle compares pictures as it does slices."""
        if kept is None:
            return None
        levels = {
            name: tuple((int(size), int(stride)) for size, stride in kept[name]) for name in ("local", "wide")
        }
        return cls(**{**kept, **levels})

    @property
    def levels(self) -> tuple[Level, ...]:
        return (*self.local, *self.wide)

    @property
    def size(self) -> int:
        """Pixels of the longer side that pictures have to come with."""
        return max(size for size, _ in self.levels)


@dataclass(frozen=True, eq=False)
class PictureComparison:
    """Maps of B pictures against K supports, on the finest local level's grid.

    full (B, h, w): against all; reduced: against K - 1, the mean over who is left out; left_out (K, h, w):
    each support against the others; None for K = 1. overall: full and left_out with the wide levels added,
    for the picture's score (a query's is a little lower for having one support more; the predictive
    distribution's shift knows by how much). weights (K,). distances: of the local levels, (B, K, h, w) each
    on its own grid.
    """

    full: Tensor
    reduced: Tensor | None
    left_out: Tensor | None
    overall: tuple[Tensor, Tensor | None]
    weights: Tensor
    distances: Sequence[Tensor] = field(repr=False)


class PictureComparer:
    """Encodes pictures and compares them, on one device."""

    def __init__(self, model: D24FADModel, evidence: PictureEvidence, device: torch.device) -> None:
        self.evidence = evidence
        self.stride = model.stride
        self._model = model
        self._device = device

    @torch.inference_mode()
    @exact_convolutions()
    def encode(self, images: Tensor) -> list[Tensor]:
        """(N, 3, H, W) in [0, 1], the longer side `evidence.size` -> a feature (N, C, h, w) a level."""
        images = stretched(images).to(self._device)
        found: dict[Level, Tensor] = {}
        for size in {size for size, _ in self.evidence.levels}:
            shape = [
                max(1, round(n * size / self.evidence.size / self.stride)) * self.stride
                for n in images.shape[-2:]
            ]
            resized = images
            if shape != list(images.shape[-2:]):
                resized = F.interpolate(images, shape, mode="bilinear", antialias=True, align_corners=False)
            blocks: list[Tensor] = self._model.teacher.all_blocks(resized)  # type: ignore[operator]
            for wanted, at in self.evidence.levels:
                if wanted == size:
                    found[wanted, at] = joined_blocks([b for b in blocks if b.shape[-1] == shape[1] // at])
        return [found[level] for level in self.evidence.levels]

    def encode_supports(self, images: Tensor) -> list[Tensor]:
        """As `encode`, and the mirrored pictures' levels behind where the evidence asks for them."""
        plain = self.encode(images)
        return [*plain, *self.encode(images.flip(-1))] if self.evidence.mirrored else plain

    def compare(self, queries: Sequence[Tensor], supports: Sequence[Tensor]) -> PictureComparison:
        """queries: levels as of `encode`, (B, C, h, w) each; supports: as of `encode_supports`, (K, ...)."""
        return self.judge(self.distances(queries, supports), self.distances(supports, supports))

    @torch.inference_mode()
    def distances(self, queries: Sequence[Tensor], supports: Sequence[Tensor]) -> list[Tensor]:
        """(B, K, h, w) a level, of each picture's positions to each support; arguments as of `compare`."""
        number = len(self.evidence.levels)
        plain: Sequence[Tensor] = supports[:number]
        mirrored: Sequence[Tensor | None] = supports[number:] or [None] * number
        return [_to_supports(q, s, m) for q, s, m in zip(queries[:number], plain, mirrored, strict=True)]

    @torch.inference_mode()
    def judge(self, far: Sequence[Tensor], own: Sequence[Tensor]) -> PictureComparison:
        """From the queries' distances to the supports and the supports' to each other."""
        count = len(own[0])
        weights = agreement_weights(own, self.evidence.sharpness)
        everyone = torch.ones(count, dtype=torch.bool)
        local = len(self.evidence.local)
        grid = max((f.shape[-2:] for f in far[:local]), key=lambda shape: shape[-1])

        def total(parts: Sequence[Tensor], kept: Tensor) -> Tensor:
            maps = [self._soft_minimum(p[:, kept], weights[kept]) for p in parts]
            return torch.stack([_on(m, (int(grid[0]), int(grid[1]))) for m in maps]).sum(0)

        full, overall = total(far[:local], everyone), total(far, everyone)
        if count < 2:
            return PictureComparison(full, None, None, (overall, None), weights, far[:local])
        without = [everyone & (torch.arange(count) != k) for k in range(count)]
        reduced = torch.stack([total(far[:local], kept) for kept in without]).mean(0)

        def left_out(levels: Sequence[Tensor]) -> Tensor:
            return torch.cat([total([o[k : k + 1] for o in levels], kept) for k, kept in enumerate(without)])

        return PictureComparison(
            full, reduced, left_out(own[:local]), (overall, left_out(own)), weights, far[:local]
        )

    def _soft_minimum(self, distances: Tensor, weights: Tensor) -> Tensor:
        """(B, K, h, w) -> (B, h, w)."""
        shares = (weights / weights.sum()).clamp_min(1e-9).log()[:, None, None]
        return -self.evidence.softness * torch.logsumexp(shares - distances / self.evidence.softness, dim=1)


def agreement_weights(own: Sequence[Tensor], sharpness: float) -> Tensor:
    """(K,) from the supports' distances to each other, (K, K, h, w) a level; equal for K < 3, where no
    majority exists."""
    count = len(own[0])
    if count < 3:
        return torch.full((count,), 1.0 / count, device=own[0].device)
    others = ~torch.eye(count, dtype=torch.bool, device=own[0].device)
    apart = torch.zeros(count, device=own[0].device)
    for distances in own:
        pairs = distances.mean((2, 3))
        pairs = torch.where(others, (pairs + pairs.T) / 2, 0.0)
        mean = pairs.sum(1) / (count - 1)
        apart += (mean - mean.mean()) / mean.mean().clamp_min(_LEAST_APART)
    return torch.softmax(-sharpness * apart / len(own), dim=0)


def stretched(images: Tensor) -> Tensor:
    """Each picture's range, but for its darkest and brightest pixels, over [0, 1]; all colours alike."""
    flat = images.flatten(1)
    flat = flat[:, :: max(1, flat.shape[1] // _SAMPLED)]
    low, high = flat.quantile(torch.tensor([_DARKEST, _BRIGHTEST], device=flat.device), dim=1)
    width = (high - low).clamp_min(_LEAST_RANGE)
    return ((images - low[:, None, None, None]) / width[:, None, None, None]).clamp(0, 1)


def _to_supports(queries: Tensor, supports: Tensor, mirrored: Tensor | None) -> Tensor:
    """(B, K, h, w): 1 - highest cosine to any position of each support, of features of length 1."""
    count, (height, width) = len(supports), queries.shape[-2:]
    banks = [s.permute(1, 0, 2, 3).flatten(1) for s in (supports, mirrored) if s is not None]
    found = []
    for query in queries.flatten(2).transpose(1, 2):  # a picture at a time bounds the memory
        best = torch.stack([(query @ bank).unflatten(1, (count, -1)).amax(2) for bank in banks]).amax(0)
        found.append(best.T.unflatten(1, (height, width)))
    return 1.0 - torch.stack(found)


def _on(maps: Tensor, grid: tuple[int, int]) -> Tensor:
    if maps.shape[-2:] == grid:
        return maps
    return F.interpolate(maps[:, None], grid, mode="bilinear", align_corners=True)[:, 0]
