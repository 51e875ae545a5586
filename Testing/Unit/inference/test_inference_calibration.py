"""Calibration on made-up residual fields whose distribution is known."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from D24FADLib.inference.calibration import (
    calibrate,
    depth_below_surface,
    depth_class,
    findings_above,
    smooth,
    threshold_for,
)
from D24FADLib.inference.findings import neighbourhood

SHAPE = (10, 40, 40)
PITCH = (3.0, 2.0, 2.0)
SIGMA = (0.5, 1.0, 1.0)


def a_body() -> np.ndarray:
    rows, cols = np.mgrid[: SHAPE[1], : SHAPE[2]]
    disc = (rows - 19.5) ** 2 + (cols - 19.5) ** 2 < 17**2
    return np.broadcast_to(disc, SHAPE).copy()


def residuals(rng: np.random.Generator, spread: float = 0.3) -> np.ndarray:
    """Log-normal, three times as large in one half, of spatially smooth noise."""
    noise = ndimage.gaussian_filter(rng.standard_normal(SHAPE), 1.0)
    level = np.where(np.arange(SHAPE[2]) < 20, 0.1, 0.3)
    return (level * np.exp(spread * noise / noise.std())).astype(np.float32)


def normals(count: int, seed: int = 0) -> np.ndarray:
    body = a_body()
    rng = np.random.default_rng(seed)
    return np.stack([np.where(body, residuals(rng), np.nan) for _ in range(count)]).astype(np.float32)


def depth() -> np.ndarray:
    return depth_below_surface(a_body(), PITCH)


@pytest.mark.parametrize("count", [4, 8])
def test_a_further_normal_scores_as_the_supports_do(count: int) -> None:
    """Their mean is a little below 0: the expected residual is a mean, above a log-normal's median."""
    body = a_body()
    further, own = [], []
    for seed in range(4):
        calibration = calibrate(normals(count, seed), PITCH)
        further.append(calibration.scores(residuals(np.random.default_rng(100 + seed)), depth())[body])
        own.append(calibration.support_scores[:, body])
    assert abs(np.mean(further)) < 0.5
    assert np.mean(further) == pytest.approx(np.mean(own), abs=0.1)
    assert np.std(further) == pytest.approx(np.std(own), rel=0.12)
    assert 0.85 < np.std(further) < 1.15


def test_uniform_normals_give_mean_0_and_deviation_1() -> None:
    body = a_body()
    rng = np.random.default_rng(5)

    def draw() -> np.ndarray:
        noise = ndimage.gaussian_filter(rng.standard_normal(SHAPE), 1.0)
        return (0.2 * np.exp(0.3 * noise / noise.std())).astype(np.float32)

    supports = np.stack([np.where(body, draw(), np.nan) for _ in range(6)]).astype(np.float32)
    calibration = calibrate(supports, PITCH)
    z = np.concatenate([calibration.scores(draw(), depth())[body] for _ in range(4)])
    # The expected residual is a mean, above the median of a log-normal by half the variance: -0.15 here.
    assert -0.3 < z.mean() < 0.1
    assert 0.9 < z.std() < 1.1
    own = calibration.support_scores[:, body]
    assert 0.9 < np.sqrt((own**2).mean()) < 1.1
    assert (calibration.support_scores[:, ~body] == 0).all()


def test_a_raised_blob_stands_out_in_both_halves() -> None:
    calibration = calibrate(normals(4), PITCH)
    for col in (8, 32):
        query = residuals(np.random.default_rng(50))
        blob = np.zeros(SHAPE, bool)
        blob[4:7, 18:23, col - 2 : col + 3] = True
        plain = calibration.scores(query, depth())
        raised = calibration.scores(np.where(blob, query * 4, query), depth())
        assert raised[blob].mean() > plain[blob].mean() + 2.0
        assert raised[blob].mean() > np.percentile(plain[a_body()], 99)
        np.testing.assert_array_equal(raised[~blob], plain[~blob])


def test_two_supports_suffice() -> None:
    calibration = calibrate(normals(2), PITCH)
    assert np.isfinite(calibration.by_depth).all()
    assert (calibration.spread > 0).all()
    z = calibration.scores(residuals(np.random.default_rng(9)), depth())[a_body()]
    assert np.isfinite(z).all()
    assert abs(z.mean()) < 0.7
    assert 0.4 < z.std() < 1.6


def test_identical_supports_do_not_divide_by_zero() -> None:
    body = a_body()
    flat = np.where(body, np.float32(0.2), np.nan).astype(np.float32)
    calibration = calibrate(np.stack([flat] * 3), PITCH)
    with np.errstate(all="raise"):
        z = calibration.scores(np.full(SHAPE, 0.2, np.float32), depth())
        higher = calibration.scores(np.full(SHAPE, 0.4, np.float32), depth())
    np.testing.assert_allclose(z[body], 0.0, atol=0.1)
    assert np.isfinite(higher).all()
    assert higher[body].min() > 3.0


def test_zero_residuals_are_finite() -> None:
    body = a_body()
    zero = np.where(body, np.float32(0.0), np.nan).astype(np.float32)
    calibration = calibrate(np.stack([zero] * 2), PITCH)
    assert np.isfinite(calibration.support_scores).all()
    assert np.isfinite(calibration.scores(np.zeros(SHAPE, np.float32), depth())).all()


