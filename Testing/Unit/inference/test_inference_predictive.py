"""Predictive distributions and priors, against their formulas and on made-up scores."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from scipy import stats
from scipy.special import ndtri

from D24FADLib.errors import ModelError
from D24FADLib.inference.calibration import LEVELS, calibrate, own_knots, to_normal
from D24FADLib.inference.predictive import ScorePrior, outlyingness, standardised, unusual
from D24FADLib.inference.priors import CALIBRATION, Priors, Resemblance, read_priors, write_priors

WEIGHTS = {"models/teacher.safetensors": "1", "models/model.safetensors": "2"}
METADATA = {"d24fad": {"sha256": WEIGHTS, "evidence": {"student": 1.0}, "input_size": 64}}


def test_one_reference_says_nothing() -> None:
    assert unusual(1.0, [0.5], ScorePrior()) is None
    assert outlyingness([0.5, 0.6], ScorePrior()) is None


@pytest.mark.parametrize("count", [2, 4, 8])
def test_without_a_prior_normals_exceed_their_rates_as_students_t_says(count: int) -> None:
    """The exact case: independent normal scores, no prior spread, K - 1 degrees of freedom."""
    rng = np.random.default_rng(count)
    scores = rng.normal(3.0, 0.7, (20000, count + 1))
    # (K - 1) s^2 / K is this formula's variance, and K / (K - 1) of it is Student's.
    prior = ScorePrior(spread=0.0, widening=float(np.sqrt(count / (count - 1))), freedom=count - 1)
    p = np.array([unusual(row[0], row[1:], prior).high for row in scores[:6000]])
    for level in (0.05, 0.2, 0.5):
        assert (p < level).mean() == pytest.approx(level, abs=3 * np.sqrt(level / 6000))


def test_p_falls_as_the_score_rises_and_both_tails_add_up() -> None:
    found = [unusual(x, [1.0, 1.2, 0.9, 1.1], ScorePrior()) for x in np.linspace(0, 3, 30)]
    high = [u.high for u in found]
    assert high == sorted(high, reverse=True)
    assert all(u.high + u.low == pytest.approx(1) for u in found)
    assert found[0].low < 0.05 < found[0].high


def test_equal_references_do_not_divide_by_zero() -> None:
    u = unusual(1.5, [1.0, 1.0, 1.0], ScorePrior(spread=0.0))
    assert np.isfinite(u.t)
    assert 0 <= u.high < 0.01


def test_the_statistic_is_the_written_formula() -> None:
    x, prior = [1.0, 1.4, 0.7], ScorePrior(0.1, 0.2, 1.5, 4.0)
    v = (0.2**2 + 2 * np.var(x, ddof=1)) / 3
    expected = (2.0 - np.mean(x) - 0.1) / (1.5 * np.sqrt(v * (1 + 1 / 3)))
    assert standardised(2.0, x, prior) == pytest.approx(expected)
    assert unusual(2.0, x, prior).high == pytest.approx(stats.t.sf(expected, 4.0))


def test_who_stands_out_has_the_largest_t() -> None:
    t = outlyingness([0.1, 0.0, 2.0, -0.1, 0.05], ScorePrior())
    assert int(np.argmax(t)) == 2
    assert t[2] > 5 > max(t[:2])


def test_the_curve_gives_the_knots_their_quantiles_and_keeps_the_order() -> None:
    rng = np.random.default_rng(0)
    z = (rng.standard_t(3, 200_000) * 0.7 + 0.3).astype(np.float32)
    even = to_normal(z, own_knots(z))
    for level in LEVELS:
        assert (even > ndtri(level)).mean() == pytest.approx(1 - level, rel=0.1)
    order = np.argsort(z)
    assert (np.diff(even[order]) >= 0).all()


def test_a_calibrated_map_keeps_its_rates_on_further_normals() -> None:
    """Heavy-tailed residuals: 5 % and 1 % of a further normal's positions lie above 1.64 and 2.33."""
    rng = np.random.default_rng(3)

    def study() -> np.ndarray:
        return (0.2 * np.exp(0.3 * rng.standard_t(4, (6, 40, 40)))).astype(np.float32)

    depth = np.full((6, 40, 40), np.inf, np.float32)
    over = []
    for _ in range(6):
        calibration = calibrate(np.stack([study() for _ in range(4)]), (1.0, 4.0, 4.0))
        z = calibration.scores(study(), depth)
        over.append([(z > 1.645).mean(), (z > 2.326).mean()])
    five, one = np.mean(over, axis=0)
    assert 0.05 / 1.5 < five < 0.05 * 1.5
    assert 0.01 / 1.5 < one < 0.01 * 1.5


