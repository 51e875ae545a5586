"""Comparing slices: the query against the supports, and every support against the others.

Two kinds of evidence are added up, in shares that the model's metadata sets:

student: the paper's residual, 1 - cosine between the query's student features and the learned weighted
    mean of the supports' (`D24FADModel.compare`).
teacher: 1 - cosine between the query's teacher features and the nearest support's, looked for within
    one position around (PatchCore's idea restricted to a neighbourhood, which aligned supports allow).
    The student decodes a 1/32 embedding and blurs what is small; the teacher's own features keep it.

All maps live on the grid of the finest features (a quarter of the input's pixels): residuals are smooth,
and the study's own grid is reached by one interpolation at the very end.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from D24FADLib.errors import Cancelled
from D24FADLib.network.model import D24FADModel, residual, weighted_supports

if TYPE_CHECKING:
    from D24FADLib.inference.preparation import Prepared

_REACH = 1  # positions


@dataclass(frozen=True)
class Evidence:
    """How much each residual counts in the map."""

    student: float = 1.0
    teacher: float = 0.0


@dataclass(frozen=True, eq=False)
class Comparison:
    """Residuals on the feature grid (n, h, w) of the box's slices.

    full: query against all K supports. reduced: query against K - 1 supports, the mean over the support
    left out; left_out: (K, n, h, w), each support against the K - 1 others, NaN where it does not reach.
    These two are what
    calibration compares, like with like. Both None for K = 1. weights: (n, scales, K).
    covered: how many supports reach each position, (n, h, w).
    """

    full: NDArray[np.float32]
    reduced: NDArray[np.float32] | None
    left_out: NDArray[np.float32] | None
    weights: NDArray[np.float32]
    covered: NDArray[np.int16]


def input_size(rows: float, cols: float, size: int, stride: int) -> tuple[int, int]:
    """Height and width for slices of rows x cols mm: the longer side `size`, the aspect kept to a stride."""
    scale = size / max(rows, cols)
    height, width = (max(stride, round(side * scale / stride) * stride) for side in (rows, cols))
    return height, width


def to_input(slices: NDArray[np.float32], size: tuple[int, int]) -> Tensor:
    """(n, rows, cols[, 3]) in [0, 1] -> (n, 3, H, W)."""
    images = torch.from_numpy(np.ascontiguousarray(slices))
    images = images.permute(0, 3, 1, 2) if images.dim() == 4 else images[:, None]
    if images.shape[-2:] != size:
        images = F.interpolate(images, size, mode="bilinear", antialias=True, align_corners=False)
    return images.expand(-1, 3, -1, -1)


def nearest_residuals(query: Sequence[Tensor], support: Sequence[Tensor]) -> list[Tensor]:
    """1 - the highest cosine within `_REACH` positions, per scale: (B, h, w). Features of unit length."""
    nearest = []
    for q, s in zip(query, support, strict=True):
        height, width = q.shape[-2:]
        padded = F.pad(s, (_REACH,) * 4, mode="replicate")
        best = torch.full_like(q[:, 0], -1.0)
        for dy in range(2 * _REACH + 1):
            for dx in range(2 * _REACH + 1):
                shifted = padded[..., dy : dy + height, dx : dx + width]
                best = torch.maximum(best, torch.einsum("bchw,bchw->bhw", q, shifted))
        nearest.append(1.0 - best)
    return nearest


def _on_finest(residuals: Sequence[Tensor]) -> Tensor:
    size = residuals[0].shape[-2:]
    maps = [F.interpolate(r[:, None], size, mode="bilinear", align_corners=True)[:, 0] for r in residuals]
    return torch.stack(maps).sum(0)


class Comparer:
    """Compares batches of slices with one model on one device."""

    def __init__(self, model: D24FADModel, evidence: Evidence, device: torch.device) -> None:
        self.model = model.to(device).eval()
        self.evidence = evidence
        self.device = device

    @torch.inference_mode()
    def batch(self, images: Tensor, covered: Tensor) -> tuple[Tensor, Tensor | None, Tensor | None, Tensor]:
        """One batch of slices. images: (1 + K, B, 3, H, W), the query first; covered: (K, B, h, w) bool on
        the finest feature grid. Returns full (B, h, w), reduced (B, h, w), left_out (K, B, h, w), weights
        (B, scales, K)."""
        count, batch = images.shape[:2]
        supports = count - 1
        teacher, embedding = self.model.teacher(images.flatten(0, 1).to(self.device))
        student = [f.unflatten(0, (count, batch)) for f in self.model.student(embedding)]
        distances = self._teacher_distances([f.unflatten(0, (count, batch)) for f in teacher], covered)
        everyone = list(range(1, count))

        def residual_of(target: int, against: list[int]) -> tuple[Tensor, Tensor]:
            features = [s[target] for s in student]
            chosen = [s[against] for s in student]
            weights = self.model.weighting(features, chosen)
            total = torch.zeros_like(distances[0, 0])
            if self.evidence.student:
                total = self.evidence.student * _on_finest(
                    residual(features, weighted_supports(chosen, weights))
                )
            if self.evidence.teacher:
                nearest = distances[target, [k - 1 for k in against]].amin(0)
                total = total + self.evidence.teacher * nearest
            return total, weights

        full, weights = residual_of(0, everyone)
        if supports < 2:
            return full, None, None, weights
        reduced = torch.stack(
            [residual_of(0, [k for k in everyone if k != out])[0] for out in everyone]
        ).mean(0)
        left_out = torch.stack([residual_of(out, [k for k in everyone if k != out])[0] for out in everyone])
        return full, reduced, left_out, weights

    def _teacher_distances(self, teacher: list[Tensor], covered: Tensor) -> Tensor:
        """(1 + K, K, B, h, w): of each volume's slices to each support's; large where a support does not
        reach, 0 to itself (never used)."""
        count, batch, _, height, width = teacher[0].shape
        unit = [F.normalize(f, dim=2) for f in teacher]
        distances = torch.zeros(count, count - 1, batch, height, width, device=self.device)
        if not self.evidence.teacher:
            return distances
        for target in range(count):
            for support in range(1, count):
                if target != support and (target == 0 or count > 2):
                    pair = nearest_residuals([f[target] for f in unit], [f[support] for f in unit])
                    distances[target, support - 1] = _on_finest(pair)
        unreached = ~covered.to(self.device)
        return distances + unreached * 6.0  # the worst residual of three scales


def compare(
    prepared: Prepared,
    comparer: Comparer,
    size: int,
    batch: int,
    progress: Callable[[str, int, int], None] | None = None,
    should_cancel: Callable[[], bool] | None = None,
) -> Comparison:
    """Compare all slices of the box, `batch` at a time (halved where the device's memory does not do).

    Raises Cancelled between batches; MemoryError where even one slice does not fit.
    """
    part = prepared.box
    volumes = [prepared.query[part], *(s[part] for s in prepared.supports)]
    count, rows, cols = volumes[0].shape[:3]
    shape = input_size(rows * prepared.spacing[1], cols * prepared.spacing[2], size, comparer.model.stride)
    grid = (shape[0] // 4, shape[1] // 4)
    parts: list[tuple[Tensor, ...]] = []
    reach_of_each: list[Tensor] = []
    done = 0
    while done < count:
        if should_cancel and should_cancel():
            raise Cancelled("Comparison was cancelled.")
        if progress:
            progress("compare", done, count)
        chunk = slice(done, min(done + batch, count))
        images = torch.stack([to_input(v[chunk], shape) for v in volumes])
        covered = torch.stack([_shrink(c[part][chunk], grid) for c in prepared.covered])
        try:
            result = comparer.batch(images, covered)
        except torch.OutOfMemoryError:
            if batch == 1:
                raise MemoryError(
                    "the device's memory does not hold even one slice; use --device cpu"
                ) from None
            batch = max(1, batch // 2)
            torch.cuda.empty_cache()
            continue
        parts.append(tuple(t.cpu() for t in result if t is not None))
        reach_of_each.append(covered)
        done = chunk.stop
    if progress:
        progress("compare", count, count)
    single = len(volumes) == 2
    weights = torch.cat([p[-1] for p in parts]).numpy()
    covered_count = torch.cat([c.sum(0) for c in reach_of_each]).numpy().astype(np.int16)
    full = torch.cat([p[0] for p in parts]).numpy()
    if single:
        return Comparison(full, None, None, weights, covered_count)
    reduced = torch.cat([p[1] for p in parts]).numpy()
    against_others = torch.cat([p[2] for p in parts], dim=1)
    own = torch.cat(reach_of_each, dim=1)  # what lies outside a support's view says nothing about it
    left_out = against_others.masked_fill(~own, torch.nan).numpy()
    return Comparison(full, reduced, left_out, weights, covered_count)


def _shrink(mask: NDArray[np.bool_], grid: tuple[int, int]) -> Tensor:
    tensor = torch.from_numpy(np.ascontiguousarray(mask)).float()[:, None]
    return F.interpolate(tensor, grid, mode="nearest-exact")[:, 0] > 0.5
