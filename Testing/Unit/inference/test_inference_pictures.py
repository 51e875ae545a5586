"""Comparing pictures, beside plain loops over positions."""

from __future__ import annotations

import json

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from torch import Tensor

from D24FADLib.imaging.volume import Volume
from D24FADLib.inference.detector import detect
from D24FADLib.inference.models import load_model
from D24FADLib.inference.pictures import PictureComparer, PictureEvidence, agreement_weights, stretched
from D24FADLib.network.model import D24FADModel

CPU = torch.device("cpu")
SMALL = PictureEvidence(((64, 8), (64, 16)), ((32, 32),), True, 10.0, 0.02)


@pytest.fixture(scope="module")
def model() -> D24FADModel:
    return load_model("d24fad-lite0")[0]


@pytest.fixture(scope="module")
def comparer(model: D24FADModel) -> PictureComparer:
    return PictureComparer(model, SMALL, CPU)


def textures(count: int, seed: int = 0, side: int = 64) -> Tensor:
    """Pictures of one kind: waves of one direction, each with its own phase, and a little noise."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:side, :side] / side
    made = [
        0.5 + 0.35 * np.sin(18 * x + rng.uniform(0, 6)) * np.cos(9 * y) + rng.normal(0, 0.02, x.shape)
        for _ in range(count)
    ]
    return torch.from_numpy(np.stack(made)).float().clamp(0, 1)[:, None].expand(-1, 3, -1, -1).contiguous()


def with_blob(image: Tensor, row: int, col: int) -> Tensor:
    changed = image.clone()
    changed[..., row - 8 : row + 8, col - 8 : col + 8] = torch.rand(16, 16, generator=torch.manual_seed(1))
    return changed


def test_comparison_is_that_of_plain_loops(comparer: PictureComparer) -> None:
    images = textures(5)
    query, supports = comparer.encode(images[:2]), comparer.encode_supports(images[2:])
    found = comparer.compare(query, supports)
    plain, mirrored = supports[:3], supports[3:]

    def distance(a: Tensor, k: int, level: int) -> Tensor:
        """(h, w) of one picture's level (C, h, w) to support k, position by position."""
        banks = torch.cat([plain[level][k].flatten(1), mirrored[level][k].flatten(1)], 1)
        rows = [[1 - (a[:, y, x] @ banks).max() for x in range(a.shape[2])] for y in range(a.shape[1])]
        return torch.tensor(rows)

    apart = torch.zeros(3)
    for level in range(3):
        pairs = torch.tensor(
            [[float(distance(plain[level][j], k, level).mean()) for k in range(3)] for j in range(3)]
        )
        mean = torch.tensor(
            [sum((pairs[j, k] + pairs[k, j]) / 2 for j in range(3) if j != k) / 2 for k in range(3)]
        )
        apart += (mean - mean.mean()) / mean.mean()
    weights = torch.softmax(-10 * apart / 3, 0)
    torch.testing.assert_close(found.weights, weights, rtol=1e-3, atol=1e-4)

    def judged(levels: list[Tensor], kept: list[int], used: list[int]) -> Tensor:
        total = torch.zeros(8, 8)
        for level in used:
            shares = weights[kept] / weights[kept].sum()
            parts = [
                s * torch.exp(-distance(levels[level], k, level) / 0.02)
                for s, k in zip(shares, kept, strict=True)
            ]
            soft = -0.02 * torch.log(sum(parts))
            total += torch.nn.functional.interpolate(
                soft[None, None], (8, 8), mode="bilinear", align_corners=True
            )[0, 0]
        return total

    second = [f[1] for f in query]
    torch.testing.assert_close(found.full[1], judged(second, [0, 1, 2], [0, 1]), rtol=1e-3, atol=1e-4)
    pairs_of = ([1, 2], [0, 2], [0, 1])
    reduced = torch.stack([judged(second, kept, [0, 1]) for kept in pairs_of]).mean(0)
    torch.testing.assert_close(found.reduced[1], reduced, rtol=1e-3, atol=1e-4)
    left_out = judged([f[2] for f in plain], [0, 1], [0, 1, 2])
    torch.testing.assert_close(found.overall[1][2], left_out, rtol=1e-3, atol=1e-4)
    whole = judged(second, [0, 1, 2], [0, 1, 2])
    torch.testing.assert_close(found.overall[0][1], whole, rtol=1e-3, atol=1e-4)