def some_priors() -> Priors:
    prior = ScorePrior(0.1, 0.2, 1.3, 4.0)
    return Priors(
        scores={"picture": {2: prior, 4: dataclasses.replace(prior, freedom=8.0)}},
        knots={2: tuple(np.arange(8.0)), 4: tuple(np.arange(8.0) + 1)},
        findings=0.8,
        outlier={"map": prior},
        outlier_limit=2.5,
        resemblance=Resemblance(np.arange(6.0), (1, 2, 3), 0.7, 0.2),
        about={"tasks": ["a"]},
    )


def test_priors_are_read_as_written(tmp_path: Path) -> None:
    (tmp_path / "configs").mkdir()
    priors = some_priors()
    write_priors(tmp_path, priors, METADATA)
    read, note = read_priors(tmp_path, METADATA)
    assert note == ""
    assert read.scores == priors.scores
    assert read.knots == priors.knots
    assert (read.findings, read.outlier, read.outlier_limit) == (0.8, priors.outlier, 2.5)
    np.testing.assert_allclose(read.resemblance.centre, priors.resemblance.centre)
    assert read.resemblance.splits == (1, 2, 3)
    assert [p.name for p in (tmp_path / "configs").iterdir()] == ["calibration.json"]


def test_priors_between_and_beyond_the_known_numbers_of_references() -> None:
    priors = some_priors()
    assert priors.score("picture", 4).freedom == 8.0
    assert priors.score("picture", 16).freedom == 8.0
    assert 4.0 < priors.score("picture", 3).freedom < 8.0
    assert priors.score("volume", 3) == ScorePrior()
    assert priors.knots_for(3)[0] == pytest.approx(2 / 3)


def test_the_calibration_of_another_model_is_not_used(tmp_path: Path) -> None:
    (tmp_path / "configs").mkdir()
    assert "no calibration" in read_priors(tmp_path, METADATA)[1]
    write_priors(tmp_path, some_priors(), METADATA)
    other = {"d24fad": {**METADATA["d24fad"], "evidence": {"student": 0.5}}}
    priors, note = read_priors(tmp_path, other)
    assert "another version" in note
    assert priors.knots_for(4) is None
    assert priors.scores == {}
    assert priors.resemblance.limit == 0.7  # of the teacher alone
    weights = {**WEIGHTS, "models/teacher.safetensors": "other"}
    assert read_priors(tmp_path, {"d24fad": {**METADATA["d24fad"], "sha256": weights}})[0].resemblance is None


@pytest.mark.parametrize("text", ["", "{", "[]", '{"format": 1}', '{"format": 1, "model": 3}'])
def test_a_damaged_calibration_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "configs").mkdir()
    (tmp_path / CALIBRATION).write_text(text)
    with pytest.raises(ModelError, match=r"calibration\.json cannot be used"):
        read_priors(tmp_path, METADATA)


def test_damaged_values_are_named(tmp_path: Path) -> None:
    (tmp_path / "configs").mkdir()
    path = write_priors(tmp_path, some_priors(), METADATA)
    kept = json.loads(path.read_text())
    kept["knots"]["2"] = ["x"]
    path.write_text(json.dumps(kept))
    with pytest.raises(ModelError, match=r"calibration\.json cannot be used"):
        read_priors(tmp_path, METADATA)
