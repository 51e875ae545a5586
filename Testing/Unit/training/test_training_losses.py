from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from D24FADLib.training.losses import bad_support_loss, distillation_loss

SHAPES = ((3, 8, 4, 6), (3, 12, 2, 3), (3, 16, 1, 2))


def features(seed: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator) for shape in SHAPES]


def loop_loss(a: list[Tensor], b: list[Tensor]) -> float:
    total = 0.0
    for x, y in zip(a, b, strict=True):
        for i in range(len(x)):
            product = one = other = 0.0
            for p, q in zip(x[i].reshape(-1).tolist(), y[i].reshape(-1).tolist(), strict=True):
                product, one, other = product + p * q, one + p * p, other + q * q
            total += (1 - product / math.sqrt(one * other)) / len(x)
    return total


def test_loss_follows_the_formula() -> None:
    a, b = features(1), features(2)
    assert distillation_loss(a, b).item() == pytest.approx(loop_loss(a, b), abs=1e-5)
    assert loop_loss(a, b) == pytest.approx(3, abs=0.5)
    mixed = [0.6 * x + 0.4 * y for x, y in zip(a, b, strict=True)]
    assert distillation_loss(a, mixed).item() == pytest.approx(loop_loss(a, mixed), abs=1e-5)


def test_loss_is_of_the_whole_image_not_of_each_position() -> None:
    """A weak position that points elsewhere hardly counts in the flattened vector."""
    a = torch.zeros(1, 2, 1, 2)
    a[0, 0] = torch.tensor([10.0, 0.1])
    b = a.clone()
    b[0, :, 0, 1] = torch.tensor([0.0, 0.1])
    assert distillation_loss([a], [b]).item() < 1e-3


def test_loss_knows_direction_only() -> None:
    a = features(3)
    assert distillation_loss(a, [7 * x for x in a]).item() == pytest.approx(0, abs=1e-5)
    assert distillation_loss(a, [-x for x in a]).item() == pytest.approx(6, abs=1e-5)


def test_gradient_reaches_both_sides() -> None:
    a = [x.requires_grad_() for x in features(4)]
    b = [x.requires_grad_() for x in features(5)]
    distillation_loss(a, b).backward()
    assert all(x.grad is not None and x.grad.abs().max() > 0 for x in (*a, *b))


def test_scales_must_pair_up() -> None:
    with pytest.raises(ValueError, match="zip"):
        distillation_loss(features(1), features(2)[:2])


def test_bad_support_loss_follows_the_formula_and_pushes_its_weight_down() -> None:
    logits = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(6)).requires_grad_()
    weights = logits.softmax(-1)
    loss = bad_support_loss(weights, 2)
    rows = weights.detach()[..., 2].reshape(-1).tolist()
    assert loss.item() == pytest.approx(sum(-math.log(1 - w) for w in rows) / len(rows), rel=1e-5)
    loss.backward()
    assert logits.grad is not None
    assert (logits.grad[..., 2] > 0).all()
    assert (logits.grad[..., [0, 1, 3]] < 0).all()
    settled = torch.tensor([[[0.0, 1.0]]])
    assert bad_support_loss(settled, 0).item() == 0
    assert torch.isfinite(bad_support_loss(settled, 1))
