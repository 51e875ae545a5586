"""What suits as study or reference, told alike for every manufacturer and every source."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from D24FADLib.references.kinds import (
    contrast_given,
    derived_kind,
    kernel_kind,
    said_agent,
    said_sequence,
    sequence_kind,
)
from D24FADLib.references.suitability import Check, Kind, Level, check_alone, check_pair
from D24FADLib.references.traits import Traits, tags_of_text, traits_of_grid, traits_of_tags, voxels_of

BRAIN = Traits(
    series_uid="1.1",
    study_uid="1.0",
    modality="MR",
    body_part="HEAD",
    sequence="T1",
    plane="axial",
    normal=(0.0, 0.0, 1.0),
    slices=60,
    spacing=(1.0, 1.0, 2.0),
    extent=(220.0, 220.0, 120.0),
    echo_time=10.0,
    repetition_time=500.0,
    field_strength=1.5,
    view="PA",
)
NORMAL = dataclasses.replace(BRAIN, series_uid="2.1", study_uid="2.0")


@pytest.mark.parametrize(
    ("tags", "kind"),
    [
        ({"EchoTime": 12, "RepetitionTime": 550, "ScanningSequence": ["SE"]}, "T1"),
        (
            {"EchoTime": 2.9, "RepetitionTime": 2300, "InversionTime": 900, "ScanningSequence": ["GR", "IR"]},
            "T1",
        ),
        ({"EchoTime": 3.0, "RepetitionTime": 7.5, "ScanningSequence": ["GR"]}, "T1"),
        ({"EchoTime": 100, "RepetitionTime": 4500, "ScanningSequence": ["SE"]}, "T2"),
        (
            {
                "EchoTime": 120,
                "RepetitionTime": 9000,
                "InversionTime": 2500,
                "ScanningSequence": ["SE", "IR"],
            },
            "FLAIR",
        ),
        (
            {
                "EchoTime": 395,
                "RepetitionTime": 5000,
                "InversionTime": 1800,
                "ScanningSequence": ["SE", "IR"],
            },
            "FLAIR",
        ),
        ({"EchoTime": 60, "RepetitionTime": 4000, "InversionTime": 160, "ScanningSequence": ["IR"]}, "STIR"),
        ({"EchoTime": 25, "RepetitionTime": 600, "ScanningSequence": ["GR"]}, "T2*"),
        ({"EchoTime": 22, "RepetitionTime": 2300, "ScanningSequence": ["SE"]}, "PD"),
        ({"EchoTime": 90, "RepetitionTime": 5000, "DiffusionBValue": 1000}, "DWI"),
        ({"ImageType": ["DERIVED", "PRIMARY", "DIFFUSION", "ADC"]}, "ADC"),
        ({"EchoTime": 12}, ""),
        ({}, ""),
    ],
)
def test_sequence_kinds(tags: dict, kind: str) -> None:
    assert sequence_kind(tags) == kind


@pytest.mark.parametrize(
    ("kernel", "kind"),
    [
        ("B30f", "soft"),
        ("Br40d\\3", "soft"),
        ("I31f\\2", "soft"),
        ("B70s", "sharp"),
        ("Bl57", "sharp"),
        ("STANDARD", "soft"),
        ("LUNG", "sharp"),
        ("BONEPLUS", "sharp"),
        ("FC08", "soft"),
        ("FC51", "sharp"),
        ("B", "soft"),
        ("YC", "sharp"),
        ("", ""),
        ("unheard of", ""),
    ],
)
def test_kernels_of_the_manufacturers(kernel: str, kind: str) -> None:
    assert kernel_kind(kernel) == kind


def test_contrast_and_derived() -> None:
    assert contrast_given("Gadovist 7.5 ml") is True
    assert contrast_given("NONE") is False
    assert contrast_given(None) is None
    assert derived_kind(["ORIGINAL", "PRIMARY", "LOCALIZER"]) == "a localizer"
    assert derived_kind(["DERIVED", "SECONDARY", "MPR"]) == ""


def test_the_same_protocol_is_ok() -> None:
    assert check_pair(BRAIN, NORMAL) == Check()
    assert check_pair(BRAIN, NORMAL).level is Level.OK
    assert check_pair(BRAIN, dataclasses.replace(NORMAL, body_part="BRAIN")).level is Level.OK


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"series_uid": "1.1"}, "the study itself"),
        ({"modality": "CT"}, "modality CT"),
        ({"sequence": "T2"}, "T2 weighting"),
        ({"color": True}, "colour"),
        ({"slices": 1}, "single image"),
        ({"extent": (220.0, 220.0, 20.0)}, "head-foot"),
    ],
)
def test_refused(change: dict, word: str) -> None:
    check = check_pair(BRAIN, dataclasses.replace(NORMAL, **change))
    assert check.level is Level.REFUSE
    assert word in str(check)


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"study_uid": "1.0"}, "same examination"),
        ({"contrast": True}, "with contrast agent"),
        ({"body_part": "KNEE"}, "body part KNEE"),
        ({"normal": (1.0, 0.0, 0.0)}, "sagittal slices"),
        ({"sequence": "", "said_sequence": "FLAIR"}, "FLAIR weighting"),
        ({"view": "LL"}, "view LL"),
        ({"echo_time": 30.0}, "echo time 30 ms"),
        ({"repetition_time": 990.0}, "repetition time 990 ms"),
        ({"field_strength": 3.0}, "3 T"),
        ({"spacing": (1.0, 1.0, 6.0)}, "every 6.0 mm"),
        ({"extent": (220.0, 220.0, 60.0)}, "head-foot"),
        ({"derived": "a phase image"}, "phase image"),
        ({"modality": ""}, "not known"),
    ],
)
def test_warned(change: dict, word: str) -> None:
    check = check_pair(BRAIN, dataclasses.replace(NORMAL, **change))
    assert check.level is Level.WARN
    assert word in str(check)


def test_kernels_differ() -> None:
    soft = Traits(modality="CT", kernel="soft", slices=9)
    assert "sharp kernel" in str(check_pair(soft, dataclasses.replace(soft, kernel="sharp")))


def test_alone() -> None:
    assert check_alone(BRAIN).level is Level.OK
    assert check_alone(dataclasses.replace(BRAIN, derived="a localizer")).level is Level.REFUSE
    assert check_alone(dataclasses.replace(BRAIN, slices=2)).level is Level.WARN
    assert check_alone(dataclasses.replace(BRAIN, slices=0)).level is Level.REFUSE
    assert check_alone(Traits(modality="SEG", slices=3)).level is Level.REFUSE


@pytest.mark.parametrize(
    ("spacing", "said"),
    [
        ((1.0, 1.0, 400.0), "1 x 1 x 400 mm"),
        ((0.0001, 0.0001, 2.0), "0.0001 x 0.0001 x 2 mm"),
        ((0.002, 0.002, 90.0), ""),
    ],
)
def test_a_spacing_that_is_hardly_true_is_told(spacing: tuple[float, float, float], said: str) -> None:
    check = check_alone(dataclasses.replace(BRAIN, spacing=spacing))
    assert check.level is (Level.WARN if said else Level.OK)
    assert said in str(check)
    # Photographs have no size that could be wrong.
    assert check_alone(Traits(modality="", slices=1, spacing=spacing)).level is Level.OK


def test_unknown_speaks_against_nothing() -> None:
    reasons = check_pair(BRAIN, Traits()).reasons
    assert [reason.kind for reason in reasons] == [Kind.MODALITY_UNKNOWN]
    assert check_pair(Traits(), Traits()) == Check()
    assert check_pair(dataclasses.replace(BRAIN, said_sequence="FLAIR"), NORMAL) == Check()  # tags weigh more


def test_radiographs_of_every_kind_are_one_modality() -> None:
    digital, computed = Traits(modality="DX", view="PA", slices=1), Traits(modality="CR", view="PA", slices=1)
    assert check_pair(digital, computed) == Check()
    assert check_pair(digital, dataclasses.replace(computed, modality="MG")).level is Level.REFUSE
    assert check_pair(digital, dataclasses.replace(computed, view="LL")).level is Level.WARN


def test_voxels_tell_copies_apart_from_relatives() -> None:
    rng = np.random.default_rng(0)
    ours = rng.gamma(2, 100, (20, 30, 40)).astype(np.int16)
    study = dataclasses.replace(BRAIN, voxels=voxels_of(ours))
    copy = dataclasses.replace(NORMAL, voxels=voxels_of(ours.astype(np.float32)))
    other = dataclasses.replace(NORMAL, series_uid="1.1", voxels=voxels_of(ours[::-1]))
    assert [r.kind for r in check_pair(study, copy).refusals] == [Kind.ITSELF]
    assert check_pair(study, other) == Check()  # a series may hold several volumes
    assert check_alone(dataclasses.replace(BRAIN, voxels=voxels_of(np.ones((4, 4, 4))))).level is Level.REFUSE
    flipped = dataclasses.replace(NORMAL, voxels=voxels_of(ours.max() - ours))
    assert Kind.GREY_VALUES in {r.kind for r in check_pair(study, flipped).warnings}


def test_only_what_cannot_be_compared_is_impossible() -> None:
    odd = dataclasses.replace(NORMAL, modality="CT", color=True)
    found = {reason.kind: reason.impossible for reason in check_pair(BRAIN, odd).refusals}
    assert found == {Kind.MODALITY: False, Kind.COLOR: True}


def test_every_reason_has_a_text() -> None:
    from D24FADLib.references.suitability import refuse

    for kind in Kind:
        assert refuse(kind, "this", "that").text.strip()


@pytest.mark.parametrize(
    ("said", "sequence", "agent"),
    [
        ("AX T2_FLAIR fs", "FLAIR", None),
        ("t1_mprage +C", "T1", True),
        ("T1 post Gd sag", "T1", True),
        ("T1 pre", "T1", False),
        ("ep2d_diff ADC", "ADC", None),
        ("thorax native 1.0 B30f", "", False),
        ("localizer", "", None),
        ("", "", None),
    ],
)
def test_what_descriptions_say(said: str, sequence: str, agent: bool | None) -> None:
    assert said_sequence(said) == sequence
    assert said_agent(said) is agent


def test_headers_as_text_are_read_as_tags() -> None:
    words = {
        "ImageType": "ORIGINAL\\PRIMARY",
        "EchoTime": " 2.9",
        "RepetitionTime": "2300",
        "InversionTime": "900\\1100",
        "ScanningSequence": "GR\\IR",
        "MagneticFieldStrength": "about 3",
        "ContrastBolusAgent": "",
    }
    tags = tags_of_text(words)
    assert tags["ScanningSequence"] == ["GR", "IR"]
    assert "MagneticFieldStrength" not in tags
    known = traits_of_tags(tags, "t1 post")
    assert known["sequence"] == "T1"
    assert known["contrast"] is True


def test_the_slice_axis_is_where_the_voxels_are_thick() -> None:
    stacked_along_j = traits_of_grid((181, 18, 217), (1.0, 1.0, 1.0), np.eye(3))
    assert stacked_along_j["slices"] == 18
    assert stacked_along_j["plane"] == "coronal"
    isotropic = traits_of_grid((181, 200, 217), (1.0, 1.0, 1.0), np.eye(3))
    assert isotropic["normal"] is None
    assert isotropic["slices"] == 217
    turned = traits_of_grid(
        (40, 48, 20), (2.0, 2.0, 4.0), np.array([[0, 0, 1], [-1, 0, 0], [0, -1, 0]], float)
    )
    assert turned["plane"] == "sagittal"
    assert turned["extent"] == (80.0, 80.0, 96.0)
    assert turned["spacing"] == (2.0, 2.0, 4.0)
