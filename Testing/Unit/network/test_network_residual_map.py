from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from D24FADLib.network.learn_to_weight import LearnToWeight
from D24FADLib.network.model import D24FADModel, residual, weighted_supports

B = 2
SHOTS = (1, 2, 4, 8)


# --- the paper's formulas, written as loops in double precision ---------------------------------


def loop_key(feature: np.ndarray, weight: np.ndarray, bias: np.ndarray) -> np.ndarray:
    """1x1 convolution of one support's feature (C, h, w), position by position."""
    key = np.empty_like(feature)
    for y in range(feature.shape[1]):
        for x in range(feature.shape[2]):
            key[:, y, x] = weight @ feature[:, y, x] + bias
    return key


def loop_softmax(logits: Sequence[float]) -> list[float]:
    powers = [math.exp(logit - max(logits)) for logit in logits]
    return [power / sum(powers) for power in powers]


def loop_upsample(small: np.ndarray, height: int, width: int) -> np.ndarray:
    """Bilinear, the corners of both grids on each other."""
    h, w = small.shape
    large = np.empty((height, width))
    for y in range(height):
        for x in range(width):
            v, u = y * (h - 1) / (height - 1), x * (w - 1) / (width - 1)
            top, left = min(int(v), h - 2), min(int(u), w - 2)
            dv, du = v - top, u - left
            large[y, x] = (
                (1 - dv) * (1 - du) * small[top, left]
                + (1 - dv) * du * small[top, left + 1]
                + dv * (1 - du) * small[top + 1, left]
                + dv * du * small[top + 1, left + 1]
            )
    return large


def loop_reference(
    query: list[list[np.ndarray]],
    supports: list[list[list[np.ndarray]]],
    projections: list[tuple[np.ndarray, np.ndarray]],
    size: tuple[int, int],
    per_position: bool = False,
) -> tuple[np.ndarray, np.ndarray]:
    """Map (B, H, W) and weights (B, 3, K) for query[b][scale] and supports[b][k][scale], each (C, h, w)."""
    shots = len(supports[0])
    maps, weights = np.zeros((len(query), *size)), np.zeros((len(query), 3, shots))
    for b in range(len(query)):
        for scale in range(3):
            q = query[b][scale]
            channels, h, w = q.shape
            logits = []
            for k in range(shots):
                key = loop_key(supports[b][k][scale], *projections[scale])
                logit = float(np.dot(q.ravel(), key.ravel())) / math.sqrt(channels)
                logits.append(logit / (h * w) if per_position else logit)
            weights[b, scale] = loop_softmax(logits)
            blend = np.zeros_like(q)
            for k in range(shots):
                blend += weights[b, scale, k] * supports[b][k][scale]
            residual = np.empty((h, w))
            for y in range(h):
                for x in range(w):
                    one, other = q[:, y, x], blend[:, y, x]
                    residual[y, x] = 1 - one @ other / (np.linalg.norm(one) * np.linalg.norm(other))
            maps[b] += loop_upsample(residual, *size)
    return maps, weights


def doubles(features: list[Tensor]) -> list[np.ndarray]:
    return [f.double().numpy() for f in features]


def projections_of(weighting: LearnToWeight) -> list[tuple[np.ndarray, np.ndarray]]:
    state = {name: value.double().numpy() for name, value in weighting.state_dict().items()}
    return [(state[f"proj_in{i}.weight"][:, :, 0, 0], state[f"proj_in{i}.bias"]) for i in (1, 2, 3)]


def residual_map(model: D24FADModel, query: Tensor, supports: Tensor) -> tuple[Tensor, Tensor]:
    with torch.inference_mode():
        return model.residual_map(query, supports)


def support_numbers(shots: int, per_query: bool) -> list[list[int]]:
    """Which sample images support query b (itself image b): [b][k]. Up to K = 4 distinct where per query."""
    step = 0 if not per_query else 2 if shots == 8 else shots
    return [[B + k + b * step for k in range(shots)] for b in range(B)]


def stack_supports(images: Tensor, numbers: list[list[int]], per_query: bool) -> Tensor:
    if not per_query:
        return images[numbers[0]]
    return torch.stack([torch.stack([images[row[k]] for row in numbers]) for k in range(len(numbers[0]))])