def test_supports_of_different_extent_and_places_no_support_knows() -> None:
    supports = normals(3)
    supports[0, :4] = np.nan  # reaches only the upper slices
    supports[:, :, 16:24, 16:24] = np.nan  # a hole in all of them
    calibration = calibrate(supports, PITCH)
    assert np.isfinite(calibration.support_scores).all()
    assert (calibration.support_scores[0, :4] == 0).all()
    assert np.isfinite(calibration.scores(residuals(np.random.default_rng(3)), depth())).all()


def test_a_support_that_knows_nothing_is_survived() -> None:
    supports = normals(3)
    supports[1] = np.nan
    calibration = calibrate(supports, PITCH)
    z = calibration.scores(residuals(np.random.default_rng(3)), depth())
    assert np.isfinite(z).all()
    assert (calibration.support_scores[1] == 0).all()


def test_a_noisy_support_is_judged_by_the_others() -> None:
    supports = normals(4)
    supports[2] *= 3.0
    scores = calibrate(supports, PITCH).support_scores[:, a_body()].mean(axis=1)
    assert int(np.argmax(scores)) == 2
    assert scores[2] > np.delete(scores, 2).max() + 1.0


def test_depth_below_surface_is_in_mm() -> None:
    body = np.zeros((5, 11, 11), bool)
    body[:, 1:10, 1:10] = True
    inside = depth_below_surface(body, (4.0, 2.0, 3.0))
    assert inside[2, 5, 5] == pytest.approx(10.0)  # 5 rows of 2 mm to the edge; 5 columns are 15 mm
    assert inside[2, 1, 5] == pytest.approx(2.0)
    assert inside[2, 5, 1] == pytest.approx(3.0)
    assert (inside[~body] == 0).all()
    assert np.isinf(depth_below_surface(np.ones((3, 4, 5), bool), PITCH)).all()
    one = depth_below_surface(body[:1], (4.0, 2.0, 3.0))
    assert one[0, 5, 5] == pytest.approx(10.0)


def test_depth_classes_rise_with_depth() -> None:
    depths = np.array([0.0, 0.5, 4.0, 8.0, 12.0, 40.0, np.inf], np.float32)
    classes = depth_class(depths)
    assert classes.min() == 0
    assert (np.diff(classes) >= 0).all()
    assert classes[-1] == classes[-2] > classes[0]


def test_smoothing_keeps_a_constant_and_the_mean() -> None:
    np.testing.assert_allclose(smooth(np.full(SHAPE, 0.3, np.float32), SIGMA), 0.3, rtol=1e-5)
    spike = np.zeros(SHAPE, np.float32)
    spike[5, 20, 20] = 1.0
    smoothed = smooth(spike, SIGMA)
    assert smoothed.sum() == pytest.approx(1.0, abs=1e-3)
    assert smoothed.dtype == np.float32


def blobs(peaks: list[float]) -> np.ndarray:
    """One map with separate cubes of 27 positions of these heights."""
    scores = np.zeros(SHAPE, np.float32)
    for number, peak in enumerate(peaks):
        col = 2 + 6 * number
        scores[3:6, 10:13, col : col + 3] = peak
    return scores


def findings_at(maps: np.ndarray, threshold: float, min_size: int) -> float:
    total = 0
    for scores in maps:
        labels, _ = ndimage.label(scores > threshold, neighbourhood(SHAPE))
        total += int((np.bincount(labels.ravel())[1:] >= min_size).sum())
    return total / len(maps)


@pytest.mark.parametrize("budget", [0.5, 1.0, 2.0])
def test_the_threshold_keeps_the_budget_and_is_not_higher_than_needed(budget: float) -> None:
    maps = np.stack([blobs([3.0, 4.0, 5.0]), blobs([6.0, 7.0, 2.5])])
    threshold = threshold_for(maps, budget, 2, neighbourhood(SHAPE))
    assert findings_at(maps, threshold, 2) <= budget
    assert findings_at(maps, threshold - 1.3, 2) > budget


def test_a_higher_budget_never_raises_the_threshold() -> None:
    maps = np.stack([blobs([3.0, 4.0, 5.0]), blobs([6.0, 7.0, 2.5])])
    thresholds = [threshold_for(maps, b, 2, neighbourhood(SHAPE)) for b in (0.1, 0.5, 1.0, 2.0, 5.0)]
    assert thresholds == sorted(thresholds, reverse=True)
    assert min(thresholds) >= 2.0


def test_specks_do_not_count_against_the_budget() -> None:
    maps = np.zeros((2, *SHAPE), np.float32)
    maps[:, 2, 5, 5] = 9.0
    assert threshold_for(maps, 0.5, 2, neighbourhood(SHAPE)) == pytest.approx(2.0)
    assert threshold_for(maps, 0.5, 1, neighbourhood(SHAPE)) > 8.0


@pytest.mark.parametrize("shape", [(9, 12, 11), (1, 30, 30)])
def test_findings_are_counted_as_in_the_whole_map(shape: tuple[int, int, int]) -> None:
    """Leaving out empty sections neither joins nor parts what touches."""
    maps = np.random.default_rng(8).normal(size=(2, *shape)).astype(np.float32)
    for threshold in (1.0, 1.5, 2.0):
        for size in (1, 2):
            expected = 0
            for one in maps:
                labels, _ = ndimage.label(one > threshold, neighbourhood(shape))
                expected += int((np.bincount(labels.ravel())[1:] >= size).sum())
            assert findings_above(maps, threshold, size, neighbourhood(shape)) == expected / 2
