from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import given, settings
from hypothesis import strategies as st

from D24FADLib.imaging.intensity import (
    CT_WINDOWS,
    choose_ct_window,
    foreground_mask,
    guess_modality,
    match_histogram,
    prepare,
)
from D24FADLib.imaging.planes import to_canonical
from D24FADLib.imaging.reading import read_volume
from D24FADLib.imaging.volume import Volume, VolumeInfo


def head(noise: float = 2.0, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """An MR-like phantom (z, y, x): values, body and a dark ventricle inside it."""
    z, y, x = np.indices((40, 64, 56), dtype=float)
    radius = np.sqrt(((z - 20) / 17) ** 2 + ((y - 32) / 28) ** 2 + ((x - 28) / 24) ** 2)
    body = radius < 1
    ventricle = radius < 0.3
    rng = np.random.default_rng(seed)
    tissue = 60 + 40 * (np.sin(x / 3) * np.cos(y / 4) > 0) + 20 * (np.sin(z / 2) > 0.5)
    values = np.where(body, tissue, 0.0)
    values[ventricle] = 6
    values += np.abs(rng.normal(0, noise, values.shape))
    return values.astype(np.float32), body, ventricle


def as_image(values: np.ndarray, spacing: tuple[float, float, float] = (3.0, 3.0, 3.0)) -> sitk.Image:
    image = sitk.GetImageFromArray(values)
    image.SetSpacing(spacing)
    return image


def chest() -> tuple[np.ndarray, np.ndarray]:
    """A CT-like phantom in Hounsfield units: two lungs in a body, over a thin table; and the body."""
    _, y, x = np.indices((20, 64, 64), dtype=float)
    body = ((y - 30) / 22) ** 2 + ((x - 32) / 28) ** 2 < 1
    lungs = ((y - 30) / 12) ** 2 + ((np.abs(x - 32) - 13) / 8) ** 2 < 1
    values = np.full(body.shape, -1000.0)
    values[body] = 40
    values[lungs] = -820
    values[:, 58:59, 6:58] = 200  # the table
    return values + np.random.default_rng(0).normal(0, 10, values.shape), body


@pytest.mark.parametrize("background", ["zero", "noisy", "raised"])
def test_the_mask_is_the_body_with_its_dark_inside(background: str) -> None:
    values, body, ventricle = head(noise=0.0 if background == "zero" else 4.0)
    if background == "raised":
        values += 300
    mask = foreground_mask(as_image(values))
    assert (mask & body).sum() / body.sum() > 0.97
    assert (mask & ~body).sum() / body.sum() < 0.12
    assert mask[ventricle].all()


@pytest.mark.parametrize("air", [-1000.0, -1024.0])
def test_the_mask_of_a_ct_holds_the_lungs_and_not_the_table(air: float) -> None:
    values, body = chest()
    values[values < -950] += air + 1000
    mask = foreground_mask(as_image(values), "CT")
    assert (mask & body).sum() / body.sum() > 0.98
    assert mask[:, 58, 10:54].mean() < 0.1


def test_a_picture_without_background_is_foreground_everywhere() -> None:
    rng = np.random.default_rng(0)
    tile = as_image(rng.integers(0, 255, (1, 128, 128)).astype(np.uint8), (1, 1, 1))
    assert foreground_mask(tile).all()
    assert foreground_mask(as_image(np.full((4, 8, 8), 3.0))).all()


def test_a_picture_with_background_loses_only_that() -> None:
    y, x = np.indices((200, 200))
    disc = (y - 100) ** 2 + (x - 100) ** 2 < 70**2
    picture = np.where(disc, 120 + 40 * np.sin(x / 9), 2).astype(np.uint8)
    mask = foreground_mask(as_image(picture[None], (1, 1, 1)))[0]
    assert (mask & disc).sum() / disc.sum() > 0.97
    assert (mask & ~disc).sum() / disc.sum() < 0.05


@given(scale=st.floats(1e-3, 1e4), shift=st.floats(-1e5, 1e5))
@settings(max_examples=8, deadline=None)
def test_scaling_and_shifting_changes_nothing_but_ct(scale: float, shift: float) -> None:
    values = head()[0].astype(np.float64)
    expected = prepare(as_image(values), "MR")
    changed = prepare(as_image(values * scale + shift), "MR")
    assert np.abs(changed - expected).max() < 1e-3


def test_brighter_than_all_tissue_still_stands_out() -> None:
    values, _, _ = head()
    lesion = values.copy()
    lesion[18:20, 20:24, 20:24] = 220
    more = values.copy()
    more[18:20, 20:24, 20:24] = 260
    first, second = prepare(as_image(lesion), "MR"), prepare(as_image(more), "MR")
    assert first[19, 22, 22] > 0.95
    assert second[19, 22, 22] > first[19, 22, 22]  # no clipping
    assert 0 <= first.min() <= first.max() <= 1
    assert first.dtype == np.float32


@pytest.mark.parametrize("window", list(CT_WINDOWS))
def test_ct_windows(window: str) -> None:
    level, width = CT_WINDOWS[window]
    edges = [level - width, level - width / 2, level, level + width / 2, level + width]
    image = as_image(np.tile(np.array(edges, np.float32), (5, 5, 1)))
    np.testing.assert_allclose(prepare(image, "CT", window=window)[0, 0], [0, 0, 0.5, 1, 1], atol=1e-6)


def test_the_automatic_ct_window() -> None:
    values, _ = chest()
    image = as_image(values)
    mask = foreground_mask(image, "CT")
    assert choose_ct_window(image, mask) == "lung"
    assert choose_ct_window(image, mask, "HEAD") == "brain"
    assert choose_ct_window(image, mask, "ABDOMEN") == "soft"
    soft = as_image(np.where(values < -500, np.where(values < -950, values, 40), values))
    assert choose_ct_window(soft, foreground_mask(soft, "CT")) == "soft"
    with pytest.raises(ValueError, match="no CT window 'liver'"):
        prepare(image, "CT", window="liver")


def test_pictures_are_divided_by_255() -> None:
    rng = np.random.default_rng(0)
    colour = rng.integers(0, 255, (1, 20, 20, 3)).astype(np.uint8)
    np.testing.assert_allclose(
        prepare(sitk.GetImageFromArray(colour, isVector=True), ""), colour / 255, atol=1e-6
    )
    np.testing.assert_allclose(
        prepare(sitk.GetImageFromArray(colour[..., 0]), "US"), colour[..., 0] / 255, atol=1e-6
    )


def test_guess_modality() -> None:
    assert guess_modality(Volume(as_image(chest()[0]), "a")) == "CT"
    assert guess_modality(Volume(as_image(head()[0]), "a")) == ""
    assert guess_modality(Volume(as_image(head()[0] - 60), "a")) == ""
    assert guess_modality(Volume(as_image(chest()[0]), "a", VolumeInfo(modality="MR"))) == "MR"


def prepared(seed: int, gain: float = 1.0, gamma: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    values, body, _ = head(seed=seed)
    return prepare(as_image((values * gain) ** gamma), "MR", body), body


def test_matching_brings_tissue_together() -> None:
    fixed, body = prepared(0)
    moving, _ = prepared(1, gamma=1.8)
    before = np.abs(moving - fixed)[body].mean()
    after = np.abs(match_histogram(moving, body, fixed, body) - fixed)[body].mean()
    assert before > 0.05
    assert after < before / 3


@pytest.mark.parametrize("fraction", [0.01, 0.03])
def test_a_bright_lesion_is_not_matched_away(fraction: float) -> None:
    values, body, _ = head(seed=0)
    edge = round((body.sum() * fraction) ** (1 / 3))
    lesion = np.zeros_like(body)
    lesion[12 : 12 + edge, 22 : 22 + edge, 30 : 30 + edge] = True
    ill = np.where(lesion, 170.0, values)
    fixed_ill = prepare(as_image(ill), "MR", body)
    fixed_well = prepare(as_image(values), "MR", body)
    moving, _ = prepared(1, gamma=1.4)
    matched = match_histogram(moving, body, fixed_ill, body)
    well = body & ~lesion
    # Healthy tissue agrees as well as it would with a healthy query ...
    healthy = np.abs(match_histogram(moving, body, fixed_well, body) - fixed_well)[well].mean()
    assert np.abs(matched - fixed_ill)[well].mean() < healthy + 0.02
    # ... and the lesion keeps its full contrast against what the support shows there.
    contrast = (fixed_ill - matched)[lesion].mean()
    assert contrast > 0.9 * (fixed_ill[lesion].mean() - fixed_ill[well].mean())


@given(seed=st.integers(0, 5), gain=st.floats(0.3, 3), offset=st.floats(0, 0.3), quantized=st.booleans())
@settings(max_examples=30, deadline=None)
def test_matching_keeps_order_and_background(seed: int, gain: float, offset: float, quantized: bool) -> None:
    rng = np.random.default_rng(seed)
    mask = np.zeros((6, 20, 20), bool)
    mask[:, 4:16, 4:16] = True
    fixed = np.where(mask, rng.uniform(0.2, 0.9, mask.shape), 0).astype(np.float32)
    moving = np.where(mask, np.clip(rng.uniform(0.1, 0.5, mask.shape) * gain + offset, 0, 1), 0)
    if quantized:
        moving = np.round(moving * 8) / 8
    moving = moving.astype(np.float32)
    matched = match_histogram(moving, mask, fixed, mask)
    order = np.argsort(moving, axis=None, kind="stable")
    assert np.diff(matched.reshape(-1)[order]).min() >= 0
    assert np.abs(matched[~mask]).max() < 1e-6
    assert matched.dtype == np.float32
    assert 0 <= matched.min() <= matched.max() <= 1


def test_matching_without_tissue_changes_nothing() -> None:
    moving, body = prepared(0)
    nothing = np.zeros_like(body)
    np.testing.assert_array_equal(match_histogram(moving, nothing, moving, body), moving)
    np.testing.assert_array_equal(match_histogram(moving, body, moving * 0, body), moving)


@pytest.mark.parametrize(
    ("file", "low", "high"),
    [
        ("mni152_t1/mni_icbm152_t1.nii.gz", 0.19, 0.25),  # skull-stripped
        ("ptbp_t1_slabs/sub01_t1slab.nii.gz", 0.25, 0.33),
        ("totalseg_examples/example_ct.nii.gz", 0.55, 0.72),
    ],
)
def test_masks_of_real_bodies(volumes: Path, file: str, low: float, high: float) -> None:
    volume = read_volume(volumes / file)
    canonical = to_canonical(volume.image)
    mask = foreground_mask(canonical, guess_modality(volume))
    assert low < mask.mean() < high
    # Nothing dark inside is lost: the middle of the body is solid.
    z, y, x = (round(float(c)) for c in np.argwhere(mask).mean(axis=0))
    assert mask[z, y - 15 : y + 15, x - 15 : x + 15].all()
