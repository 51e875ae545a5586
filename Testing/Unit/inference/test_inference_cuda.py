"""On a CUDA card: the same results as on the processor, within what the precision allows.

Needs torch, numpy, scipy, safetensors and pytest; the detection from end to end needs SimpleITK as well.
"""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from D24FADLib.inference import mahalanobis
from D24FADLib.inference.batches import Batches
from D24FADLib.inference.comparison import Comparer, Evidence, FeatureKeeper, to_input
from D24FADLib.inference.devices import exact_convolutions
from D24FADLib.inference.pictures import PictureComparer, PictureEvidence
from D24FADLib.inference.resident import Resident
from D24FADLib.inference.runtimes import TorchEncoder, choose_precision

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA card here")

CPU = torch.device("cpu")
K, SLICES, SIDE = 3, 12, 128
# Largest and mean difference of features in units of their standard deviation, and of maps (sums of six
# residuals). f32 on the card adds up in another order.
BOUNDS = {"f32": (1e-3, 1e-4, 1e-3), "f16": (0.2, 0.01, 0.05), "bf16": (1.5, 0.06, 0.5)}


@pytest.fixture(scope="module")
def card() -> torch.device:
    return torch.device("cuda", torch.cuda.current_device())


@pytest.fixture(scope="module")
def model(small_model):
    from D24FADLib.inference.models import load_model

    return load_model(str(small_model))[0]


def made(shape: tuple[int, ...], seed: int) -> Tensor:
    """Smooth values in [0, 1] (..., SIDE, SIDE)."""
    coarse = torch.rand(*shape, 16, 16, generator=torch.Generator().manual_seed(seed))
    flat = coarse.reshape(1, -1, 16, 16)
    fine = torch.nn.functional.interpolate(flat, (SIDE, SIDE), mode="bicubic", align_corners=True)
    return fine.clamp(0, 1).reshape(*shape, SIDE, SIDE)


@pytest.fixture(scope="module")
def images() -> Tensor:
    """(1 + K, slices, 3, SIDE, SIDE), gray; supports resemble the query."""
    pattern = made((1, SLICES, 1), 0)
    own = made((1 + K, SLICES, 1), 1)
    return (0.7 * pattern + 0.3 * own).expand(-1, -1, 3, -1, -1)


