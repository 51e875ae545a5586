"""A DICOM series, the volume read from it and a file: described and judged alike."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from dicom_factory import AXIAL, SAGITTAL, SeriesSpec, phantom, write_series

from D24FADLib.dicom.library import open_library
from D24FADLib.dicom.series import read_files
from D24FADLib.imaging.reading import read_volume
from D24FADLib.imaging.volume import Volume
from D24FADLib.imaging.writing import write_volume
from D24FADLib.references.suitability import Check, Kind, Level, check_references
from D24FADLib.references.traits import Traits, traits_of_volume

DATA = Path(__file__).resolve().parents[4] / "shared" / "data" / "volumes"


def volume_of(tmp_path: Path, name: str, spec: SeriesSpec) -> Volume:
    return read_files(write_series(tmp_path / name, spec), name).volume


def checked(query: Volume, references: list[Volume]) -> tuple[Check, ...]:
    return check_references(traits_of_volume(query), [traits_of_volume(v) for v in references])


def test_volumes_are_judged_by_tags_grid_and_voxels(tmp_path: Path) -> None:
    query = volume_of(tmp_path, "q", SeriesSpec(phantom()))
    same = volume_of(tmp_path, "a", SeriesSpec(phantom(seed=2)))
    other = volume_of(tmp_path, "b", SeriesSpec(phantom(seed=3), orientation=SAGITTAL))
    t2 = volume_of(
        tmp_path, "c", SeriesSpec(phantom(seed=3), tags={"EchoTime": 100.0, "RepetitionTime": 4000.0})
    )
    flat = volume_of(tmp_path, "d", SeriesSpec(np.full((6, 20, 24), 7, np.int16)))
    checks = checked(query, [same, other, t2, flat, query])
    assert [check.level.value for check in checks] == ["ok", "warn", "refuse", "refuse", "refuse"]
    assert [reason.kind for reason in checks[3].refusals] == [Kind.CONSTANT]
    assert [reason.kind for reason in checks[4].refusals] == [Kind.ITSELF]
    ct = volume_of(tmp_path, "e", SeriesSpec(phantom(), modality="CT"))
    assert Kind.NOT_HOUNSFIELD in {reason.kind for reason in checked(query, [ct])[0].reasons}


@pytest.mark.parametrize("orientation", [AXIAL, SAGITTAL])
def test_a_series_a_volume_and_a_file_are_described_alike(
    tmp_path: Path, orientation: tuple[float, ...]
) -> None:
    """Before its pixels are read, after it, and saved in a format that keeps the grid alone."""
    spec = SeriesSpec(phantom(), orientation=orientation, tags={"BodyPartExamined": "HEAD"})
    write_series(tmp_path / "series", spec)
    (entry,) = open_library(tmp_path / "series", ":memory:").series
    series, volume = entry.traits(), entry.read().volume
    read = traits_of_volume(volume)
    assert series.sequence == "T1"
    assert series.body_part == "HEAD"
    for name in (field.name for field in dataclasses.fields(Traits)):
        # What neither tags nor grid know is known of one of them only.
        if name not in ("said_sequence", "voxels"):
            assert getattr(read, name) == pytest.approx(getattr(series, name)), name
    file = traits_of_volume(read_volume(write_volume(volume, tmp_path / "t1_head.nrrd")))
    for name in ("plane", "normal", "slices", "spacing", "extent", "voxels"):
        assert getattr(file, name) == pytest.approx(getattr(read, name)), name
    assert file.said_sequence == "T1"


@pytest.mark.skipif(not DATA.is_dir(), reason="the real data (../shared/data) are not here")
def test_grey_values_of_real_brains() -> None:
    children = [read_volume(DATA / "ptbp_t1_slabs" / f"sub{n:02d}_t1slab.nii.gz") for n in range(1, 5)]
    assert {check.level for check in checked(children[0], children[1:])} == {Level.OK}
    enhanced = read_volume(DATA / "pyradiomics_brain1" / "brain1_image.nrrd")
    (check,) = checked(children[0], [enhanced])
    assert Kind.GREY_VALUES in {reason.kind for reason in check.reasons}
