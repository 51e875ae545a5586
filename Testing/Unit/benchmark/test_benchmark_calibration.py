"""What a calibration is fitted to, and the fit, on made-up scores."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from D24FADLib.benchmark.calibration_fit import Scores, _score_prior, tails
from D24FADLib.inference.predictive import ScorePrior, standardised
from D24FADLib.inference.study_score import PICTURE


def organ(seed: int, spread: float, draws: int = 300, shots: int = 4) -> Scores:
    """Pictures' departures are normal; a pair's log distance averages those of two, as `predictive` has it.
    The supports' own scores tell the spread badly."""
    rng = np.random.default_rng(seed)
    own = rng.normal(0, spread, (draws, shots))
    first, second = np.triu_indices(shots, 1)
    noise = rng.normal(0, spread / 10, (draws, len(first)))
    return Scores(
        rng.normal(0, spread, (draws, 12)),
        own * rng.choice([0.2, 1.5], (draws, 1)),
        (own[:, first] + own[:, second]) / 2 + noise,
    )


def test_tails_are_the_detectors_statistic() -> None:
    scores, prior = organ(1, 0.2, draws=3), ScorePrior(0.1, 0.05, 1.3, 4.0, 0.6)
    for d, row in enumerate(tails(scores, prior)):
        expected = [
            standardised(x, scores.support[d].tolist(), prior, scores.pairs[d].tolist())
            for x in scores.query[d]
        ]
        assert row == pytest.approx(expected)


def test_the_fit_keeps_its_rates_on_another_organ_and_uses_pairs_where_they_tell_more() -> None:
    prior = _score_prior([organ(n, spread) for n, spread in enumerate((0.1, 0.15, 0.2, 0.3))], PICTURE)
    assert prior.pairs > 0
    high = stats.t.sf(tails(organ(9, 0.25, draws=2000), prior), prior.freedom)
    assert 0.033 < (high < 0.05).mean() < 0.075
