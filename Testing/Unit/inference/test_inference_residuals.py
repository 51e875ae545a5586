"""The fast comparison against the formulas written out, and running within the memory there is."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from D24FADLib.inference.batches import Batches
from D24FADLib.inference.comparison import Comparer, Evidence
from D24FADLib.inference.resident import Resident
from D24FADLib.inference.residuals import _dots_in_place, _dots_of_positions, nearest_residuals
from D24FADLib.inference.runtimes import TorchEncoder

SHAPES = ((8, 12, 10), (12, 6, 5), (16, 3, 3))  # the last width is no multiple of a block


def made_features(supports: int, batch: int, seed: int = 0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(1 + supports, batch, *shape, generator=generator) + 0.5 for shape in SHAPES * 2]


class SmallModel(torch.nn.Module):
    """Weighting of the made features' sizes; the networks are not asked."""

    def __init__(self) -> None:
        super().__init__()
        from D24FADLib.network.learn_to_weight import LearnToWeight

        torch.manual_seed(1)
        self.weighting = LearnToWeight([c for c, _, _ in SHAPES], per_position=True)


def slow_nearest(features: Tensor) -> Tensor:
    """Position by position, from the definition."""
    count, batch, _, height, width = features.shape
    result = torch.zeros(count, count - 1, batch, height, width)
    for y in range(height):
        for x in range(width):
            here = features[..., y, x]
            near = [
                F.cosine_similarity(here[:, None], features[None, 1:, ..., v, u], dim=-1)
                for v in range(max(0, y - 1), min(height, y + 2))
                for u in range(max(0, x - 1), min(width, x + 2))
            ]
            result[..., y, x] = 1 - torch.stack(near).amax(0)
    return result


def slow_judgement(
    model: SmallModel, features: list[Tensor], target: int, against: list[int], covered: Tensor
) -> Tensor:
    """One volume against some supports: evidence 0.7 x student + 1.3 x teacher."""

    def finest(maps: list[Tensor]) -> Tensor:
        size = SHAPES[0][1:]
        return sum(F.interpolate(m[:, None], size, mode="bilinear", align_corners=True)[:, 0] for m in maps)

    student = features[3:]
    logits = torch.stack(
        [model.weighting.logits(i, s[target], s[against]) for i, s in enumerate(student)], dim=1
    )
    weights = logits.softmax(-1)
    means = [torch.einsum("bk,kbchw->bchw", weights[:, i], s[against]) for i, s in enumerate(student)]
    total = 0.7 * finest(
        [1 - F.cosine_similarity(s[target], m, 1) for s, m in zip(student, means, strict=True)]
    )
    nearest = [slow_nearest(f) for f in features[:3]]
    distances = [finest([n[target, k - 1] for n in nearest]) + ~covered[k - 1] * 6.0 for k in against]
    return total + 1.3 * torch.stack(distances).amin(0)


def comparer() -> Comparer:
    return Comparer(SmallModel(), Evidence(0.7, 1.3), torch.device("cpu"), encoder=lambda images: [])  # type: ignore[arg-type]


@pytest.mark.parametrize("supports", [1, 2, 4])
def test_nearest_residuals_are_those_of_the_definition(supports: int) -> None:
    features = made_features(supports, 2)[0]
    got, expected = nearest_residuals(features), slow_nearest(features)
    for k in range(supports):
        expected[k + 1, k] = got[k + 1, k]  # with itself: no meaning
    torch.testing.assert_close(got, expected, atol=2e-6, rtol=0)
    torch.testing.assert_close(nearest_residuals(features, 1), expected[:1], atol=2e-6, rtol=0)


@pytest.mark.parametrize("supports", [1, 2, 4])
def test_every_judgement_is_that_of_the_formula(supports: int) -> None:
    features = made_features(supports, 2)
    covered = torch.rand(supports, 2, *SHAPES[0][1:], generator=torch.Generator().manual_seed(2)) > 0.2
    one = comparer()
    with torch.no_grad():
        full, reduced, left_out, weights = one.compare_features(features, covered)
        everyone = list(range(1, supports + 1))
        expected = slow_judgement(one.model, features, 0, everyone, covered)  # type: ignore[arg-type]
        torch.testing.assert_close(full, expected, atol=1e-5, rtol=0)
        torch.testing.assert_close(weights.sum(-1), torch.ones(2, 3))
        if supports == 1:
            assert reduced is None
            assert left_out is None
            return
        others = [[k for k in everyone if k != out] for out in everyone]
        expected = torch.stack([slow_judgement(one.model, features, 0, o, covered) for o in others]).mean(0)  # type: ignore[arg-type]
        torch.testing.assert_close(reduced, expected, atol=1e-5, rtol=0)
        for out, rest in zip(everyone, others, strict=True):
            expected = slow_judgement(one.model, features, out, rest, covered)  # type: ignore[arg-type]
            torch.testing.assert_close(left_out[out - 1], expected, atol=1e-5, rtol=0)
        quick = one.compare_features(features, covered, query_only=True)
        torch.testing.assert_close(quick[0], full, atol=1e-6, rtol=0)
        torch.testing.assert_close(quick[1], reduced, atol=1e-6, rtol=0)
        assert quick[2] is None