@pytest.mark.parametrize("per_query", [False, True], ids=["shared", "per-query"])
@pytest.mark.parametrize("shots", SHOTS)
def test_map_and_weights_follow_the_formulas(sample: Any, shots: int, per_query: bool) -> None:
    numbers = support_numbers(shots, per_query)
    supports = stack_supports(sample.images, numbers, per_query)
    got_map, got_weights = residual_map(sample.model, sample.images[:B], supports)
    expected_map, expected_weights = loop_reference(
        [doubles(sample.features[b]) for b in range(B)],
        [[doubles(sample.features[n]) for n in row] for row in numbers],
        projections_of(sample.model.weighting),
        tuple(sample.images.shape[-2:]),
    )
    assert got_map.shape == (B, *sample.images.shape[-2:])
    assert got_weights.shape == (B, 3, shots)
    np.testing.assert_allclose(got_weights.numpy(), expected_weights, atol=1e-8)
    np.testing.assert_allclose(got_map.numpy(), expected_map, atol=1e-8)
    np.testing.assert_allclose(got_weights.sum(-1).numpy(), 1.0, atol=1e-12)
    if shots == 1:
        assert torch.equal(got_weights, torch.ones(B, 3, 1, dtype=torch.float64))
    else:  # the comparison says something only where weights and residuals are not trivial
        assert 1.1 / shots < expected_weights.max(-1).mean() < 0.99
        assert expected_map.std() > 0.01


def test_tall_images_and_another_size(small_sample: Any) -> None:
    model = small_sample.model
    torch.manual_seed(1)
    images = torch.rand(4, 3, 96, 32, dtype=torch.float64)
    with torch.inference_mode():
        features = [doubles([f[0] for f in model.student(model.teacher(i[None])[1])]) for i in images]
    got_map, got_weights = residual_map(small_sample.model, images[:1], images[1:])
    expected_map, expected_weights = loop_reference(
        features[:1], [features[1:]], projections_of(small_sample.model.weighting), (96, 32)
    )
    np.testing.assert_allclose(got_weights.numpy(), expected_weights, atol=1e-8)
    np.testing.assert_allclose(got_map.numpy(), expected_map, atol=1e-8)


@pytest.mark.parametrize("per_query", [False, True], ids=["shared", "per-query"])
def test_order_of_supports_moves_weights_only(small_sample: Any, per_query: bool) -> None:
    numbers = support_numbers(4, per_query)
    supports = stack_supports(small_sample.images, numbers, per_query)
    order = [2, 0, 3, 1]
    first_map, first_weights = residual_map(small_sample.model, small_sample.images[:B], supports)
    second_map, second_weights = residual_map(small_sample.model, small_sample.images[:B], supports[order])
    torch.testing.assert_close(second_weights, first_weights[..., order], atol=1e-9, rtol=0)
    torch.testing.assert_close(second_map, first_map, atol=1e-9, rtol=0)
    assert (first_weights[..., order] - first_weights).abs().max() > 0.05


def test_a_query_does_not_depend_on_its_batch(small_sample: Any) -> None:
    supports = small_sample.images[4:7]
    together, weights = residual_map(small_sample.model, small_sample.images[:3], supports)
    for b in range(3):
        alone, alone_weights = residual_map(small_sample.model, small_sample.images[b : b + 1], supports)
        torch.testing.assert_close(together[b : b + 1], alone, atol=1e-9, rtol=0)
        torch.testing.assert_close(weights[b : b + 1], alone_weights, atol=1e-9, rtol=0)


def test_a_query_that_is_its_only_support_has_no_residual(small_sample: Any) -> None:
    zero, _ = residual_map(small_sample.model, small_sample.images[:1], small_sample.images[:1])
    other, _ = residual_map(small_sample.model, small_sample.images[:1], small_sample.images[1:2])
    assert zero.abs().max() < 1e-9
    assert other.mean() > 0.01


@pytest.mark.parametrize("per_query", [False, True], ids=["shared", "per-query"])
def test_each_support_image_is_encoded_once(small_sample: Any, per_query: bool) -> None:
    numbers = support_numbers(4, per_query)
    supports = stack_supports(small_sample.images, numbers, per_query)
    seen: list[Tensor] = []
    decoded: list[int] = []
    handles = [
        small_sample.model.teacher.register_forward_pre_hook(lambda _, args: seen.extend(args[0])),
        small_sample.model.student.register_forward_pre_hook(lambda _, args: decoded.append(len(args[0]))),
    ]
    try:
        residual_map(small_sample.model, small_sample.images[:B], supports)
    finally:
        for handle in handles:
            handle.remove()
    used = {n for row in numbers for n in row}
    for n in range(len(small_sample.images)):
        times = sum(torch.equal(image, small_sample.images[n]) for image in seen)
        assert times == (1 if n < B or n in used else 0), f"image {n}"
    assert sum(decoded) == len(seen) == B + len(used)