@pytest.fixture(scope="module")
def reach() -> Tensor:
    return torch.rand(K, SLICES, SIDE // 4, SIDE // 4, generator=torch.Generator().manual_seed(2)) > 0.1


def on(device: torch.device, model, precision: str = "f32", evidence: Evidence | None = None) -> Comparer:
    own = copy.deepcopy(model).to(device)
    return Comparer(own, evidence or Evidence(1, 1), device, TorchEncoder(own, device, precision))


def run(comparer, images: Tensor, reach: Tensor, batch: int, kept: Resident | None = None, times: int = 1):
    """Maps and weights of all slices, and the notes; the slices `times` over."""
    count = images.shape[1]

    def inputs(chunk: slice, device: torch.device):
        these = [n % count for n in range(chunk.start, chunk.stop)]
        known = None if kept is None else [f[:, these] for f in kept(slice(0, count), device)]
        return images[: 1 if kept else None, these], reach[:, these], known

    with Batches(comparer) as batches:
        found = list(batches.run(inputs, count * times, batch))
    columns = zip(*(result for _, result, _ in found), strict=True)
    return [torch.cat([part.cpu() for part in column]) for column in columns], batches.notes


@pytest.mark.parametrize("precision", list(BOUNDS))
def test_features_are_the_processors(model, images: Tensor, card, precision: str) -> None:
    gray = images[:, :4].flatten(0, 1)
    coloured = gray * torch.tensor([1.0, 0.8, 0.6])[:, None, None]
    exact = on(CPU, model).encoder
    with torch.inference_mode():
        for pictures in (gray, coloured):
            expected, found = exact(pictures), on(card, model, precision).encoder(pictures)
            for one, other in zip(expected, found, strict=True):
                assert other.device.type == "cuda"
                assert other.dtype == torch.float32
                difference = (other.cpu() - one).abs() / one.std()
                largest, mean, _ = BOUNDS[precision]
                print(f"{precision}: {difference.max():.2g}, mean {difference.mean():.2g}")
                assert difference.max() < largest
                assert difference.mean() < mean
                if precision != "f32":
                    assert difference.max() > 1e-5  # it did compute in less


@pytest.mark.parametrize("precision", list(BOUNDS))
@pytest.mark.parametrize("teacher", [0, 1])
def test_maps_are_the_processors(model, images, reach, card, precision: str, teacher: int) -> None:
    evidence = Evidence(1, teacher)
    expected, _ = run(on(CPU, model, evidence=evidence), images, reach, 5)
    found, notes = run(on(card, model, precision, evidence), images, reach, 5)
    assert notes == []
    for one, other in zip(expected, found, strict=True):  # full, reduced, left out, weights
        difference = (one - other).abs()
        print(f"{precision}: {difference.max():.2g}, mean {difference.mean():.2g}")
        assert difference.max() < BOUNDS[precision][2]


def test_the_same_input_gives_the_same_output(model, images, reach, card) -> None:
    comparer = on(card, model, "f16")
    first, _ = run(comparer, images, reach, 5, times=3)
    again, _ = run(comparer, images, reach, 5, times=3)
    for one, other in zip(first, again, strict=True):
        assert torch.equal(one, other)


def test_kept_features_on_the_card_are_those_of_the_host(model, images, reach, card, monkeypatch) -> None:
    comparer = on(card, model, "f32")
    with torch.inference_mode():
        features = [f.unflatten(0, (K, SLICES)) for f in comparer.encoder(images[1:].flatten(0, 1))]
    arrays = [f.transpose(0, 1).half().cpu().numpy() for f in features]
    kept = Resident(arrays)
    found, _ = run(comparer, images, reach, 5, kept)
    assert len(found) == 3  # nothing about the supports themselves
    expected, _ = run(comparer, images, reach, 5)
    assert (found[0] - expected[0]).abs().max() < 0.02  # they are kept in f16
    monkeypatch.setattr("D24FADLib.inference.resident._SHARE", 0.0)  # no room: slice by slice
    other, _ = run(comparer, images, reach, 5, Resident(arrays))
    assert torch.equal(found[0], other[0])
    on_host = run(on(CPU, model), images, reach, 5, Resident(arrays))[0]
    assert (found[0] - on_host[0]).abs().max() < BOUNDS["f32"][2]


def test_slices_are_resized_there_as_here(card) -> None:
    voxels = made((3,), 4)[:, :100, :90].numpy()
    here, there = (to_input(voxels, (128, 96), device) for device in (CPU, card))
    assert there.device.type == "cuda"
    assert there.stride(1) == 0
    torch.testing.assert_close(there.cpu(), here, atol=1e-5, rtol=0)


def test_textures_distances_are_the_processors(model, images, reach, card) -> None:
    found = []
    for device in (CPU, card):
        comparer = FeatureKeeper(on(device, model))
        (features, _), notes = run(comparer, images, reach, 5)
        assert notes == []
        fitted, own = mahalanobis.fit(features[:, 1:].to(device), reach, reach, 1.2)
        found.append((fitted.distance(features[:, 0].to(device)).cpu(), own.cpu()))
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(other, one, atol=2e-2, rtol=2e-2)  # features are kept in f16


def test_features_stay_on_the_card_where_all_are_needed(model, images, reach, card) -> None:
    with Batches(FeatureKeeper(on(card, model, "f16"))) as batches:
        results = [r for _, r, _ in batches.run(lambda s, d: (images[:, s], reach[:, s], None), SLICES, 5)]
    assert all(features.device.type == "cuda" for features, _ in results)


def test_pictures_are_compared_as_on_the_processor(model, card) -> None:
    pictures = torch.cat([made((1, 1), 5), made((4, 1), 6)]).expand(-1, 3, -1, -1)
    pictures = torch.nn.functional.interpolate(pictures, (256, 256), mode="bilinear")
    found = []
    for device in (CPU, card):
        comparer = PictureComparer(copy.deepcopy(model).to(device), PictureEvidence(), device)
        found.append(comparer.compare(comparer.encode(pictures[:1]), comparer.encode_supports(pictures[1:])))
    one, other = found
    for name in ("full", "reduced", "left_out", "weights"):
        here, there = getattr(one, name), getattr(other, name)
        assert there.device.type == "cuda"
        torch.testing.assert_close(there.cpu(), here, atol=1e-3, rtol=0)


@pytest.fixture
def little_memory(card) -> Iterator[None]:
    """No more of the card than what is taken already and 256 MiB."""
    torch.cuda.synchronize(card)
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(card).total_memory
    torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved(card) + 2**28) / total, card)
    yield
    torch.cuda.set_per_process_memory_fraction(1.0, card)
    torch.cuda.empty_cache()


