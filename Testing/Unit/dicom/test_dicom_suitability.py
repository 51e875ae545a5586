"""What suits as query or reference, told alike for every manufacturer."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from dicom_factory import SAGITTAL, SeriesSpec, phantom, write_series

from D24FADLib.dicom.series import read_files
from D24FADLib.dicom.suitability import Check, Level, check_alone, check_pair, check_volumes
from D24FADLib.dicom.traits import Traits, contrast_given, derived_kind, kernel_kind, sequence_kind
from D24FADLib.imaging.volume import Volume

DATA = Path(__file__).resolve().parents[4] / "shared" / "data" / "volumes"
BRAIN = Traits(
    series_uid="1.1",
    study_uid="1.0",
    modality="MR",
    body_part="HEAD",
    sequence="T1",
    plane="axial",
    slices=60,
    spacing=(1.0, 1.0, 2.0),
    extent=(220.0, 220.0, 120.0),
    echo_time=10.0,
    repetition_time=500.0,
    field_strength=1.5,
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
        ({"series_uid": "1.1"}, "the query itself"),
        ({"modality": "CT"}, "modality CT"),
        ({"sequence": "T2"}, "T2 weighting"),
        ({"color": True}, "colour"),
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
        ({"study_uid": "1.0"}, "own study"),
        ({"contrast": True}, "with contrast agent"),
        ({"body_part": "KNEE"}, "body part KNEE"),
        ({"plane": "sagittal"}, "sagittal slices"),
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


def volume_of(tmp_path: Path, name: str, spec: SeriesSpec) -> Volume:
    return read_files(write_series(tmp_path / name, spec), name).volume


def test_volumes_are_judged_by_tags_grid_and_voxels(tmp_path: Path) -> None:
    query = volume_of(tmp_path, "q", SeriesSpec(phantom()))
    same = volume_of(tmp_path, "a", SeriesSpec(phantom(seed=2)))
    other = volume_of(tmp_path, "b", SeriesSpec(phantom(seed=3), orientation=SAGITTAL))
    t2 = volume_of(
        tmp_path, "c", SeriesSpec(phantom(seed=3), tags={"EchoTime": 100.0, "RepetitionTime": 4000.0})
    )
    flat = volume_of(tmp_path, "d", SeriesSpec(np.full((6, 20, 24), 7, np.int16)))
    checks = check_volumes(query, [same, other, t2, flat, query])
    assert [check.level.value for check in checks] == ["ok", "warn", "refuse", "refuse", "refuse"]
    assert "same value" in str(checks[3])
    assert "itself" in str(checks[4])
    ct = volume_of(tmp_path, "e", SeriesSpec(phantom(), modality="CT"))
    assert "Hounsfield" in str(
        check_volumes(ct, [volume_of(tmp_path, "f", SeriesSpec(phantom(), modality="CT"))])[0]
    )


@pytest.mark.skipif(not DATA.is_dir(), reason="the real data (../shared/data) are not here")
def test_grey_values_of_real_brains(tmp_path: Path) -> None:
    from D24FADLib.imaging.reading import read_volume

    children = [read_volume(DATA / "ptbp_t1_slabs" / f"sub{n:02d}_t1slab.nii.gz") for n in range(1, 5)]
    alike = check_volumes(children[0], children[1:])
    assert not [c for c in alike if any("grey values" in reason for reason in c.reasons)]
    enhanced = read_volume(DATA / "pyradiomics_brain1" / "brain1_image.nrrd")
    (check,) = check_volumes(children[0], [enhanced])
    assert any("grey values" in reason for reason in check.reasons)
