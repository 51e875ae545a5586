"""The paper's two distillation losses."""

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
