"""Residuals of many targets at once from each feature read once.

A slice is judged K + 1 times and more (the query against all supports and against every K - 1, each support
against the others), yet every one of these judgements follows from the dot products between the 1 + K
volumes' features, which are computed once.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from D24FADLib.network.learn_to_weight import LearnToWeight

REACH = 1  # positions around, in which the nearest support's feature is looked for
_BLOCK = 4  # positions of a row that share one matrix product: fewer idle products against more calls
_EPS = 1e-12


def nearest_residuals(features: Tensor, targets: int | None = None) -> Tensor:
    """1 - the highest cosine of each volume's features to each support's within `REACH` positions.

    features: (1 + K, B, C, h, w), the query first; the first `targets` of them (None: all) are looked at.
    Returns (targets, K, B, h, w); an entry of a support with itself means nothing.
    """
    count, batch, channels, height, width = features.shape
    supports, targets, span = count - 1, targets or count, _BLOCK + 2 * REACH
    blocks = -(-width // _BLOCK)
    # (row, slice, volume, column, channel), unit length, with a border that repeats the outermost position
    padded = features.new_empty(height + 2 * REACH, batch, count, blocks * _BLOCK + 2 * REACH, channels)
    inner = padded[REACH:-REACH, :, :, REACH : REACH + width]
    inner.copy_(features.permute(3, 1, 0, 4, 2))
    inner.div_(torch.linalg.vector_norm(inner, dim=-1, keepdim=True).clamp_min_(_EPS))
    padded[REACH:-REACH, :, :, :REACH] = inner[:, :, :, :1]
    padded[REACH:-REACH, :, :, REACH + width :] = inner[:, :, :, -1:]
    padded[:REACH], padded[-REACH:] = padded[REACH], padded[-REACH - 1]
    # A block of a row against the same block of a support's row and its surroundings: one product for all
    # volumes and supports. Of its columns, each position needs those within reach: a diagonal band.
    left = padded[REACH:-REACH, :, :targets, REACH:-REACH].unflatten(3, (blocks, _BLOCK))
    left = left.permute(0, 1, 3, 2, 4, 5).reshape(-1, targets * _BLOCK, channels)
    right = padded[:, :, 1:].unfold(3, span, _BLOCK).permute(0, 1, 3, 4, 2, 5)
    right = right.reshape(height + 2 * REACH, batch * blocks, channels, supports * span)
    best = torch.bmm(left, right[:height].flatten(0, 1))
    cosines = torch.empty_like(best)
    for row in range(1, 2 * REACH + 1):
        torch.bmm(left, right[row : row + height].flatten(0, 1), out=cosines)
        torch.maximum(best, cosines, out=best)
    best = best.view(height, batch, blocks, targets, _BLOCK, supports, span)
    steps = best.stride()
    band = best.as_strided(
        (*best.shape[:-1], 2 * REACH + 1), (*steps[:4], steps[4] + steps[6], steps[5], steps[6])
    )
    highest = band[..., 0].clone()
    for column in range(1, 2 * REACH + 1):
        torch.maximum(highest, band[..., column], out=highest)
    # (row, slice, block, volume, position, support)
    result = (1.0 - highest).permute(3, 5, 1, 0, 2, 4).reshape(targets, supports, batch, height, -1)
    return result[..., :width]


def subset_masks(supports: int, device: torch.device | None = None) -> Tensor:
    """(1 + 2K, K) bool: which supports each judgement uses. First all (the query), then all but the k-th
    for k = 1..K (the query, then support k itself); for K = 1 only the first row."""
    everyone = torch.ones(1, supports, dtype=torch.bool, device=device)
    if supports < 2:
        return everyone
    others = ~torch.eye(supports, dtype=torch.bool, device=device)
    return torch.cat([everyone, others, others])


def subset_weights(weighting: LearnToWeight, student: Sequence[Tensor], query_only: bool = False) -> Tensor:
    """Learned weights of each judgement of `subset_masks`: (judgements, B, scales, K), 0 for who is left out.

    student: features per scale (1 + K, B, C, h, w). The logits are the same whoever is left out.
    `query_only`: of the judgements that are about the query.
    """
    supports = student[0].shape[0] - 1
    masks, volumes = subset_masks(supports, student[0].device), judged(supports)
    if query_only:
        logits = torch.stack([weighting.logits(n, f[0], f[1:]) for n, f in enumerate(student)], dim=1)[None]
        volumes = [volume for volume in volumes if volume == 0]
        masks = masks[: len(volumes)]
    else:
        logits = torch.stack([weighting.all_logits(n, f) for n, f in enumerate(student)], dim=2)
    targets = _of_judged(logits, len(volumes))
    return targets.masked_fill(~masks[:, None, None], -torch.inf).softmax(dim=-1)


def judged(supports: int) -> list[int]:
    """The volume that each judgement of `subset_masks` is about; 0 is the query."""
    return [0] if supports < 2 else [0] * (1 + supports) + list(range(1, supports + 1))


def _of_judged(values: Tensor, judgements: int, dim: int = 0) -> Tensor:
    """Values of volumes along `dim`, for the first judgements (see `judged`). Without an index, which a
    graphics card would be waited for to hand over."""
    volumes = values.shape[dim]  # 1 where the query's alone are there
    about_query = judgements if volumes == 1 else min(judgements, volumes if volumes > 2 else 1)
    sizes = list(values.shape)
    sizes[dim] = about_query
    query = values.narrow(dim, 0, 1).expand(sizes)
    if judgements == about_query:
        return query
    return torch.cat([query, values.narrow(dim, 1, judgements - about_query)], dim)


def weighted_residuals(features: Tensor, weights: Tensor) -> Tensor:
    """1 - cosine between each judgement's volume and the weighted mean of the supports, at one scale.

    features: (1 + K, B, C, h, w); weights: (judgements, B, K), of the first judgements.
    Returns (judgements, B, h, w). The mean is never made: <f, sum w s> and |sum w s|^2 are sums of the
    dot products <f, s> and <s, s>.
    """
    dots = _dots(features)
    shares = weights.transpose(0, 1)  # (B, judgements, K)
    pairs = shares[..., :, None] * shares[..., None, :]
    squared = torch.bmm(pairs.flatten(2), dots[:, 1:, 1:].flatten(1, 2))
    towards = (shares[..., None] * _of_judged(dots[:, :, 1:], len(weights), 1)).sum(2)
    own = _of_judged(dots.diagonal(dim1=1, dim2=2).transpose(1, 2), len(weights), 1)
    cosine = towards * torch.rsqrt((own * squared).clamp_min_(_EPS**2))
    return (1.0 - cosine).transpose(0, 1).unflatten(2, tuple(features.shape[3:]))


def _dots(features: Tensor) -> Tensor:
    """Dot products over the channels between all volumes: (1 + K, B, C, h, w) -> (B, 1 + K, 1 + K, h w)."""
    return _dots_in_place(features) if features.device.type == "cpu" else _dots_of_positions(features)


def _dots_in_place(features: Tensor) -> Tensor:
    """In one pass over the features as they lie, half of the pairs: what a processor does best."""
    count, batch, _, height, width = features.shape
    flat = features.flatten(3).numpy()
    dots = np.empty((batch, count, count, height * width), np.float32)
    for number, volume in itertools.product(range(batch), range(count)):
        row = dots[number, volume, volume:]
        np.einsum("cp,jcp->jp", flat[volume, number], flat[volume:, number], out=row)
        dots[number, volume + 1 :, volume] = row[1:]
    return torch.from_numpy(dots)


def _dots_of_positions(features: Tensor) -> Tensor:
    """One small product of matrices a position, all in one call: what a graphics card does best."""
    count, batch, channels, height, width = features.shape
    positions = features.permute(1, 3, 4, 0, 2).reshape(-1, count, channels)
    dots = torch.bmm(positions, positions.mT).view(batch, height * width, count * count)
    return dots.transpose(1, 2).contiguous().unflatten(1, (count, count))


def on_finest(residuals: Sequence[Tensor]) -> Tensor:
    """The sum over scales of maps (N, h, w), on the grid of the first."""
    total = residuals[0].clone()
    for coarse in residuals[1:]:
        total += F.interpolate(coarse[:, None], total.shape[-2:], mode="bilinear", align_corners=True)[:, 0]
    return total