def test_the_batch_halves_on_a_full_card(model, images, reach, card, request) -> None:
    comparer = on(card, model, "f16")
    expected, _ = run(comparer, images, reach, 4, times=20)
    sizes = []
    encoder = comparer.encoder

    def noting(pictures: Tensor) -> list[Tensor]:
        features = encoder(pictures)
        sizes.append(len(pictures) // (1 + K))  # of those that went well
        return features

    request.getfixturevalue("little_memory")
    comparer.encoder = noting  # type: ignore[assignment]
    found, notes = run(comparer, images, reach, SLICES * 20, times=20)  # 960 images at a time: gigabytes
    print(f"batches of {sizes}")
    assert notes == []
    assert max(sizes) < SLICES * 20
    for one, other in zip(expected, found, strict=True):
        torch.testing.assert_close(other, one, atol=0.05, rtol=0)


def test_where_nothing_fits_the_processor_takes_over(model, images, reach, card, request) -> None:
    large = torch.nn.functional.interpolate(images[:, :2, 0], (512, 512))[:, :, None].expand(
        -1, -1, 3, -1, -1
    )
    everywhere = torch.ones(K, 2, 128, 128, dtype=torch.bool)
    comparer = on(card, model, "f32")
    expected, _ = run(on(CPU, model), large, everywhere, 2)
    request.getfixturevalue("little_memory")
    filling = torch.empty(2**28 - 2**23, dtype=torch.uint8, device=card)
    found, notes = run(comparer, large, everywhere, 2)
    del filling
    assert len(notes) == 1
    for one, other in zip(expected, found, strict=True):
        torch.testing.assert_close(other, one, atol=1e-3, rtol=0)


def test_the_switch_of_exact_convolutions_is_put_back(card) -> None:
    before = torch.backends.cudnn.allow_tf32
    with exact_convolutions():
        with exact_convolutions():
            assert not torch.backends.cudnn.allow_tf32
        assert not torch.backends.cudnn.allow_tf32
    assert torch.backends.cudnn.allow_tf32 == before


def test_half_precision_is_chosen_where_there_are_tensor_cores(card) -> None:
    has = torch.cuda.get_device_capability(card)[0] >= 7
    assert choose_precision("auto", card, False) == ("f16" if has else "f32")


@pytest.mark.parametrize(("evidence", "cached"), [("fused", False), ("fused", True), ("residuals", True)])
def test_a_detection_is_the_processors(
    small_model: Path, tmp_path: Path, monkeypatch, evidence: str, cached: bool
) -> None:
    """From volumes to findings, made of smooth noise, with a bright ball."""
    sitk = pytest.importorskip("SimpleITK", reason="volumes need SimpleITK")
    from scipy import ndimage

    from D24FADLib.imaging.alignment import Alignment
    from D24FADLib.imaging.volume import Volume
    from D24FADLib.inference.detector import detect
    from D24FADLib.inference.fusion import KINDS
    from D24FADLib.inference.options import DetectionOptions

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    rng = np.random.default_rng(7)
    pattern = ndimage.gaussian_filter(rng.standard_normal((20, 48, 48)), 3)
    z, y, x = np.indices(pattern.shape)
    body = ((y - 24) ** 2 + (x - 24) ** 2 < 21**2) & (z > 1) & (z < 18)
    ball = (z - 10) ** 2 * 4 + (y - 20) ** 2 + (x - 30) ** 2 < 30

    def volume(name: str, lesion: bool) -> Volume:
        own = ndimage.gaussian_filter(rng.standard_normal(pattern.shape), 1.5)
        values = 300 + 900 * pattern + 150 * own + 250 * lesion * ball
        image = sitk.GetImageFromArray(np.where(body, np.maximum(values, 60), 0).astype(np.float32))
        image.SetSpacing((3.0, 3.0, 4.0))
        return Volume(image, name)

    query, *supports = [volume(f"study {n}", n == 0) for n in range(4)]
    model = small_model
    if evidence == "fused":  # which the small model leaves out
        model = Path(shutil.copytree(small_model, tmp_path / "model", symlinks=True))
        path = model / "configs" / "metadata.json"
        about = json.loads(path.read_text(encoding="utf-8"))
        about["d24fad"]["volumes"] = {"mahalanobis": 1.0, "appearance": 1.0}
        path.write_text(json.dumps(about), encoding="utf-8")
    maps = {}
    for device in ("cpu", "cuda"):
        options = DetectionOptions(
            model=str(model), align=Alignment.NONE, device=device, runtime="torch",
            precision="f32", reference_cache=cached,
        )  # fmt: skip
        found = detect(query, supports, options)
        assert found.record["device"]["type"].startswith(device)
        assert found.kinds == (KINDS if evidence == "fused" else ())
        maps[device] = found.anomaly_map.array()
    assert np.abs(maps["cpu"] - maps["cuda"]).max() < 0.05 * maps["cpu"].max()
    again = detect(query, supports, options)
    assert np.array_equal(again.anomaly_map.array(), maps["cuda"])
