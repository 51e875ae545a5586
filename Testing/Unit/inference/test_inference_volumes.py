"""The evidence of gray volumes: each formula against plain loops, and what it makes of lesions."""

from __future__ import annotations

import csv
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import ndimage

from D24FADLib.imaging.alignment import Alignment
from D24FADLib.imaging.masks import PackedMask
from D24FADLib.imaging.planes import Plane
from D24FADLib.inference import appearance, fusion, mahalanobis, preparation
from D24FADLib.inference.cache import references_folder
from D24FADLib.inference.calibration import robust_maximum
from D24FADLib.inference.detector import detect
from D24FADLib.inference.deviation import rim, usual
from D24FADLib.inference.fusion import both_sides, fuse, named, scale_of
from D24FADLib.inference.outputs import write_outputs
from D24FADLib.inference.preparation import on_grid
from D24FADLib.inference.volumes import VolumeEvidence

PITCH = (3.0, 2.0, 2.0)
GRID = (4, 5)


def gaussian_mean(section: np.ndarray, row: float, col: float, sigma: tuple[float, float]) -> float:
    total = weight = 0.0
    for y in range(section.shape[0]):
        for x in range(section.shape[1]):
            w = np.exp(-0.5 * (((y - row) / sigma[0]) ** 2 + ((x - col) / sigma[1]) ** 2))
            total, weight = total + w * section[y, x], weight + w
    return total / weight


@pytest.mark.parametrize("compressed", [True, False])
def test_brightness_and_noise_are_those_of_the_definition(compressed: bool) -> None:
    shape = (1, 12, 15)
    v = np.random.default_rng(0).uniform(0, 1, shape).astype(np.float32)
    (bright,), (noise,) = appearance.brightness_and_noise([v], GRID, PITCH, compressed)
    section = v[0].astype(float)
    padded = np.pad(section, 1, mode="symmetric")
    high = np.zeros_like(section)
    kernel = np.outer([1, -2, 1], [1, -2, 1]) / 6
    for y in range(shape[1]):
        for x in range(shape[2]):
            high[y, x] = (padded[y : y + 3, x : x + 3] * kernel).sum()
    u = section
    if compressed:  # the inverse of intensity.prepare's 1 - 0.1 exp(-(x - 0.9) / 0.1)
        u = np.where(section > 0.9, 0.9 - 0.1 * np.log(np.maximum(1 - section, 1e-4) / 0.1), section)
        assert u.max() > 1.0
    tissue = section > 0.15
    every = 3  # voxels a position
    for h, row in enumerate(np.linspace(0, 11, GRID[0])):
        for w, col in enumerate(np.linspace(0, 14, GRID[1])):
            per = 11 / 3, 14 / 4  # voxels of one position
            fine, wide, near = ([s * p for p in per] for s in (0.6, 5.5, 0.45))
            sparse = slice(None, None, every)
            of = [m[sparse, sparse] for m in (u * tissue, tissue)]
            level, share = (
                gaussian_mean(m, row / every, col / every, (wide[0] / every, wide[1] / every)) for m in of
            )
            expected = gaussian_mean(u, row, col, (fine[0], fine[1])) - level / share
            assert bright[0, h, w] == pytest.approx(expected, abs=1e-4)
            expected = gaussian_mean(np.log(np.abs(high) + 0.0015), row, col, (near[0], near[1]))
            assert noise[0, h, w] == pytest.approx(expected, abs=1e-3)


def test_a_bias_field_is_no_brightness_and_a_scale_no_noise() -> None:
    rng = np.random.default_rng(1)
    v = (0.45 + 0.05 * ndimage.gaussian_filter(rng.normal(size=(3, 96, 96)), 1.0)).astype(np.float32)
    field = np.linspace(-0.1, 0.1, 96, dtype=np.float32)[:, None]
    (plain, biased), (noise, same) = appearance.brightness_and_noise([v, v + field], (24, 24), PITCH, True)
    middle = (slice(None), slice(8, 16), slice(8, 16))
    assert np.abs(biased - plain)[middle].max() < 0.25 * 0.2 * 8 / 24  # a quarter of the field's own change
    np.testing.assert_allclose(noise, same, atol=2e-2)
    body = np.ones(noise.shape, bool)
    (louder,) = appearance.brightness_and_noise([0.45 + 2 * (v - 0.45)], (24, 24), PITCH, True)[1]
    np.testing.assert_allclose(appearance.centred(louder, body), appearance.centred(noise, body), atol=0.15)


