from __future__ import annotations

import numpy as np
import pytest

from D24FADLib.training.synthetic import KINDS, implant


def body(seed: int) -> np.ndarray:
    """A textured disc in air, (3, 96, 80)."""
    from scipy.ndimage import gaussian_filter

    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:96, :80]
    disc = (y - 48) ** 2 + (x - 40) ** 2 < 34**2
    texture = gaussian_filter(rng.standard_normal((96, 80)), 1.5)
    gray = np.clip(0.5 + 0.6 * texture, 0.1, 0.95) * disc
    return np.repeat(gray[None], 3, axis=0).astype(np.float32)


@pytest.mark.parametrize("kind", KINDS)
def test_only_the_blob_changes_and_it_can_be_seen(kind: str) -> None:
    image, other = body(0), body(1)
    before = image.copy()
    for seed in range(20):
        made = implant(image, other, np.random.default_rng(seed), kind)
        assert made.kind == kind
        assert made.image.shape == image.shape
        assert made.image.dtype == np.float32
        assert 0 <= made.image.min() <= made.image.max() <= 1
        change = np.abs(made.image - image).max(axis=0)
        far = (
            np.hypot(*(axis - c for axis, c in zip(np.mgrid[:96, :80], centre(made.mask), strict=True))) > 40
        )
        assert change[far].max(initial=0) == 0
        assert change[made.mask].mean() > 3 * change[~made.mask].mean()
        assert change[made.mask].mean() > 0.015
        share = made.mask.mean()
        assert 0.0005 < share < 0.12
    assert np.array_equal(image, before)


def centre(mask: np.ndarray) -> np.ndarray:
    return np.argwhere(mask).mean(axis=0)


def test_edges_are_soft() -> None:
    image = np.full((1, 96, 96), 0.5, np.float32)
    for seed in range(10):
        made = implant(image, image, np.random.default_rng(seed), "brightness")
        change = np.abs(made.image - image)[0]
        between = (change > 0.1 * change.max()) & (change < 0.9 * change.max())
        assert between.sum() > 4
        steps = np.abs(np.diff(change, axis=1)).max()
        assert steps < 0.9 * change.max()


def test_textures_change_as_their_kind_says() -> None:
    image, other = body(0), body(1)

    def roughness(pixels: np.ndarray, mask: np.ndarray) -> float:
        return float(np.abs(np.diff(pixels[0], axis=1, prepend=0))[mask].mean())

    for kind, rougher in (("blur", False), ("noise", True)):
        for seed in range(10):
            made = implant(image, other, np.random.default_rng(seed), kind)
            inside = made.mask & (image[0] > 0.1)
            assert (roughness(made.image, inside) > roughness(image, inside)) == rougher


def test_foreign_patches_come_from_the_other_image() -> None:
    dark, bright = np.full((3, 64, 64), 0.2, np.float32), np.full((3, 64, 64), 0.9, np.float32)
    made = implant(dark, bright, np.random.default_rng(0), "foreign")
    assert made.image[0][made.mask].mean() > 0.45
    assert implant(dark, dark, np.random.default_rng(0), "foreign").image == pytest.approx(dark)


def test_a_seed_fixes_the_anomaly_and_all_kinds_come() -> None:
    image, other = body(0), body(1)
    one, same = (implant(image, other, np.random.default_rng(5)) for _ in range(2))
    assert np.array_equal(one.image, same.image)
    assert {implant(image, other, np.random.default_rng(s)).kind for s in range(60)} == set(KINDS)


def test_anomalies_lie_in_the_body() -> None:
    image = body(0)
    inside = image[0] > 0.06
    for seed in range(20):
        y, x = centre(implant(image, body(1), np.random.default_rng(seed)).mask).round().astype(int)
        assert inside[max(0, y - 6) : y + 7, max(0, x - 6) : x + 7].any()