@pytest.mark.parametrize("shape", [(2, 1, 3, 4, 5), (6, 3, 40, 7, 8)])
def test_both_ways_to_the_dot_products_are_the_definition(shape: tuple[int, ...]) -> None:
    features = torch.randn(shape, generator=torch.Generator().manual_seed(4))
    expected = (features[:, None] * features[None]).sum(3).permute(2, 0, 1, 3, 4).flatten(3)
    for way in (_dots_in_place, _dots_of_positions):
        torch.testing.assert_close(way(features), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("teacher", [0, 1])
def test_kept_features_give_the_maps_of_encoded_ones(embedded, teacher: int) -> None:
    one = Comparer(embedded, Evidence(1, teacher), torch.device("cpu"))
    images = torch.rand(4, 5, 3, 64, 32, generator=torch.Generator().manual_seed(5))
    reach = torch.ones(3, 5, 16, 8, dtype=torch.bool)
    expected = one.batch(images, reach)
    with torch.inference_mode():
        features = [f.unflatten(0, (3, 5)) for f in one.encoder(images[1:].flatten(0, 1))]
    kept = Resident([f.transpose(0, 1).half().numpy() for f in features[0 if teacher else 3 :]])
    known = kept(slice(1, 4), torch.device("cpu"))
    full, reduced, left_out, weights = one.batch(images[:1, 1:4], reach[:, 1:4], known)
    assert left_out is None  # nothing about the supports themselves
    for found, other in zip((full, reduced, weights), (expected[0], expected[1], expected[3]), strict=True):
        assert (found - other[1:4]).abs().max() < 0.05 * other.std()  # kept in float16


class Greedy:
    """Encodes with torch, but only `room` images at a time; with 0 it never can."""

    name, precision = "greedy", "f32"

    def __init__(self, model: torch.nn.Module, room: int, error: Exception) -> None:
        self._encoder = TorchEncoder(model, torch.device("cpu"))  # type: ignore[arg-type]
        self._room, self._error = room, error
        self.asked: list[int] = []

    def __call__(self, images: Tensor) -> list[Tensor]:
        self.asked.append(len(images))
        if len(images) > self._room:
            raise self._error
        return self._encoder(images)


ERRORS = [
    torch.cuda.OutOfMemoryError("CUDA out of memory"),
    RuntimeError("MPS backend out of memory (MPS allocated: 9 GB)"),
]


@pytest.fixture(scope="module")
def embedded(small_model):
    from D24FADLib.inference.models import load_model

    return load_model(str(small_model))[0]


def run(one: Comparer, slices: int, batch: int) -> tuple[list[Tensor], list[str]]:
    images = torch.rand(3, slices, 3, 32, 32, generator=torch.Generator().manual_seed(3))
    reach = torch.ones(2, slices, 8, 8, dtype=torch.bool)
    with Batches(one, workers=1) as batches:
        found = list(batches.run(lambda s, device: (images[:, s], reach[:, s], None), slices, batch))
    assert [done for done, _, _ in found] == sorted(done for done, _, _ in found)
    assert found[-1][0] == slices
    maps = [torch.cat([result[n] for _, result, _ in found], dim=n if n == 2 else 0) for n in range(2)]
    return maps, batches.notes


@pytest.mark.parametrize("error", ERRORS)
def test_the_batch_halves_until_it_fits(embedded, error: Exception) -> None:
    cpu = torch.device("cpu")
    expected, _ = run(Comparer(embedded, Evidence(1, 1), cpu), 17, 9)
    greedy = Greedy(embedded, 3 * 2, error)  # two slices of query and supports
    got, notes = run(Comparer(embedded, Evidence(1, 1), cpu, greedy), 17, 9)
    assert greedy.asked == [27, 12, 6, 6, 6, 6, 3, 6, 6, 6, 6]
    assert notes == []
    for a, b in zip(got, expected, strict=True):
        torch.testing.assert_close(a, b, atol=1e-4, rtol=0)


def test_where_nothing_fits_the_processor_takes_over_and_says_so(embedded) -> None:
    cpu = torch.device("cpu")
    expected, _ = run(Comparer(embedded, Evidence(1, 1), cpu), 3, 2)
    got, notes = run(Comparer(embedded, Evidence(1, 1), cpu, Greedy(embedded, 0, ERRORS[0])), 3, 2)
    assert len(notes) == 1
    assert "memory" in notes[0]
    for a, b in zip(got, expected, strict=True):
        torch.testing.assert_close(a, b, atol=1e-3, rtol=0)


def test_other_errors_are_not_taken_for_want_of_memory(embedded) -> None:
    broken = Greedy(embedded, 0, RuntimeError("shapes do not fit"))
    with pytest.raises(RuntimeError, match="shapes"):
        run(Comparer(embedded, Evidence(1, 1), torch.device("cpu"), broken), 2, 2)
