"""Learn-to-weight (L2W): how much each support counts for a query, per scale."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class LearnToWeight(nn.Module):
    """softmax over supports of <query, W support + b> / sqrt(C), features flattened (D24FAD, section 3.3).

    Parameter names are the official ones (`proj_in1`, ...). The projection is moved to the query's
    side, <query, W support + b> = <W^T query, support> + <query, b>: one projection a query instead
    of one a support, and the last term, the same for every support, drops out of the softmax.

    per_position: divide the logits by the number of positions h w. The paper's sum over all positions
    makes the softmax harder the larger the image, until one support takes all; the mean does not.
    """

    def __init__(self, channels: Sequence[int], *, per_position: bool = False) -> None:
        super().__init__()
        self.channels = tuple(channels)
        self.per_position = per_position
        for index, count in enumerate(self.channels):
            self.add_module(f"proj_in{index + 1}", nn.Conv2d(count, count, 1))

    def logits(self, scale: int, query: Tensor, supports: Tensor) -> Tensor:
        """(B, K) logits of one scale for query (B, C, h, w) and supports (K, C, h, w) or (K, B, C, h, w)."""
        weight = self.get_parameter(f"proj_in{scale + 1}.weight")
        projected = F.conv2d(query, weight.transpose(0, 1)).flatten(1)
        if supports.dim() == 4:
            logits = projected @ supports.flatten(1).T
        else:
            logits = torch.einsum("bn,kbn->bk", projected, supports.flatten(2))
        return logits * self._factor(scale, query)

    def all_logits(self, scale: int, features: Tensor) -> Tensor:
        """(1 + K, B, K) logits of one scale of every volume, the query first, towards every support:
        features (1 + K, B, C, h, w)."""
        weight = self.get_parameter(f"proj_in{scale + 1}.weight")
        projected = F.conv2d(features.flatten(0, 1), weight.transpose(0, 1)).unflatten(0, features.shape[:2])
        logits = torch.einsum("nbx,kbx->nbk", projected.flatten(2), features[1:].flatten(2))
        return logits * self._factor(scale, features)

    def _factor(self, scale: int, features: Tensor) -> float:
        positions = features.shape[-2] * features.shape[-1] if self.per_position else 1
        return float(self.channels[scale] ** -0.5 / positions)

    def forward(self, query: Sequence[Tensor], supports: Sequence[Tensor]) -> Tensor:
        """Weights (B, scales, K), summing to 1 over K, for features per scale as in `logits`."""
        rows = [self.logits(i, q, s) for i, (q, s) in enumerate(zip(query, supports, strict=True))]
        return torch.stack(rows, dim=1).softmax(dim=-1)