def test_the_order_of_supports_changes_their_weights_order_alone(comparer: PictureComparer) -> None:
    images = textures(5)
    order = torch.tensor([2, 0, 3, 1])
    query, supports = comparer.encode(images[:1]), comparer.encode_supports(images[1:])
    one = comparer.compare(query, supports)
    other = comparer.compare(query, [f[order] for f in supports])
    torch.testing.assert_close(other.weights, one.weights[order])
    torch.testing.assert_close(other.full, one.full)
    torch.testing.assert_close(other.reduced, one.reduced)
    torch.testing.assert_close(other.left_out, one.left_out[order])


def test_a_support_unlike_the_others_is_turned_down(comparer: PictureComparer) -> None:
    images = textures(5)
    images[2] = textures(1, 9).transpose(-1, -2)[0]
    found = comparer.compare(comparer.encode(images[:1]), comparer.encode_supports(images[1:]))
    assert int(found.weights.argmin()) == 1
    assert found.weights[1] < 0.15
    assert float(found.weights.sum()) == pytest.approx(1.0)


def test_what_no_support_shows_stands_out_where_it_is(comparer: PictureComparer) -> None:
    images = textures(4)
    images = torch.cat([with_blob(images[:1], 44, 20), images])
    found = comparer.compare(comparer.encode(images[:1]), comparer.encode_supports(images[2:]))
    row, col = divmod(int(found.full[0].argmax()), 8)
    assert abs(row - 5) <= 1
    assert abs(col - 2) <= 1


def test_a_mirrored_picture_is_no_anomaly(model: D24FADModel) -> None:
    images = textures(3)
    images = with_blob(images, 30, 16)  # the same in all, on one side
    query = images[:1].flip(-1)
    values = []
    for mirrored in (True, False):
        comparer = PictureComparer(model, PictureEvidence(SMALL.local, SMALL.wide, mirrored), CPU)
        found = comparer.compare(comparer.encode(query), comparer.encode_supports(images[1:]))
        values.append(float(found.full.max()))
    assert values[0] < 0.8 * values[1]


def test_one_support_and_equal_ones(comparer: PictureComparer) -> None:
    images = textures(2)
    query = comparer.encode(images[:1])
    alone = comparer.compare(query, comparer.encode_supports(images[1:]))
    assert alone.reduced is None
    assert alone.left_out is None
    assert alone.overall[1] is None
    thrice = comparer.compare(query, comparer.encode_supports(images[1:].expand(3, -1, -1, -1)))
    torch.testing.assert_close(thrice.weights, torch.full((3,), 1 / 3), atol=1e-3, rtol=0)
    torch.testing.assert_close(thrice.full, alone.full, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(thrice.reduced, alone.full, atol=1e-5, rtol=1e-4)
    assert thrice.left_out.abs().max() < 1e-4


def test_weights_of_two_are_equal() -> None:
    own = [torch.rand(2, 2, 4, 4)]
    torch.testing.assert_close(agreement_weights(own, 10.0), torch.tensor([0.5, 0.5]))


def test_brightness_and_contrast_do_not_matter() -> None:
    images = textures(3)
    torch.testing.assert_close(stretched(0.2 + 0.5 * images), stretched(images), atol=1e-4, rtol=0)
    flat = torch.full((1, 3, 8, 8), 0.4)
    assert stretched(flat).isfinite().all()


def test_evidence_survives_json() -> None:
    from dataclasses import asdict

    assert PictureEvidence.of(json.loads(json.dumps(asdict(SMALL)))) == SMALL
    assert PictureEvidence.of(None) is None
    assert SMALL.size == 64


def test_a_picture_is_detected_without_regard_to_place() -> None:
    """The same texture elsewhere is normal; a blob is a finding, with the reference most like it there."""

    def picture(values: Tensor, name: str) -> Volume:
        array = (values[0].numpy() * 255).round().astype(np.uint8)[None]
        return Volume(sitk.GetImageFromArray(array), name)

    images = textures(5, side=128)
    supports = [picture(image, f"normal {n}") for n, image in enumerate(images[1:])]
    changed = with_blob(images[0].roll((20, 9), (1, 2)), 90, 40)
    found = detect(picture(changed, "query"), supports, runtime="torch", cache=False)
    usual = detect(picture(images[0].roll((20, 9), (1, 2)), "query"), supports, runtime="torch", cache=False)
    scores = found.anomaly_map.array()[0]
    row, col = np.unravel_index(int(scores.argmax()), scores.shape)
    assert abs(row - 90) < 12
    assert abs(col - 40) < 12
    assert found.score > usual.score + 0.5
    assert found.p_value < usual.p_value
    assert sum(r.mean_weight for r in found.supports) == pytest.approx(1.0, abs=1e-5)
    first = found.findings[0]
    assert first.nearest_reference in (1, 2, 3, 4)
    assert first.residuals == ()