def made_values(count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    values = rng.normal(size=(1 + count, 2, 4, 5)).astype(np.float32)
    return values, rng.random(values.shape[1:]) > 0.2, rng.random((count, *values.shape[1:])) > 0.2


def deviations(
    values: np.ndarray, body: np.ndarray, bodies: np.ndarray, least: float
) -> tuple[np.ndarray, np.ndarray]:
    found, own = usual(values[1:], bodies, PITCH, least)
    return found.z(values[0], body), own


def slow_against(x: float, others: list[float], least: int) -> float | None:
    if len(others) < least:
        return None
    outside = max(x - max(others), 0) - max(min(others) - x, 0)
    return 0.5 * (x - sum(others) / len(others)) + 0.5 * outside


@pytest.mark.parametrize("count", [2, 3, 4])
def test_deviations_are_those_of_the_definition(count: int) -> None:
    values, body, bodies = made_values(count)
    z, own = deviations(values, body, bodies, 1e-6)
    least = count // 2  # of count - 1 others
    d, judged = np.zeros((count, 2, 4, 5)), np.zeros((count, 2, 4, 5))
    query = np.full((2, 4, 5), np.nan)
    for place in np.ndindex(2, 4, 5):
        found = []
        for k in range(count):
            others = [values[1 + j][place] for j in range(count) if j != k and bodies[j][place]]
            mine = slow_against(values[1 + k][place], others, least)
            if mine is not None and bodies[k][place]:
                d[k][place], judged[k][place] = mine, 1
            found.append(slow_against(values[0][place], others, least))
        known = [f for f in found if f is not None]
        if known and body[place] and bodies[(slice(None), *place)].sum() >= (count + 1) // 2:
            query[place] = sum(known) / len(known)
    sigma = (1.8 * 2 / 3, 1.8, 1.8)
    squares, shares = ([ndimage.gaussian_filter(a, sigma, mode="nearest") for a in b] for b in (d**2, judged))
    usual = [(d[k] ** 2)[judged[k] > 0].mean() for k in range(count)]

    def spread(kept: list[int]) -> np.ndarray:
        local = sum(squares[k] for k in kept) / sum(shares[k] for k in kept)
        return np.sqrt(0.7 * local + 0.3 * np.median([usual[k] for k in kept]))

    np.testing.assert_allclose(z, np.nan_to_num(query / spread(list(range(count)))), rtol=1e-3, atol=1e-5)
    for k in range(count):
        expected = d[k] / spread([j for j in range(count) if j != k])
        np.testing.assert_allclose(own[k], expected, rtol=1e-3, atol=1e-5)


def test_scale_shift_and_order_do_not_matter() -> None:
    values, body, bodies = made_values(4)
    z, own = deviations(values, body, bodies, 1e-6)
    np.testing.assert_allclose(deviations(3 * values + 7, body, bodies, 1e-6)[0], z, atol=1e-3)
    order = [2, 0, 3, 1]
    again, permuted = deviations(values[[0, 3, 1, 4, 2]], body, bodies[order], 1e-6)
    np.testing.assert_allclose(again, z, atol=1e-5)
    np.testing.assert_allclose(permuted, own[order], atol=1e-5)


def test_identical_supports_do_not_divide_by_zero() -> None:
    values = np.zeros((4, 2, 4, 5), np.float32)
    values[0, 1, 2, 2] = 0.5
    everywhere = np.ones((3, 2, 4, 5), bool)
    z, own = deviations(values, everywhere[0], everywhere, 2e-3)
    features = np.ones((2, 4, 3, 4, 5), np.float16)
    features[1, 0, :, 2, 2] = 2.0
    query, left_out = texture(features, everywhere, everywhere, 0.0)
    supports = {**both_sides(("brighter", "darker"), own), "texture": left_out}
    scales = {kind: scale_of(one, 1.0) for kind, one in supports.items()}
    own_map = fuse(supports, scales)[0]
    fused = fuse({**both_sides(("brighter", "darker"), z), "texture": query}, scales)[0]
    for array in (fused, own_map):
        assert np.isfinite(array).all()
    assert not own_map.any()
    assert np.unravel_index(fused.argmax(), fused.shape) == (1, 2, 2)


def texture(
    features: np.ndarray, reach: np.ndarray, judged: np.ndarray, sigma: float
) -> tuple[np.ndarray, np.ndarray]:
    stack = torch.from_numpy(features)
    fitted, own = mahalanobis.fit(stack[:, 1:], torch.from_numpy(reach), torch.from_numpy(judged), sigma)
    return fitted.distance(stack[:, 0]).numpy(), own.numpy()


@pytest.mark.parametrize(("count", "sigma"), [(2, 0.0), (4, 0.0), (4, 1.2)])
def test_mahalanobis_is_that_of_the_definition(count: int, sigma: float) -> None:
    rng = np.random.default_rng(3)
    shape = (20, 1 + count, 3, 4, 5)  # more slices than are looked at at a time
    features = rng.normal(1.0, (0.2, 0.5, 1.0), (*shape[:2], 4, 5, 3)).transpose(0, 1, 4, 2, 3)
    features = features.astype(np.float16)
    judged = rng.random((count, 20, 4, 5)) > 0.3
    reach = np.ones_like(judged)
    reach[0, :3] = count < 3  # the first support does not show the first slices
    judged &= reach
    query, left_out = texture(features, reach, judged, sigma)
    f = features.astype(float)
    if sigma:
        f = ndimage.gaussian_filter1d(f, sigma, axis=0, mode="nearest")
    rows, d = [], np.zeros((count, 20, 4, 5, 3))
    towards, widened = np.zeros((20, 4, 5, 3)), np.zeros((20, 4, 5))
    for n, y, x in np.ndindex(20, 4, 5):
        there = [k for k in range(count) if reach[k, n, y, x]]
        for k in there:
            d[k, n, y, x] = f[n, 1 + k, :, y, x] - np.mean(
                [f[n, 1 + j, :, y, x] for j in there if j != k], axis=0
            )
            if judged[k, n, y, x]:
                rows.append(d[k, n, y, x])
        towards[n, y, x] = f[n, 0, :, y, x] - np.mean([f[n, 1 + j, :, y, x] for j in there], axis=0)
        widened[n, y, x] = np.sqrt((1 + 1 / (len(there) - 1)) / (1 + 1 / len(there)))
    cov = np.transpose(rows) @ rows / len(rows)
    cov = 0.95 * cov + (0.05 * np.trace(cov) / 3 + 1e-6 * (f**2).mean()) * np.eye(3)
    inverse = np.linalg.inv(cov)
    expected = np.sqrt(np.einsum("...i,ij,...j", d, inverse, d) / 3)
    np.testing.assert_allclose(left_out, expected, rtol=2e-3, atol=1e-4)
    expected = widened * np.sqrt(np.einsum("...i,ij,...j", towards, inverse, towards) / 3)
    np.testing.assert_allclose(query, expected, rtol=2e-3)


def test_smoothing_in_plane_is_scipys() -> None:
    f = np.random.default_rng(4).normal(size=(2, 3, 7, 9)).astype(np.float32)
    expected = ndimage.gaussian_filter(f, (0, 0, 0.8, 0.8), mode="nearest")
    np.testing.assert_allclose(
        mahalanobis.smoothed_in_plane(torch.from_numpy(f)).numpy(), expected, atol=2e-3
    )


def test_the_fused_map_is_the_root_of_summed_squares() -> None:
    rng = np.random.default_rng(5)
    query, supports = (
        {kind: rng.normal(size=shape).astype(np.float32) for kind in ("darker", "texture")}
        for shape in ((2, 9, 9), (3, 2, 9, 9))
    )
    weights = {"darker": 1.0, "texture": 0.5}
    scales = {kind: scale_of(one, weights[kind]) for kind, one in supports.items()}
    found, parts = fuse(query, scales)
    squares = np.zeros((2, 9, 9))
    for kind, one in supports.items():
        peak = np.mean([robust_maximum(z) for z in one])
        squares += (4 * weights[kind] * np.maximum(query[kind], 0) / peak) ** 2
    np.testing.assert_allclose(found, np.sqrt(squares), rtol=1e-4)
    np.testing.assert_allclose(sum(p**2 for p in parts.values()), squares, rtol=1e-4)
    alone = fuse({"darker": supports["darker"]}, scales)[0]
    assert np.mean([robust_maximum(s) for s in alone]) == pytest.approx(fusion.UNIT, rel=1e-4)


def test_the_strongest_kinds_are_named_first() -> None:
    assert named({"brighter": 0.0, "darker": 5.0, "noisier": 1.0, "texture": 6.0}) == ("texture", "darker")
    assert named({"brighter": 0.0, "texture": 0.0}) == ()


def test_the_rim_counts_less() -> None:
    depths = np.array([[[[0.0, 2.0, 9.0]]], [[[9.0, 9.0, 9.0]]]], np.float32)
    np.testing.assert_allclose(rim(depths, (1.0, 2.0, 2.0))[0, 0], [0.2, 2 / 3.6, 1.0], rtol=1e-5)


def test_metadata_that_cannot_be_meant_is_refused() -> None:
    assert VolumeEvidence.of(None) is None
    assert VolumeEvidence.of({"appearance": 0}) == VolumeEvidence(1.0, 0.0)
    for wrong in ({"mahalanobis": 0, "appearance": 0}, {"appearance": -1}):
        with pytest.raises(ValueError, match="volumes"):
            VolumeEvidence.of(wrong)


def with_evidence(model: Path, folder: Path, volumes: dict | None) -> str:
    """A copy of a model's bundle with its metadata's "volumes" changed."""
    made = Path(shutil.copytree(model, folder, symlinks=True))
    path = made / "configs" / "metadata.json"
    about = json.loads(path.read_text(encoding="utf-8"))
    about["d24fad"].pop("volumes", None)
    if volumes is not None:
        about["d24fad"]["volumes"] = volumes
    path.write_text(json.dumps(about), encoding="utf-8")
    return str(made)


@pytest.fixture(scope="module")
def fused(simulated, options, tmp_path_factory: pytest.TempPathFactory):
    """A detection with aligned references and all evidence, not to be changed: of the simulated study, and of
    it with its lesion as much too dark as it is too bright."""
    model = with_evidence(Path(options().model), tmp_path_factory.mktemp("fused") / "m", {})
    asked = options(plane=Plane.AXIAL, model=model, align=Alignment.AFFINE)
    array = np.asarray(simulated.query.array(), np.float32)
    lesion = np.asarray(simulated.truth.array()) > 0
    dark = simulated.query.with_array(np.where(lesion, 0.1 * array, array), "dark.nrrd")
    return {
        "brighter": detect(simulated.query, simulated.supports, asked),
        "darker": detect(dark, simulated.supports, asked),
    }


@pytest.mark.parametrize("word", ["brighter", "darker"])
def test_a_lesion_is_found_and_named(simulated, fused, word: str) -> None:
    found = fused[word]
    assert found.kinds == fusion.KINDS
    lesion = np.asarray(simulated.truth.array()) > 0
    top = found.labels == 1
    assert (top & lesion).sum() > 0.5 * lesion.sum()
    first = found.findings[0]
    assert word in first.departs_by
    heights = dict(zip(found.kinds, first.departures, strict=True))
    opposite = {"brighter": "darker", "darker": "brighter"}[word]
    assert heights[word] > 2 * heights[opposite]
    # The peak lies between positions of the grid, the kinds' heights on one.
    assert np.sqrt(sum(h**2 for h in heights.values())) == pytest.approx(first.peak, rel=0.25)
    assert found.p_value is not None
    assert found.record["map_kinds"] == list(fusion.KINDS)
    assert 0 < found.record["map_heights"]["5 %"] < found.record["map_heights"]["1 %"] < first.peak


def test_what_it_departs_by_is_written(fused, tmp_path: Path) -> None:
    write_outputs(fused["brighter"], tmp_path / "out")
    with open(tmp_path / "out" / "findings.csv", newline="", encoding="utf-8") as file:
        row = next(csv.DictReader(file))
    first = fused["brighter"].findings[0]
    assert row["departs_by"].split() == list(first.departs_by)
    written = [float(row[kind]) for kind in fusion.KINDS]
    np.testing.assert_allclose(written, first.departures, atol=6e-3)
    kept = json.loads((tmp_path / "out" / "run.json").read_text(encoding="utf-8"))
    assert kept["findings"][0]["departs_by"] == list(first.departs_by)


def test_kept_references_give_the_same(
    simulated, options, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without alignment all grids are one: float16 and the direction of matching tell the two ways apart."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    model = with_evidence(Path(options().model), tmp_path / "m", {})
    asked = options(plane=Plane.AXIAL, model=model)
    maps = [
        detect(simulated.query, simulated.supports, asked, reference_cache=kept) for kept in (False, True)
    ]
    assert maps[1].kinds == fusion.KINDS
    one, other = (d.anomaly_map.array().ravel() for d in maps)
    assert np.corrcoef(one, other)[0, 1] > 0.9
    # The same weights compared by other evidence need a set of their own.
    model = with_evidence(Path(options().model), tmp_path / "texture", {"appearance": 0})
    texture = detect(simulated.query, simulated.supports, replace(asked, model=model), reference_cache=True)
    assert texture.kinds == (fusion.TEXTURE,)
    assert len(list(references_folder().iterdir())) == 2


def test_large_references_kept_in_half_precision_give_the_same(
    simulated, options, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = options(plane=Plane.AXIAL, model=with_evidence(Path(options().model), tmp_path / "m", {}))
    usual_map = detect(simulated.query, simulated.supports, asked).anomaly_map.array()
    monkeypatch.setattr(preparation, "_LARGE", 0)
    halved = detect(simulated.query, simulated.supports, asked).anomaly_map.array()
    assert not np.array_equal(halved, usual_map)
    np.testing.assert_allclose(halved, usual_map, atol=0.1)


def test_each_evidence_can_be_chosen(simulated, options, tmp_path: Path) -> None:
    maps = []
    for number, volumes in enumerate((None, {"appearance": 0}, {"mahalanobis": 0}, {})):
        model = with_evidence(Path(options().model), tmp_path / str(number), volumes)
        found = detect(simulated.query, simulated.supports[:2], options(plane=Plane.AXIAL, model=model))
        assert len(found.kinds) == (0, 1, 4, 5)[number]
        assert all(bool(f.departs_by) == bool(number) for f in found.findings)
        maps.append(found.anomaly_map.array())
    assert all(not np.allclose(maps[-1], other, atol=0.1) for other in maps[:-1])
    single = detect(simulated.query, simulated.supports[:1], options(model=str(tmp_path / "3")))
    assert single.kinds == ()
    assert not single.calibrated


def test_masks_are_read_at_the_features_positions_of_the_box() -> None:
    mask = np.random.default_rng(3).random((9, 20, 31)) > 0.5
    box, grid = (slice(2, 7), slice(3, 20), slice(4, 30)), (5, 6)
    inside = mask[box]
    rows, cols = (
        (np.arange(n) * (side - 1) / (n - 1)).round().astype(int)
        for n, side in zip(grid, (17, 26), strict=True)
    )
    expected = inside[:, rows[:, None], cols]
    for one in (mask, PackedMask.of(mask)):
        np.testing.assert_array_equal(on_grid(one, box, grid), expected)
