from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage
from sklearn.metrics import auc, average_precision_score, roc_auc_score

from D24FADLib.benchmark.intervals import comparisons, over_draws, over_images
from D24FADLib.benchmark.metrics import aupro, dice, image_metrics, pixel_metrics, sensitivity_at


def test_sensitivity_at_a_specificity_by_hand() -> None:
    labels = np.array([0] * 10 + [1] * 4)
    scores = np.array([*range(10), 20, 9.5, 8.5, 3], float)
    # One of ten normals (9) may be passed: the threshold may sink to just above 8.
    assert sensitivity_at(labels, scores, 0.9) == pytest.approx(3 / 4)
    assert sensitivity_at(labels, scores, 1.0) == pytest.approx(2 / 4)


def test_constant_scores_find_nothing() -> None:
    metrics = image_metrics(np.array([0, 0, 1, 1, 1]), np.zeros(5))
    assert metrics["auroc"] == 0.5
    assert metrics["sensitivity_at_90"] == 0.0
    assert metrics["auprc"] == pytest.approx(0.6)  # the share of abnormals


def test_pixel_metrics_agree_with_scikit_learn() -> None:
    rng = np.random.default_rng(0)
    masks = rng.random((4, 12, 12)) > 0.9
    maps = rng.random(masks.shape) + 0.3 * masks
    found = pixel_metrics(masks, maps, 0.9)
    assert found["pixel_auroc"] == pytest.approx(roc_auc_score(masks.ravel(), maps.ravel()))
    assert found["pixel_ap"] == pytest.approx(average_precision_score(masks.ravel(), maps.ravel()))
    by_hand = max(dice(masks, maps >= t) for t in np.unique(maps))
    assert found["dice_oracle"] == pytest.approx(by_hand)
    assert found["dice"] == pytest.approx(dice(masks, maps > 0.9))
    assert found["dice"] < found["dice_oracle"]


def slow_aupro(masks: np.ndarray, maps: np.ndarray, limit: float) -> float:
    """By the definition: at every threshold the mean overlap of the regions, and the false-positive rate."""
    points = [(0.0, 0.0)]
    for threshold in np.unique(maps)[::-1]:
        found = maps >= threshold
        overlaps = []
        for mask, hit in zip(masks, found, strict=True):
            regions, count = ndimage.label(mask, np.ones((3, 3)))
            overlaps += [hit[regions == i + 1].mean() for i in range(count)]
        points.append((found[~masks].mean(), float(np.mean(overlaps))))
    x, y = map(np.array, zip(*points, strict=True))
    inside = x <= limit
    return auc(np.append(x[inside], limit), np.append(y[inside], np.interp(limit, x, y))) / limit


def test_aupro_is_that_of_the_definition() -> None:
    rng = np.random.default_rng(1)
    masks = np.zeros((3, 16, 16), bool)
    masks[0, 2:4, 2:4] = masks[0, 8:14, 8:14] = masks[1, 5:10, 1:4] = True
    maps = np.round(rng.random(masks.shape) + 0.4 * masks, 2)
    assert aupro(masks, maps) == pytest.approx(slow_aupro(masks, maps, 0.3), abs=1e-9)


def test_aupro_counts_a_small_region_as_much_as_a_large_one() -> None:
    masks = np.zeros((1, 20, 20), bool)
    masks[0, 1, 1] = masks[0, 5:15, 5:15] = True
    only_large = np.where(masks, 1.0, 0.0)
    only_large[0, 1, 1] = 0.0
    assert aupro(masks, masks.astype(float)) == pytest.approx(1.0)
    # Above threshold half of the regions; at 0 everything at once, beyond the limit but for interpolation.
    assert 0.5 < aupro(masks, only_large) < 0.6


def test_interval_over_draws_is_students() -> None:
    low, high = over_draws([0.6, 0.7, 0.8, 0.7, 0.7])
    assert (low + high) / 2 == pytest.approx(0.7)
    assert high - low == pytest.approx(2 * 2.776445 * np.std([0.6, 0.7, 0.8, 0.7, 0.7], ddof=1) / 5**0.5)
    assert np.isnan(over_draws([0.7])).all()


def test_bootstrap_covers_the_auroc_and_narrows_with_images() -> None:
    rng = np.random.default_rng(2)

    def interval(count: int) -> tuple[float, float, float]:
        labels = np.repeat([0, 1], count)
        draws = [rng.standard_normal(2 * count) + labels for _ in range(3)]
        mean = float(np.mean([roc_auc_score(labels, d) for d in draws]))
        assert float(np.mean([comparisons(labels, d) for d in draws])) == pytest.approx(mean)
        return (*over_images(labels, draws, seed=0), mean)

    low, high, mean = interval(30)
    assert low < mean < high
    narrow_low, narrow_high, _ = interval(300)
    assert narrow_high - narrow_low < 0.5 * (high - low)


def test_bootstrap_counts_draws_of_one_image_once() -> None:
    rng = np.random.default_rng(3)
    labels = np.repeat([0, 1], 25)
    scores = rng.standard_normal(50) + labels
    assert over_images(labels, [scores], seed=0) == over_images(labels, [scores] * 8, seed=0)
