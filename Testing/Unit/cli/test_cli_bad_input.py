"""Every bad input of `d24fad detect`: exit code 2, a message that names it and says what to do, no trace."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import UID, ExplicitVRLittleEndian, MRImageStorage

from D24FADLib.cli import main


def gray(shape: tuple[int, ...] = (5, 6, 7)) -> np.ndarray:
    return np.random.default_rng(1).uniform(1, 100, shape).astype(np.float32)


def write(path: Path, array: np.ndarray) -> Path:
    sitk.WriteImage(sitk.GetImageFromArray(array), str(path))
    return path


def with_bad_voxel(path: Path, value: float) -> Path:
    array = gray()
    array[2, 3, 4] = value
    return write(path, array)


def nrrd_with_spacing(path: Path, spacing: str) -> Path:
    header = f"NRRD0004\ntype: uchar\ndimension: 3\nsizes: 4 4 4\nspacings: {spacing}\nencoding: raw\n\n"
    path.write_bytes(header.encode() + bytes(range(64)))
    return path


def nifti_with_spacing(path: Path, value: float) -> Path:
    write(path, gray())
    data = bytearray(path.read_bytes())
    data[80:84] = np.float32(value).tobytes()  # pixdim[1]
    path.write_bytes(bytes(data))
    return path


def truncated(path: Path) -> Path:
    write(path, gray((20, 20, 20)))
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    return path


def text(path: Path) -> Path:
    path.write_text("these are the voxels, honest\n" * 20)
    return path


def photograph(path: Path) -> Path:
    pixels = np.random.default_rng(1).integers(0, 255, (30, 40, 3)).astype(np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def two_series(path: Path) -> Path:
    path.mkdir()
    for series in ("1.2.3.1", "1.2.3.2"):
        for k in range(3):
            ds = Dataset()
            ds.file_meta = FileMetaDataset()
            ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
            ds.file_meta.MediaStorageSOPClassUID = ds.SOPClassUID = MRImageStorage
            ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = UID(f"{series}.{k + 1}")
            ds.SeriesInstanceUID, ds.StudyInstanceUID, ds.Modality = series, "1.2.3", "MR"
            ds.Rows, ds.Columns, ds.SamplesPerPixel, ds.PhotometricInterpretation = 6, 8, 1, "MONOCHROME2"
            ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 16, 15, 0
            ds.PixelSpacing, ds.InstanceNumber = [1, 1], k + 1
            ds.ImageOrientationPatient, ds.ImagePositionPatient = [1, 0, 0, 0, 1, 0], [0, 0, 2 * k]
            ds.PixelData = np.arange(48, dtype=np.uint16).tobytes()
            ds.save_as(path / f"{series}.{k}.dcm", enforce_file_format=True)
    return path


def four_d(path: Path) -> Path:
    sitk.WriteImage(sitk.JoinSeries([sitk.GetImageFromArray(gray())] * 3), str(path))
    return path


# What is made, and what the message says besides the name.
FILES: dict[str, tuple[Callable[[Path], Path], str, str]] = {
    "missing": (lambda p: p, "gone.nrrd", "no such file"),
    "not an image": (text, "notes.txt", "not an image.*Accepted"),
    "an empty file": (lambda p: p.touch() or p, "empty.nrrd", "empty.*again"),
    "4D": (four_d, "series.nii.gz", "holds 3 volumes.*Save one"),
    "NaN": (lambda p: with_bad_voxel(p, np.nan), "nan.nrrd", "1 voxel"),
    "infinite": (lambda p: with_bad_voxel(p, np.inf), "inf.nii.gz", "1 voxel"),
    "constant": (lambda p: write(p, np.full((4, 5, 6), 7, np.int16)), "flat.mha", "same value.*Check"),
    "zero spacing": (lambda p: nrrd_with_spacing(p, "1 0 1"), "zero.nrrd", "(?i)spacing|voxel size"),
    "negative spacing": (lambda p: nifti_with_spacing(p, -1.0), "minus.nii", "(?i)spacing|voxel size"),
    "text as NIfTI": (text, "text.nii.gz", "(?i)not a.*nifti"),
    "truncated": (truncated, "cut.nrrd", "(?i)cut off|damaged|truncated"),
    "two series": (two_series, "export", r"1\.2\.3\.1(.|\n)*1\.2\.3\.2"),
    "an empty folder": (lambda p: p.mkdir() or p, "folder", "no files in it.*Choose"),
}


def assert_refused(argv: list[str], output: Path, capsys, *says: str) -> str:
    """Exit code 2, what the message says, and nothing new beside or in the output."""

    def everything() -> list[str]:
        return sorted(str(p) for p in output.parent.rglob("*"))

    before = everything()
    assert main(argv) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("d24fad: ")
    assert "Traceback" not in err
    for pattern in says:
        assert re.search(pattern, err), f"{pattern!r} is not in {err!r}"
    assert everything() == before
    return err


@pytest.mark.parametrize("role", ["query", "support"])
@pytest.mark.parametrize("kind", FILES)
def test_bad_files(arguments, simulated, tmp_path: Path, capsys, kind: str, role: str) -> None:
    make, name, says = FILES[kind]
    path = make(tmp_path / name)
    output = tmp_path / "results"
    chosen = {"query": path} if role == "query" else {"supports": [simulated.support_files[0], path]}
    err = assert_refused(arguments(output, **chosen), output, capsys, name.replace(".", r"\."), says)
    assert str(tmp_path) not in err  # names, not whole paths


@pytest.mark.skipif(os.name != "posix", reason="file permissions work otherwise there")
@pytest.mark.skipif(hasattr(os, "geteuid") and os.geteuid() == 0, reason="root may read every file")
def test_an_unreadable_file(arguments, tmp_path: Path, capsys) -> None:
    path = write(tmp_path / "locked.nrrd", gray())
    path.chmod(0)
    output = tmp_path / "results"
    assert_refused(arguments(output, query=path), output, capsys, r"locked\.nrrd: no permission", "copy it")


def test_zero_supports(arguments, tmp_path: Path, capsys) -> None:
    output = tmp_path / "results"
    assert_refused(arguments(output, supports=[]), output, capsys, "no normal reference", "choose 2 to 8")


def test_a_colour_photograph_as_support_of_a_volume(arguments, tmp_path: Path, capsys) -> None:
    output = tmp_path / "results"
    argv = arguments(output, supports=[photograph(tmp_path / "photo.png")])
    assert_refused(argv, output, capsys, r"photo\.png: a colour picture", r"query\.nrrd", "Choose")


def test_a_single_image_as_support_of_a_volume(arguments, tmp_path: Path, capsys) -> None:
    output = tmp_path / "results"
    argv = arguments(output, supports=[write(tmp_path / "one.nrrd", gray((1, 20, 20)))])
    assert_refused(argv, output, capsys, r"one\.nrrd: a single image", "Choose normal studies")


def test_a_used_output_folder(arguments, tmp_path: Path, capsys) -> None:
    output = tmp_path / "results"
    output.mkdir()
    (output / "letter.txt").write_text("keep me")
    assert_refused(arguments(output), output, capsys, "results: not empty", "--overwrite")
    assert (output / "letter.txt").read_text() == "keep me"


def test_a_file_as_output(arguments, tmp_path: Path, capsys) -> None:
    output = tmp_path / "results"
    output.write_text("keep me")
    assert_refused(arguments(output), output, capsys, "results: is a file", "choose a folder")
    assert_refused(arguments(output, "--overwrite"), output, capsys, "results: is a file")
    assert output.read_text() == "keep me"


def test_an_output_below_a_file(arguments, tmp_path: Path, capsys) -> None:
    (tmp_path / "file").write_text("keep me")
    output = tmp_path / "file" / "results"
    assert main(arguments(output)) == 2
    assert "results: file is a file; choose another folder" in capsys.readouterr().err
    assert (tmp_path / "file").read_text() == "keep me"


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--device", "abacus"), "--device abacus: choose one of auto, cpu"),
        (("--device", "cuda:99"), "--device cuda:99: "),
        (("--model", "no-such-model"), "no model 'no-such-model': give"),
        (("--batch", "0"), "--batch: give 1 or more"),
        (("--false-positives-per-study", "0"), "--false-positives-per-study: give a number above 0"),
        (("--false-positives-per-study", "nan"), "--false-positives-per-study: give a number above 0"),
        (("--threshold", "nan"), "--threshold: give a number"),
        (("--threshold", "inf"), "--threshold: give a number"),
        (("--threshold", "-1"), "--threshold: give a number, 0 or more"),
        (("--series", "1.2.3"), "is no DICOM, so there is no series to choose"),
        (("--query-series", "1.2.3"), "give --dicom FOLDER, too"),
        (("--support-series", "1.2.3"), "give --dicom FOLDER, too"),
        (("--dicom-output", "objects"), "--dicom-output needs a query that was read from DICOM"),
        (("--dicom-output", "objects", "--dicom-objects", "seg,scroll"), "scroll: no kind of DICOM result"),
        (("--dicom-output", "objects", "--dicom-objects", ","), "nothing: no kind of DICOM result"),
        (("--dicom-output", __file__), "is a file; choose a folder"),
    ],
)
def test_bad_options(arguments, tmp_path: Path, capsys, words: tuple[str, ...], says: str) -> None:
    output = tmp_path / "results"
    assert_refused(arguments(output, *words), output, capsys, says)


def test_a_folder_that_is_no_model(arguments, tmp_path: Path, capsys) -> None:
    (tmp_path / "bundle").mkdir()
    output = tmp_path / "results"
    argv = arguments(output, "--model", str(tmp_path / "bundle"))
    assert_refused(argv, output, capsys, "bundle: not a model bundle")


@pytest.mark.parametrize(
    "words",
    [
        ("--threshold", "high"),
        ("--plane", "diagonal"),
        ("--align", "roughly"),
        ("--batch", "some"),
        ("--bogus",),
    ],
)
def test_words_that_are_no_options(arguments, tmp_path: Path, capsys, words: tuple[str, ...]) -> None:
    output = tmp_path / "results"
    with pytest.raises(SystemExit) as stopped:
        main(arguments(output, *words))
    assert stopped.value.code == 2
    assert words[0] in capsys.readouterr().err
    assert not output.exists()
