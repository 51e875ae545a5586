"""A path on the command line, whatever it leads to: one entry for DICOM and all other formats."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from dicom_factory import PHI, SeriesSpec, phantom, write_series

from D24FADLib.errors import InputError
from D24FADLib.reading import is_dicom, read_study


def without_place(ds: pydicom.Dataset, k: int) -> None:
    del ds.ImagePositionPatient


def test_a_folder_of_one_series(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    paths = write_series(tmp_path / "head", SeriesSpec(phantom(5)))
    (tmp_path / "head" / "notes.txt").write_text("hello")
    study = read_study(tmp_path / "head")
    assert np.array_equal(study.volume.array(), phantom(5))
    assert study.volume.name == "head"
    assert sorted(study.dicom_files) == sorted(map(str, paths))
    assert capfd.readouterr() == ("", "")


def test_one_file_stands_for_its_series(tmp_path: Path) -> None:
    paths = write_series(tmp_path, SeriesSpec(phantom(5)))
    write_series(tmp_path, SeriesSpec(phantom(3)), ["x1.dcm", "x2.dcm", "x3.dcm"])
    study = read_study(paths[3])
    assert np.array_equal(study.volume.array(), phantom(5))
    assert sorted(study.dicom_files) == sorted(map(str, paths))
    with pytest.raises(InputError, match="belongs to series"):
        read_study(paths[3], "1.2.3")


def test_a_radiograph_stands_for_itself(tmp_path: Path) -> None:
    flat = write_series(tmp_path, SeriesSpec(phantom(3), modality="DX", edit=without_place))
    study = read_study(flat[1])
    assert np.array_equal(study.volume.array()[0], phantom(3)[1])
    assert study.dicom_files == (str(flat[1]),)
    with pytest.raises(InputError, match="3 images without positions"):
        read_study(tmp_path)


def test_several_series_are_named_without_the_patient(tmp_path: Path) -> None:
    first, second = SeriesSpec(phantom(5)), SeriesSpec(phantom(3))
    write_series(tmp_path / "a", first)
    write_series(tmp_path / "a" / "deeper", second)
    with pytest.raises(InputError) as caught:
        read_study(tmp_path / "a")
    assert f"{first.series_uid}  MR, 5 slices" in str(caught.value)
    assert f"{second.series_uid}  MR, 3 slices" in str(caught.value)
    assert not any(value in str(caught.value) for value in PHI.values())
    assert read_study(tmp_path / "a", second.series_uid).volume.size == (24, 20, 3)
    with pytest.raises(InputError, match=r"holds no series 1\.2\.3"):
        read_study(tmp_path / "a", "1.2.3")


def test_a_folder_named_after_the_patient_is_called_by_its_series(tmp_path: Path) -> None:
    spec = SeriesSpec(phantom(5))
    paths = write_series(tmp_path / "Zebulon_T1", spec, [f"PID7734921_{k}.dcm" for k in range(5)])
    assert read_study(tmp_path / "Zebulon_T1").volume.name == f"series {spec.series_uid}"
    assert read_study(paths[0]).volume.name == f"series {spec.series_uid}"


def test_other_formats_go_to_the_imaging_room(tmp_path: Path) -> None:
    sitk.WriteImage(sitk.GetImageFromArray(phantom(4)), str(tmp_path / "a.nrrd"))
    study = read_study(tmp_path / "a.nrrd")
    assert np.array_equal(study.volume.array(), phantom(4))
    assert (study.notes, study.dicom_files) == ((), ())
    with pytest.raises(InputError, match="no such file"):
        read_study(tmp_path / "absent.nrrd")


def test_what_is_dicom(tmp_path: Path) -> None:
    """With the preamble, without it, and not at all."""
    (path,) = write_series(tmp_path, SeriesSpec(phantom(1)))
    assert is_dicom(path)
    bare = tmp_path / "bare"
    content = path.read_bytes()
    meta = int.from_bytes(content[140:144], "little")
    bare.write_bytes(content[144 + meta :])
    assert is_dicom(bare)
    assert np.array_equal(read_study(bare).volume.array(), phantom(1))
    assert not is_dicom(tmp_path / "nothing")
    (tmp_path / "text").write_text("hello")
    assert not is_dicom(tmp_path / "text")


def test_a_damaged_or_imageless_file_is_explained(tmp_path: Path) -> None:
    (path,) = write_series(tmp_path, SeriesSpec(phantom(1)), ["one.dcm"])
    whole = path.read_bytes()
    path.write_bytes(whole[:-200])
    with pytest.raises(InputError, match=r"one\.dcm.*cut off"):
        read_study(path)
    path.write_bytes(whole)
    report = pydicom.dcmread(path)
    del report.Rows, report.Columns, report.PixelData
    report.SOPClassUID = "1.2.840.10008.5.1.4.1.1.88.33"
    report.save_as(path)
    with pytest.raises(InputError, match="not a DICOM image that can be used"):
        read_study(path)