@pytest.mark.parametrize(
    ("query", "supports"),
    [
        ((3, 32, 32), (2, 3, 32, 32)),
        ((1, 2, 3, 32, 32), (2, 3, 32, 32)),
        ((2, 3, 32, 32), (3, 32, 32)),
        ((2, 3, 32, 32), (0, 3, 32, 32)),
        ((2, 3, 32, 32), (0, 2, 3, 32, 32)),
        ((2, 3, 32, 32), (4, 3, 3, 32, 32)),
        ((2, 3, 32, 32), (2, 4, 3, 32, 32)),
        ((2, 3, 32, 64), (2, 3, 64, 32)),
        ((2, 3, 32, 32), (2, 3, 64, 64)),
        ((2, 3, 48, 32), (2, 3, 48, 32)),
        ((2, 3, 32, 33), (2, 3, 32, 33)),
        ((2, 1, 32, 32), (2, 3, 32, 32)),
        ((2, 3, 32, 32), (2, 1, 32, 32)),
        ((2, 3, 32, 32), (4, 2, 1, 32, 32)),
    ],
)
def test_shapes_that_do_not_fit_are_refused(
    lite0: D24FADModel, query: tuple[int, ...], supports: tuple[int, ...]
) -> None:
    with pytest.raises(ValueError, match=r"query|images must be"):
        residual_map(lite0, torch.zeros(query), torch.zeros(supports))


def test_unknown_teacher_is_refused() -> None:
    with pytest.raises(ValueError, match=r"resnet18.*efficientnet_lite0"):
        D24FADModel.build("resnet18")


def test_single_precision_agrees(small_sample: Any) -> None:
    query = [torch.stack([small_sample.features[b][s] for b in range(B)]) for s in range(3)]
    supports = [torch.stack([small_sample.features[n][s] for n in range(4, 8)]) for s in range(3)]
    with torch.inference_mode():
        exact, exact_weights = small_sample.model.compare(query, supports)
        single = LearnToWeight(small_sample.model.weighting.channels)
        single.load_state_dict(small_sample.model.weighting.state_dict())
        weights = single([q.float() for q in query], [s.float() for s in supports])
        got = residual([q.float() for q in query], weighted_supports([s.float() for s in supports], weights))
    torch.testing.assert_close(weights.double(), exact_weights, atol=1e-3, rtol=0)
    for a, b in zip(got, exact, strict=True):
        assert a.dtype == torch.float32
        torch.testing.assert_close(a.double(), b, atol=1e-3, rtol=0)


# --- weights per position: the logits' mean over positions instead of their sum -----------------


