"""Learn-to-weight (L2W): how much each support counts for a query, per scale."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# Inverse temperature of cosine logits: at the start, and at most (as in CLIP, against saturation).
_SHARPNESS, _SHARPEST = 10.0, 100.0


class LearnToWeight(nn.Module):
    """softmax over supports of <query, W support + b> / sqrt(C), features flattened (D24FAD, section 3.3).

    Parameter names are the official ones (`proj_in1`, ...). The projection is moved to the query's
    side, <query, W support + b> = <W^T query, support> + <query, b>: one projection a query instead
    of one a support, and the last term, the same for every support, drops out of the softmax.

    per_position: divide the logits by the number of positions h w. The paper's sum over all positions
    makes the softmax harder the larger the image, until one support takes all; the mean does not.
    cosine: logits are cosines of the projected query and the support times a learned inverse temperature
    per scale. They do not grow with the size of image or features, so training decides how hard the
    softmax is. Not to be combined with per_position (ValueError).
    """

    def __init__(self, channels: Sequence[int], *, per_position: bool = False, cosine: bool = False) -> None:
        super().__init__()
        if per_position and cosine:
            raise ValueError("weights are either per position or by cosine, not both")
        self.channels = tuple(channels)
        self.per_position = per_position
        self.cosine = cosine
        for index, count in enumerate(self.channels):
            projection = nn.Conv2d(count, count, 1)
            assert projection.bias is not None
            projection.bias.requires_grad_(False)  # drops out of the softmax: kept for the official files
            self.add_module(f"proj_in{index + 1}", projection)
        if cosine:
            self.log_sharpness = nn.Parameter(torch.full((len(self.channels),), math.log(_SHARPNESS)))

    def logits(self, scale: int, query: Tensor, supports: Tensor) -> Tensor:
        """(B, K) logits of one scale for query (B, C, h, w) and supports (K, C, h, w) or (K, B, C, h, w)."""
        projected = self._projected(scale, query)
        keys = supports.flatten(1 if supports.dim() == 4 else 2)
        if self.cosine:
            projected, keys = F.normalize(projected, dim=-1), F.normalize(keys, dim=-1)
        logits = projected @ keys.T if keys.dim() == 2 else torch.einsum("bn,kbn->bk", projected, keys)
        return logits * self._factor(scale, query)

    def all_logits(self, scale: int, features: Tensor) -> Tensor:
        """(1 + K, B, K) logits of one scale of every volume, the query first, towards every support:
        features (1 + K, B, C, h, w)."""
        projected = self._projected(scale, features.flatten(0, 1)).unflatten(0, features.shape[:2])
        keys = features[1:].flatten(2)
        if self.cosine:
            projected, keys = F.normalize(projected, dim=-1), F.normalize(keys, dim=-1)
        return torch.einsum("nbx,kbx->nbk", projected, keys) * self._factor(scale, features)

    def _projected(self, scale: int, features: Tensor) -> Tensor:
        weight = self.get_parameter(f"proj_in{scale + 1}.weight").flatten(1)
        return torch.einsum("oi,bop->bip", weight, features.flatten(2)).flatten(1)

    def _factor(self, scale: int, features: Tensor) -> Tensor | float:
        if self.cosine:
            return self.log_sharpness[scale].clamp(max=math.log(_SHARPEST)).exp()
        positions = features.shape[-2] * features.shape[-1] if self.per_position else 1
        return float(self.channels[scale] ** -0.5 / positions)

    def forward(self, query: Sequence[Tensor], supports: Sequence[Tensor]) -> Tensor:
        """Weights (B, scales, K), summing to 1 over K, for features per scale as in `logits`."""
        rows = [self.logits(i, q, s) for i, (q, s) in enumerate(zip(query, supports, strict=True))]
        return torch.stack(rows, dim=1).softmax(dim=-1)
