"""Networks made for a precision below f32 are the same function."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from D24FADLib.inference.folding import folded, reduced
from D24FADLib.network.efficientnet_lite import EfficientNetLite0
from D24FADLib.network.student import Student
from D24FADLib.network.wide_resnet import WideResNet50


def lived_in(network: nn.Module) -> nn.Module:
    """With statistics and scales as after some training, not the ones that do nothing."""
    generator = torch.Generator().manual_seed(0)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            for values, low, high in (
                (module.running_mean, -0.3, 0.3),
                (module.running_var, 0.5, 2.0),
                (module.weight.data, 0.5, 1.5),
                (module.bias.data, -0.3, 0.3),
            ):
                values.uniform_(low, high, generator=generator)
    return network.eval()


@pytest.mark.parametrize(
    ("network", "shape"),
    [
        (EfficientNetLite0(), (2, 3, 64, 96)),
        (WideResNet50(), (1, 3, 64, 64)),
        (Student(320, (24, 40, 112), signed_features=True), (2, 320, 2, 3)),
    ],
)
@torch.inference_mode()
def test_folding_changes_nothing(network: nn.Module, shape: tuple[int, ...]) -> None:
    network = lived_in(network)
    made = folded(network)
    assert not [m for m in made.modules() if isinstance(m, nn.BatchNorm2d)]
    assert [m for m in network.modules() if isinstance(m, nn.BatchNorm2d)]  # a copy
    images = torch.rand(shape, generator=torch.Generator().manual_seed(1))
    expected, got = network(images), made(images)
    if isinstance(expected, tuple):
        expected, got = ([*of[0], of[1]] for of in (expected, got))
    for one, other in zip(expected, got, strict=True):
        torch.testing.assert_close(other, one, rtol=1e-4, atol=1e-4 * float(one.abs().max()))


@torch.inference_mode()
def test_made_for_a_precision_it_is_the_same_function() -> None:
    """In f32, where rounding hides nothing: what else `reduced` changes."""
    network = lived_in(EfficientNetLite0())
    made = reduced(network, torch.float32)
    assert sum(isinstance(m, nn.Conv2d) for m in made.modules()) == 1 + 16  # the stem and the depthwise ones
    images = torch.rand(2, 3, 64, 96, generator=torch.Generator().manual_seed(1))
    expected, got = network(images), made(images)
    for one, other in zip([*expected[0], expected[1]], [*got[0], got[1]], strict=True):
        torch.testing.assert_close(other, one, rtol=1e-4, atol=1e-4 * float(one.abs().max()))


@torch.inference_mode()
def test_one_channel_stands_for_three() -> None:
    made = reduced(lived_in(EfficientNetLite0()), torch.bfloat16)
    gray = torch.rand(1, 1, 64, 64, generator=torch.Generator().manual_seed(2))
    one, three = made(gray), made(gray.expand(-1, 3, -1, -1))
    assert one[1].dtype == torch.bfloat16
    assert torch.equal(one[1], three[1])


def test_a_normalisation_without_its_convolution_is_refused() -> None:
    with pytest.raises(TypeError, match="does not follow"):
        folded(nn.Sequential(nn.ReLU(), nn.BatchNorm2d(3)))
