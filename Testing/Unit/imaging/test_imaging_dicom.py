"""DICOM series made by the tests, and the real ones where they are here."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import UID, CTImageStorage, ExplicitVRLittleEndian, generate_uid

from D24FADLib.errors import InputError
from D24FADLib.imaging.reading import list_series, read_volume

SERIES, STUDY, FRAME = (f"1.2.826.0.1.3680043.8.498.{n}" for n in (1, 2, 3))
NAME, DESCRIPTION = "Doe^Jane", "Jane Doe head"


def voxels(count: int = 5) -> np.ndarray:
    return np.random.default_rng(3).integers(0, 1000, (count, 6, 8)).astype(np.uint16)


def write_series(
    folder: Path,
    array: np.ndarray | None = None,
    change: Callable[[int, Dataset], None] = lambda k, ds: None,
    series: str = SERIES,
    orientation: tuple[float, ...] = (1, 0, 0, 0, 1, 0),
    step: float = 2.5,
) -> list[str]:
    """One file a slice, named so that file order is not slice order; returns the UIDs in slice order."""
    array = voxels() if array is None else array
    folder.mkdir(exist_ok=True)
    normal = np.cross(orientation[:3], orientation[3:])
    uids = []
    for k, plane in enumerate(array):
        ds = Dataset()
        ds.file_meta = FileMetaDataset()
        ds.file_meta.MediaStorageSOPClassUID = CTImageStorage
        ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        ds.SOPClassUID = CTImageStorage
        ds.SOPInstanceUID = UID(f"{series}.{k + 1}")
        ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
        ds.SeriesInstanceUID, ds.StudyInstanceUID, ds.FrameOfReferenceUID = series, STUDY, FRAME
        ds.PatientName, ds.PatientID, ds.PatientBirthDate = NAME, "12345", "19700101"
        ds.SeriesDescription, ds.Modality, ds.BodyPartExamined = DESCRIPTION, "MR", "HEAD"
        ds.EchoTime, ds.RepetitionTime, ds.ImageType = 4.5, 2000, ["ORIGINAL", "PRIMARY"]
        ds.InstanceNumber = k + 1
        ds.Rows, ds.Columns = plane.shape[:2]
        ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
        ds.BitsAllocated = ds.BitsStored = 16
        ds.HighBit, ds.PixelRepresentation = 15, 0
        ds.PixelSpacing, ds.SliceThickness = [0.75, 0.5], step
        ds.ImageOrientationPatient = list(orientation)
        ds.ImagePositionPatient = [
            round(float(x), 6) for x in np.array([-4.0, 7.0, 30.0]) + k * step * normal
        ]
        ds.PixelData = plane.tobytes()
        change(k, ds)
        uids.append(str(ds.SOPInstanceUID))
        ds.save_as(folder / f"{(k * 7) % 11:02d}.dcm", enforce_file_format=True)
    return uids


def test_slices_are_ordered_by_position_with_all_their_geometry(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    orientation = (0.8, 0.6, 0.0, 0.0, 0.0, -1.0)
    uids = write_series(tmp_path / "s", orientation=orientation)
    volume = read_volume(tmp_path / "s")
    np.testing.assert_array_equal(volume.array(), voxels())
    assert volume.spacing == pytest.approx((0.5, 0.75, 2.5))
    assert volume.image.GetOrigin() == pytest.approx((-4, 7, 30))
    direction = np.array(volume.image.GetDirection()).reshape(3, 3)
    np.testing.assert_allclose(direction[:, 0], orientation[:3], atol=1e-9)
    np.testing.assert_allclose(direction[:, 1], orientation[3:], atol=1e-9)
    assert np.linalg.det(direction) == pytest.approx(1)
    last = volume.image.TransformIndexToPhysicalPoint((0, 0, 4))
    np.testing.assert_allclose(last, np.array([-4, 7, 30]) + 10 * np.array([-0.6, 0.8, 0]), atol=1e-6)
    info = volume.info
    assert (info.modality, info.body_part) == ("MR", "HEAD")
    assert (info.series_uid, info.study_uid, info.frame_of_reference_uid) == (SERIES, STUDY, FRAME)
    assert info.tags["SOPInstanceUIDs"] == uids
    assert info.tags["EchoTime"] == 4.5
    assert not any(text in repr(volume) for text in ("Jane", "12345", "1970"))
    assert capfd.readouterr() == ("", "")


def test_slices_stored_from_last_to_first_are_turned_round(tmp_path: Path) -> None:
    def reverse(k: int, ds: Dataset) -> None:
        ds.ImagePositionPatient = [-4, 7, 30 - 2.5 * k]

    uids = write_series(tmp_path / "s", change=reverse)
    volume = read_volume(tmp_path / "s")
    np.testing.assert_array_equal(volume.array(), voxels()[::-1])
    assert volume.info.tags["SOPInstanceUIDs"] == uids[::-1]


def test_one_file_stands_for_its_series(tmp_path: Path) -> None:
    write_series(tmp_path / "s")
    write_series(tmp_path / "s2", series=SERIES + ".9", array=voxels(1))
    shutil.copy(tmp_path / "s2" / "00.dcm", tmp_path / "s" / "other.dcm")
    assert read_volume(tmp_path / "s" / "07.dcm").size == (8, 6, 5)
    assert read_volume(tmp_path / "s" / "other.dcm").is_single_image
    with pytest.raises(InputError, match="belongs to series"):
        read_volume(tmp_path / "s" / "07.dcm", series_uid="1.2.3")


def test_several_series_are_listed_without_patient_data(tmp_path: Path) -> None:
    write_series(tmp_path / "a")
    write_series(tmp_path / "a" / "deeper", series=SERIES + ".9", array=voxels(3))
    with pytest.raises(InputError) as caught:
        read_volume(tmp_path / "a")
    message = str(caught.value)
    assert f"{SERIES}  MR, 5 slices, 8 x 6" in message
    assert f"{SERIES}.9  MR, 3 slices, 8 x 6" in message
    assert not any(text in message for text in ("Jane", "12345", "1970"))
    assert read_volume(tmp_path / "a", series_uid=SERIES + ".9").size == (8, 6, 3)
    assert [(s.uid, s.slices, s.rows, s.columns) for s in list_series(tmp_path / "a")] == [
        (SERIES, 5, 6, 8),
        (SERIES + ".9", 3, 6, 8),
    ]
    with pytest.raises(InputError, match=r"holds no series 1\.2\.3"):
        read_volume(tmp_path / "a", series_uid="1.2.3")


def test_rescale_is_applied_and_fractions_survive(tmp_path: Path) -> None:
    def rescale(k: int, ds: Dataset) -> None:
        # PET scanners give each slice its own slope; the first one being whole must not truncate the rest.
        ds.RescaleSlope, ds.RescaleIntercept = 1 + 0.25 * k, -100

    write_series(tmp_path / "s", change=rescale)
    expected = voxels() * (1 + 0.25 * np.arange(5)).reshape(5, 1, 1) - 100
    np.testing.assert_allclose(read_volume(tmp_path / "s").array(), expected, rtol=1e-6)


def test_monochrome1_is_inverted(tmp_path: Path) -> None:
    def inverted(k: int, ds: Dataset) -> None:
        ds.PhotometricInterpretation = "MONOCHROME1"

    write_series(tmp_path / "s", change=inverted)
    array = read_volume(tmp_path / "s").array()
    np.testing.assert_array_equal(array.astype(int) + voxels(), np.full((5, 6, 8), 65535))


def test_a_radiograph_without_position(tmp_path: Path) -> None:
    def radiograph(k: int, ds: Dataset) -> None:
        del ds.ImagePositionPatient, ds.ImageOrientationPatient, ds.PixelSpacing, ds.FrameOfReferenceUID
        ds.ImagerPixelSpacing, ds.Modality = [0.2, 0.1], "DX"

    write_series(tmp_path / "s", change=radiograph, array=voxels(2))
    volume = read_volume(tmp_path / "s" / "07.dcm")
    np.testing.assert_array_equal(volume.array()[0], voxels(2)[1])
    assert volume.spacing[:2] == pytest.approx((0.1, 0.2))
    with pytest.raises(InputError, match="2 images without positions"):
        read_volume(tmp_path / "s")


def test_colour(tmp_path: Path) -> None:
    array = np.random.default_rng(0).integers(0, 255, (1, 6, 8, 3)).astype(np.uint8)

    def colour(k: int, ds: Dataset) -> None:
        ds.SamplesPerPixel, ds.PhotometricInterpretation, ds.PlanarConfiguration = 3, "RGB", 0
        ds.BitsAllocated = ds.BitsStored = 8
        ds.HighBit, ds.Modality = 7, "US"

    write_series(tmp_path / "s", change=colour, array=array)
    np.testing.assert_array_equal(read_volume(tmp_path / "s").array(), array)


def _moved(which: int, offset: tuple[float, float, float]) -> Callable[[int, Dataset], None]:
    def change(k: int, ds: Dataset) -> None:
        if k == which:
            ds.ImagePositionPatient = [p + o for p, o in zip(ds.ImagePositionPatient, offset, strict=True)]

    return change


def _tilted(k: int, ds: Dataset) -> None:
    x, y, z = ds.ImagePositionPatient
    ds.ImagePositionPatient = [x, y + 0.3 * k, z]


def _turned(k: int, ds: Dataset) -> None:
    if k == 2:
        ds.ImageOrientationPatient = [0, 1, 0, 0, 0, -1]


def _attribute(keyword: str, value: Any, which: int | None = None) -> Callable[[int, Dataset], None]:
    def change(k: int, ds: Dataset) -> None:
        if which is None or which == k:
            setattr(ds, keyword, value)

    return change


def _narrower(k: int, ds: Dataset) -> None:
    if k == 1:
        ds.Columns = 4
        ds.PixelData = voxels()[k, :, :4].tobytes()


BAD: list[tuple[str, Callable[[int, Dataset], None], str]] = [
    ("a slice moved", _moved(2, (0, 0, 0.4)), "irregular slice spacing (2.10 to 2.90 mm"),
    (
        "a gap",
        lambda k, ds: _moved(k, (0, 0, 2.5 if k > 2 else 0))(k, ds),
        "about 1 slices seem to be missing",
    ),
    ("a duplicate", _moved(2, (0, 0, 2.5)), "1 slices lie at the same position"),
    ("gantry tilt", _tilted, "gantry tilt of 6.8 degrees"),
    ("orientations", _turned, "different orientations"),
    ("columns", _narrower, "differ in rows or columns"),
    ("pixel spacing", _attribute("PixelSpacing", [0.75, 0.6], 1), "differ in pixel spacing"),
    ("zero spacing", _attribute("PixelSpacing", [0, 0.6]), "pixel spacing in the header is not positive"),
    ("frames", _attribute("NumberOfFrames", 5), "multi-frame DICOM"),
]


@pytest.mark.parametrize(("name", "change", "text"), BAD, ids=[name for name, _, _ in BAD])
def test_bad_series(tmp_path: Path, name: str, change: Callable[[int, Dataset], None], text: str) -> None:
    write_series(tmp_path / "series", change=change)
    with pytest.raises(InputError) as caught:
        read_volume(tmp_path / "series")
    message = str(caught.value)
    assert message.startswith("series: ")
    assert text in message
    assert not any(secret in message for secret in ("Jane", "12345", "1970", str(tmp_path)))


def test_a_cut_off_file(tmp_path: Path) -> None:
    write_series(
        tmp_path / "s", array=np.random.default_rng(0).integers(0, 99, (3, 64, 64)).astype(np.uint16)
    )
    path = tmp_path / "s" / "07.dcm"
    path.write_bytes(path.read_bytes()[:6000])
    with pytest.raises(InputError, match=r"s: 07\.dcm is cut off"):
        read_volume(tmp_path / "s")


def test_rounded_positions_are_no_irregular_spacing(tmp_path: Path) -> None:
    def rounded(k: int, ds: Dataset) -> None:
        ds.ImagePositionPatient = [-4, 7, round(30 + k * 6.975, 1)]

    write_series(tmp_path / "s", change=rounded)
    assert read_volume(tmp_path / "s").spacing[2] == pytest.approx(6.975, abs=0.02)


def test_files_that_are_no_images_are_passed_over(tmp_path: Path) -> None:
    write_series(tmp_path / "s")
    (tmp_path / "s" / "DICOMDIR").write_bytes(b"\0" * 128 + b"DICM" + b"rubbish")
    (tmp_path / "s" / "notes.txt").write_text("hello")
    report = pydicom.dcmread(tmp_path / "s" / "00.dcm")
    report.SOPInstanceUID = report.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    del report.Rows, report.Columns, report.PixelData
    report.save_as(tmp_path / "s" / "report.dcm")
    assert read_volume(tmp_path / "s").size == (8, 6, 5)
    with pytest.raises(InputError, match="not an image"):
        read_volume(tmp_path / "s" / "report.dcm")


@pytest.mark.parametrize(
    ("folder", "size", "spacing"),
    [
        ("dicom_ct_totalseg", (512, 512, 20), (0.9765625, 0.9765625, 2.0)),  # JPEG 2000
        ("dicom_mr_dwv_bbmri", (256, 256, 6), (1.0, 1.0, 9.0)),
    ],
)
def test_real_series_lie_where_their_headers_say(
    volumes: Path,
    folder: str,
    size: tuple[int, int, int],
    spacing: tuple[float, float, float],
    capfd: pytest.CaptureFixture[str],
) -> None:
    volume = read_volume(volumes / folder)
    assert capfd.readouterr() == ("", "")
    assert volume.size == size
    assert volume.spacing == pytest.approx(spacing, abs=0.01)
    headers = [pydicom.dcmread(path, stop_before_pixels=True) for path in (volumes / folder).iterdir()]
    expected = sorted([float(x) for x in header.ImagePositionPatient] for header in headers)
    found = sorted(volume.image.TransformIndexToPhysicalPoint((0, 0, k)) for k in range(size[2]))
    np.testing.assert_allclose(found, expected, atol=0.1)


def test_real_ct_is_in_hounsfield_units(volumes: Path) -> None:
    path = volumes / "dicom_ct_totalseg"
    array = read_volume(path).array()
    assert array.dtype == np.int16
    assert array.min() == -1024
