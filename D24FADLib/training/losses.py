"""The paper's two distillation losses, and ours on the weight of a bad support."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


def distillation_loss(a: Sequence[Tensor], b: Sequence[Tensor]) -> Tensor:
    """1 - cosine of features (B, C, h, w) flattened per image, mean over the batch, summed over the scales.

    With (query student, weighted support student) it is the paper's L_SSD, with (query teacher,
    query student) its L_TSD.
    """
    terms = [
        (1.0 - F.cosine_similarity(x.flatten(1), y.flatten(1), dim=1)).mean()
        for x, y in zip(a, b, strict=True)
    ]
    return torch.stack(terms).sum()


def bad_support_loss(weights: Tensor, bad: int) -> Tensor:
    """-log(1 - weight of support `bad`), the mean over queries and scales; weights (B, scales, K).

    Zero where the bad support is turned down altogether; its gradient does not vanish where the softmax
    has settled on it.
    """
    return -torch.log((1.0 - weights[..., bad]).clamp_min(1e-6)).mean()