def test_per_position_divides_the_logits_by_the_positions(small_sample: Any) -> None:
    """Positions of 32x64 pixels at strides 4, 8, 16: 128, 32, 8."""
    paper, ours = (
        small_sample.model.weighting,
        LearnToWeight(small_sample.model.weighting.channels, per_position=True).double(),
    )
    assert paper.per_position is False
    ours.load_state_dict(paper.state_dict())  # the flag adds no parameter: official weights fit both
    query = [torch.stack([small_sample.features[b][scale] for b in range(B)]) for scale in range(3)]
    shared = [torch.stack([small_sample.features[n][scale] for n in (4, 5, 6)]) for scale in range(3)]
    own = [torch.stack([s, s.flip(0), s.roll(1, 0)])[:, :B] for s in shared]
    for scale, positions in enumerate((128, 32, 8)):
        for supports in (shared[scale], own[scale]):
            with torch.no_grad():
                summed = paper.logits(scale, query[scale], supports)
                mean = ours.logits(scale, query[scale], supports)
            torch.testing.assert_close(mean * positions, summed, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("per_query", [False, True], ids=["shared", "per-query"])
def test_map_with_per_position_weights_follows_the_formulas(small_sample: Any, per_query: bool) -> None:
    numbers = support_numbers(4, per_query)
    paper, features = small_sample.model.weighting, small_sample.features
    ours = LearnToWeight(paper.channels, per_position=True).double().requires_grad_(False)
    ours.load_state_dict(paper.state_dict())
    for scale, positions in enumerate((128, 32, 8)):
        ours.get_submodule(f"proj_in{scale + 1}").weight *= positions  # far from uniform
    query = [torch.stack([features[b][s] for b in range(B)]) for s in range(3)]
    if per_query:
        supports = [
            torch.stack([torch.stack([features[row[k]][s] for row in numbers]) for k in range(4)])
            for s in range(3)
        ]
    else:
        supports = [torch.stack([features[n][s] for n in numbers[0]]) for s in range(3)]
    got = ours(query, supports)
    _, expected = loop_reference(
        [doubles(features[b]) for b in range(B)],
        [[doubles(features[n]) for n in row] for row in numbers],
        projections_of(ours),
        (2, 2),
        per_position=True,
    )
    np.testing.assert_allclose(got.numpy(), expected, atol=1e-8)
    assert expected.max(-1).mean() > 0.35  # uniform would be 0.25


def test_per_position_reaches_the_assembled_model(lite0: D24FADModel) -> None:
    assert D24FADModel.build(lite0.architecture).weighting.per_position is False
    assert D24FADModel.build(lite0.architecture, per_position_weights=True).weighting.per_position is True


def test_per_position_weights_do_not_harden_with_the_size() -> None:
    """A texture repeated over four times the area: the paper's logits grow fourfold, ours stay."""
    torch.manual_seed(5)
    paper, ours = LearnToWeight((8, 8, 8)), LearnToWeight((8, 8, 8), per_position=True)
    ours.load_state_dict(paper.state_dict())
    query, supports = torch.randn(2, 8, 4, 4), torch.randn(3, 8, 4, 4)
    with torch.no_grad():
        for weighting, factor in ((paper, 4.0), (ours, 1.0)):
            small = weighting.logits(1, query, supports)
            large = weighting.logits(1, query.repeat(1, 1, 2, 2), supports.repeat(1, 1, 2, 2))
            torch.testing.assert_close(large, factor * small, rtol=1e-4, atol=1e-5)


# --- cosine weights, and the assembled network as one module ------------------------------------


@pytest.mark.parametrize("per_query", [False, True], ids=["shared", "per-query"])
def test_cosine_weights_follow_the_formula(per_query: bool) -> None:
    """softmax of sharpness * cos(W^T query, support), in loops; and at most 100 sharp."""
    torch.manual_seed(6)
    weighting = LearnToWeight((4, 8, 8), cosine=True).double().requires_grad_(False)
    weighting.log_sharpness.copy_(torch.tensor([0.5, 2.0, 9.0]))
    query = [torch.randn(2, c, 2, 3).double() for c in (4, 8, 8)]
    shape = (3, 2) if per_query else (3,)
    supports = [torch.randn(*shape, c, 2, 3).double() for c in (4, 8, 8)]
    got = weighting(query, supports)
    for scale, sharpness in enumerate((math.exp(0.5), math.exp(2.0), 100.0)):
        matrix = weighting.get_submodule(f"proj_in{scale + 1}").weight[:, :, 0, 0]
        for b in range(2):
            turned = torch.einsum("oc,ohw->chw", matrix, query[scale][b]).flatten().numpy()
            logits = []
            for k in range(3):
                key = (supports[scale][k, b] if per_query else supports[scale][k]).flatten().numpy()
                cosine = turned @ key / (np.linalg.norm(turned) * np.linalg.norm(key))
                logits.append(sharpness * cosine)
            np.testing.assert_allclose(got[b, scale].numpy(), loop_softmax(logits), atol=1e-9)


def test_cosine_weights_do_not_depend_on_the_size_of_the_features() -> None:
    torch.manual_seed(7)
    weighting = LearnToWeight((8, 8, 8), cosine=True)
    query, supports = torch.randn(2, 8, 4, 4), torch.randn(3, 8, 4, 4)
    with torch.no_grad():
        torch.testing.assert_close(
            weighting.logits(0, 50 * query, 30 * supports), weighting.logits(0, query, supports)
        )


def test_one_kind_of_weights_at_a_time() -> None:
    with pytest.raises(ValueError, match="not both"):
        LearnToWeight((8, 8, 8), per_position=True, cosine=True)


def test_stacked_input_is_the_residual_map(lite0: D24FADModel) -> None:
    torch.manual_seed(8)
    query, supports = torch.rand(2, 3, 32, 64), torch.rand(3, 2, 3, 32, 64)
    with torch.inference_mode():
        stacked = lite0(torch.cat([query, *supports], dim=1))
    torch.testing.assert_close(stacked, residual_map(lite0, query, supports)[0][:, None])
    for channels in (3, 7):
        with pytest.raises(ValueError, match=r"image must be"):
            lite0(torch.rand(1, channels, 32, 32))
