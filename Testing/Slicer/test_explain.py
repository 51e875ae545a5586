"""What numbers are said to mean."""

import pytest


@pytest.mark.parametrize(
    ("about", "value", "says"),
    [
        (
            {"calibrated": True, "budget": 1.0, "threshold": 3.5},
            3.5,
            "Here, a normal study has at most 1",
        ),
        (
            {"calibrated": True, "budget": 0.5, "threshold": 3.5},
            5.0,
            "At 3.50, a normal study has at most 0",
        ),
        ({"calibrated": True, "threshold": 3.5}, 3.5, ""),
        ({"calibrated": False, "threshold": 0.2}, 0.2, "With one reference nothing says"),
        ({"calibrated": True, "budget": 1.0, "threshold": 3.5, "withheld": "no"}, 3.5, ""),
    ],
)
def test_the_threshold_in_words(host, module, about, value, says):
    from D24FADParts import explain

    text = explain.threshold(about, value)
    assert text.startswith(says)
    assert bool(text) == bool(says)


@pytest.mark.parametrize(
    ("unusual", "says"),
    [
        ((0.02, 0.98), "Of normal studies, 2 % would score as high"),
        ((0.0002, 0.9998), "Of normal studies, fewer than 0.1 % would"),
        ((0.996, 0.004), "Unusually bland: of normal studies, 0.4 % would score as low"),
        ((None, None), ""),
    ],
)
def test_the_study_in_words(host, module, unusual, says):
    from D24FADParts import explain

    text = explain.study({"unusual": unusual})
    assert text.startswith(says)
    assert bool(text) == bool(says)
    assert explain.study({"unusual": unusual, "withheld": "no"}) == ""


def test_an_older_detectors_record_is_enough(host, module):
    """What it does not say is left out, not made up."""
    from D24FADParts.runrecord import ReferenceOutcome, RunRecord

    said = RunRecord({"threshold": 3.0, "supports": [{"mean_weight": 0.5}]}, {"plane": "axial"})
    assert said.references() == [ReferenceOutcome(0.5)]
    assert (said.withheld(), said.explanations(), said.unusual()) == ("", [], (None, None))
    assert said.find("plane") == "axial"
    with pytest.raises(KeyError, match="calibrated"):
        said.find("calibrated")


def test_refusals_that_one_goes_on_with_withhold_nothing(host, module):
    from D24FADParts.runrecord import RunRecord

    checks = [{"severity": "refuse", "subject": "query", "message": "No resemblance."}]
    assert RunRecord({}, {"checks": checks}).withheld() == "No resemblance."
    assert RunRecord({}, {"checks": checks, "options": {"unsuitable_anyway": True}}).withheld() == ""


def test_a_finding_says_what_it_rests_on(host, module):
    from dataclasses import asdict

    from D24FADParts import explain
    from D24FADParts.runrecord import RunRecord

    findings = [
        {"peak_ras": [1, 2, 3], "departs_by": ["darker", "texture"]},
        {"peak_ras": [4, 5, 6], "departs_by": []},
    ]
    volume, picture = (asdict(said) for said in RunRecord({}, {"findings": findings}).explanations())
    assert (
        explain.finding(3, [], volume, []) == "Compared with the references it is darker, of another texture."
    )
    assert explain.finding(3, [], picture, []) == ""


def test_a_duration_is_coarse(host, module):
    from D24FADParts import explain

    said = [explain.duration(seconds) for seconds in (3, 31, 130, 7200)]
    assert said == ["a few seconds", "about 30 s", "about 2 min", "about 2.0 h"]


def test_a_refusal_of_the_detector_speaks_of_the_volumes_and_the_panel(host, module):
    """The detector's own words, which know of file names and options."""
    from D24FADParts import explain, run

    from D24FADLib.errors import InputError
    from D24FADLib.inference.inputs import require_suitable
    from D24FADLib.references.traits import Traits

    with pytest.raises(InputError) as refused:
        require_suitable("query", Traits(modality="MR"), [("support_01", Traits(modality="CT"))])
    made = run.Run(None, None, None)
    made._names = {"query.nrrd": "Head", "support_01.nrrd": "Abdomen"}
    text = explain.failure("input", made._named(str(refused.value))).text
    assert "comparison with Head." in text
    assert "  Abdomen: " in text
    assert "modality CT, the study's is MR" in text
    assert text.endswith("tick Go on with unsuitable references under Advanced.")
    assert "query" not in text
    assert "--" not in text
