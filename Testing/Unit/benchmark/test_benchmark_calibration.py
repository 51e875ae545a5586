"""What a calibration is fitted to, and the fit, on made-up scores."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from D24FADLib.benchmark.calibration_fit import _score_prior, tails
from D24FADLib.inference.predictive import ScorePrior, standardised
from D24FADLib.inference.study_score import PICTURE


def organ(seed: int, spread: float, draws: int = 300, shots: int = 4) -> tuple[np.ndarray, np.ndarray]:
    """Scores of queries and supports: normal, the supports' closer together, as they share references."""
    rng = np.random.default_rng(seed)
    return rng.normal(0, spread, (draws, 12)), rng.normal(0.02, 0.7 * spread, (draws, shots))


def test_tails_are_the_detectors_statistic() -> None:
    (query, support), prior = organ(1, 0.2, draws=3), ScorePrior(0.1, 0.05, 1.3, 4.0)
    for asked, own, row in zip(query, support, tails(query, support, prior), strict=True):
        assert row == pytest.approx([standardised(x, own.tolist(), prior) for x in asked])


def test_the_fit_keeps_its_rates_on_an_organ_that_it_has_not_seen() -> None:
    prior = _score_prior([organ(n, spread) for n, spread in enumerate((0.1, 0.15, 0.2, 0.3))], PICTURE)
    high = stats.t.sf(tails(*organ(9, 0.25, draws=2000), prior), prior.freedom)
    for level in (0.05, 0.01):
        assert level / 1.5 < (high < level).mean() < 1.5 * level
