"""Reading series: order by position, mixed series, values, syntaxes, geometry that does not fit."""

from __future__ import annotations

import glob
import random
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
from dicom_factory import (
    AXIAL,
    OBLIQUE,
    SAGITTAL,
    SeriesSpec,
    dataset_of,
    multiframe,
    phantom,
    reread,
    write_series,
)

from D24FADLib import cli
from D24FADLib.commands.detect import read_inputs
from D24FADLib.commands.progress import TerminalReporter
from D24FADLib.dicom.series import SeriesReading, read_files
from D24FADLib.errors import InputError

pydicom = pytest.importorskip("pydicom")
DATA = Path(__file__).resolve().parents[4] / "shared" / "data" / "volumes"


def read(paths: list[Path], stack: int | None = None) -> SeriesReading:
    return read_files(paths, "series", stack)


@pytest.mark.parametrize("orientation", [AXIAL, SAGITTAL, OBLIQUE])
@pytest.mark.parametrize("order", ["ascending", "descending", "shuffled"])
def test_slices_are_ordered_by_position_not_by_name_or_number(
    tmp_path: Path, orientation: tuple[float, ...], order: str
) -> None:
    voxels = phantom(7)
    numbers = list(range(7))
    if order == "descending":
        numbers.reverse()
    elif order == "shuffled":
        random.Random(3).shuffle(numbers)
    spec = SeriesSpec(
        voxels, orientation=orientation, edit=lambda ds, k: setattr(ds, "InstanceNumber", numbers[k] + 1)
    )
    paths = write_series(tmp_path, spec, [f"{numbers[k]:03d}.dcm" for k in range(7)])
    reading = read(paths)
    assert np.array_equal(reading.volume.array(), voxels)
    assert reading.regular
    assert reading.notes == ()
    uids = [pydicom.dcmread(path).SOPInstanceUID for path in paths]
    assert reading.volume.info.tags["SOPInstanceUIDs"] == uids
    place = reading.volume.image.TransformIndexToPhysicalPoint((5, 3, 2))
    expected = spec.position(2) + spec.axes()[:, 0] * 5 * 0.8 + spec.axes()[:, 1] * 3 * 0.9
    assert np.allclose(place, expected, atol=1e-4)


def test_rescale_slope_and_intercept_whole_and_fractional(tmp_path: Path) -> None:
    voxels = phantom()
    whole = read(write_series(tmp_path / "a", SeriesSpec(voxels, modality="CT", intercept=-1024)))
    assert np.array_equal(whole.volume.array(), voxels.astype(int) - 1024)
    assert whole.volume.array().dtype.kind == "i"
    slopes = SeriesSpec(
        voxels, edit=lambda ds, k: ds.update({"RescaleSlope": 0.5 + 0.25 * k, "RescaleIntercept": 3.5})
    )
    each = read(write_series(tmp_path / "b", slopes))
    expected = voxels * (0.5 + 0.25 * np.arange(6))[:, None, None] + 3.5
    assert np.allclose(each.volume.array(), expected, rtol=1e-6)


def test_monochrome1_is_turned_round(tmp_path: Path) -> None:
    voxels = phantom().astype(np.uint16)
    spec = SeriesSpec(
        voxels, tags={"PhotometricInterpretation": "MONOCHROME1", "BitsStored": 12, "HighBit": 11}
    )
    assert np.array_equal(read(write_series(tmp_path, spec)).volume.array(), 4095 - voxels.astype(int))


@pytest.mark.parametrize(
    "syntax",
    ["1.2.840.10008.1.2.5", "1.2.840.10008.1.2.4.80", "1.2.840.10008.1.2.4.90"],
    ids=["RLE", "JPEG-LS", "JPEG 2000"],
)
def test_compressed_transfer_syntaxes_give_the_same_voxels(tmp_path: Path, syntax: str) -> None:
    voxels = phantom(3, 64, 72).astype(np.uint16)
    paths = write_series(tmp_path, SeriesSpec(voxels))
    for path in paths:
        reread(path, lambda ds: ds.compress(syntax, generate_instance_uid=False))
    assert np.array_equal(read(paths).volume.array(), voxels)


@pytest.mark.skipif(shutil.which("dcmcjpeg") is None, reason="dcmtk is not installed (apt: dcmtk)")
@pytest.mark.parametrize("option", ["+e1", "+el"], ids=["JPEG lossless SV1", "JPEG lossless"])
def test_jpeg_lossless_gives_the_same_voxels(tmp_path: Path, option: str) -> None:
    voxels = phantom().astype(np.uint16)
    paths = write_series(tmp_path / "plain", SeriesSpec(voxels))
    compressed = [tmp_path / path.name for path in paths]
    for path, target in zip(paths, compressed, strict=True):
        subprocess.run(["dcmcjpeg", option, path, target], check=True, capture_output=True)
    assert pydicom.dcmread(compressed[0]).file_meta.TransferSyntaxUID.is_compressed
    assert np.array_equal(read(compressed).volume.array(), voxels)


def test_private_transfer_syntax_is_refused_by_its_reason(tmp_path: Path) -> None:
    paths = write_series(tmp_path, SeriesSpec(phantom()))
    for path in paths:
        reread(path, lambda ds: setattr(ds.file_meta, "TransferSyntaxUID", "1.2.840.113619.5.2.99"))
    with pytest.raises(InputError, match="private or unknown transfer syntax"):
        read(paths)


@pytest.mark.parametrize("modality", ["MR", "CT"])
def test_enhanced_multiframe(tmp_path: Path, modality: str) -> None:
    voxels = phantom(5)
    spec = SeriesSpec(voxels, modality=modality, slope=2.0, intercept=-10.0)
    path = multiframe(spec, tmp_path / "enhanced.dcm", order=[3, 0, 4, 1, 2])
    reading = read([path])
    assert np.allclose(reading.volume.array(), voxels * 2.0 - 10.0)
    assert np.allclose(reading.volume.image.GetOrigin(), spec.origin)
    assert np.allclose(reading.volume.spacing, spec.spacing)
    assert reading.volume.info.tags["FrameNumbers"] == [2, 4, 5, 1, 3]


def _two(tmp_path: Path, edits: list, **kinds: object) -> list[Path]:
    """One series made of several kinds of images at the same positions."""
    base = SeriesSpec(phantom(5), **kinds)  # type: ignore[arg-type]
    paths = []
    for n, edit in enumerate(edits):
        spec = SeriesSpec(
            phantom(5, seed=n + 1),
            study_uid=base.study_uid,
            series_uid=base.series_uid,
            frame_uid=base.frame_uid,
            edit=edit,
        )
        paths += write_series(tmp_path / str(n), spec)
    return paths


@pytest.mark.parametrize(
    ("keyword", "values", "label"),
    [
        ("EchoTime", (10.0, 80.0), "echo time 80"),
        ("TemporalPositionIdentifier", (1, 2), "phase 2"),
        ("AcquisitionNumber", (1, 2), "acquisition 2"),
        ("TriggerTime", (0.0, 40.0), "trigger time 40"),
        ("ImageType", (["ORIGINAL", "PRIMARY", "M"], ["ORIGINAL", "PRIMARY", "P"]), "image type"),
        ("ContentTime", ("101010", "111111"), "content time 111111"),
    ],
)
def test_series_that_mix_kinds_are_split(tmp_path: Path, keyword: str, values: tuple, label: str) -> None:
    edits = [lambda ds, k, v=value: setattr(ds, keyword, v) for value in values]
    paths = _two(tmp_path, edits)
    both = [read(paths, stack=n) for n in (1, 2)]
    assert [r.stacks for r in both] == [2, 2]
    assert np.array_equal(both[0].volume.array(), phantom(5, seed=1))
    assert np.array_equal(both[1].volume.array(), phantom(5, seed=2))
    assert any("2 stacks" in note for note in read(paths).notes)
    from D24FADLib.dicom.stacks import split

    frames = [frame for reading in both for frame in reading.frames]
    assert label in split(frames)[1].label


def test_the_command_lists_stacks_and_takes_the_one_that_it_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _two(tmp_path, [lambda ds, k, v=value: setattr(ds, "EchoTime", v) for value in (10.0, 90.0)])
    assert cli.main(["series", str(tmp_path), "--no-index"]) == 0
    assert "    stack 2: echo time 90.0 ms (5 images)\n" in capsys.readouterr().out
    words = ["detect", str(tmp_path), "--stack", "2", "--output", str(tmp_path / "out")]
    query, _, _ = read_inputs(cli.build_parser().parse_args(words), TerminalReporter())
    assert np.array_equal(query.array(), phantom(5, seed=2))


def test_time_points_without_any_tag_are_split_by_number(tmp_path: Path) -> None:
    edits = [lambda ds, k, n=n: setattr(ds, "InstanceNumber", 5 * n + k + 1) for n in range(2)]
    paths = _two(tmp_path, edits)
    assert np.array_equal(read(paths, 2).volume.array(), phantom(5, seed=2))


def test_a_localizer_in_the_series_is_its_own_stack(tmp_path: Path) -> None:
    main = SeriesSpec(phantom(6))
    scout = SeriesSpec(
        phantom(1),
        orientation=SAGITTAL,
        study_uid=main.study_uid,
        series_uid=main.series_uid,
        frame_uid=main.frame_uid,
    )
    paths = write_series(tmp_path / "a", main) + write_series(tmp_path / "b", scout)
    reading = read(paths)
    assert reading.stacks == 2
    assert np.array_equal(reading.volume.array(), main.voxels)


def test_mixed_frames_of_reference_are_not_joined(tmp_path: Path) -> None:
    spec = SeriesSpec(
        phantom(6), edit=lambda ds, k: setattr(ds, "FrameOfReferenceUID", f"1.2.{1 + (k >= 4)}")
    )
    reading = read(write_series(tmp_path, spec))
    assert reading.stacks == 2
    assert reading.volume.size[2] == 4


def test_copies_and_doubled_positions_are_reported_once(tmp_path: Path) -> None:
    paths = write_series(tmp_path, SeriesSpec(phantom(6)))
    copy = tmp_path / "zz_copy.dcm"
    shutil.copy(paths[2], copy)
    reading = read([*paths, copy])
    assert np.array_equal(reading.volume.array(), phantom(6))
    assert sum("1 image is a copy" in note for note in reading.notes) == 1


def _irregular(steps: list[float]) -> SeriesSpec:
    heights = np.concatenate([[0], np.cumsum(steps)])
    voxels = np.broadcast_to((1000 + 10 * heights)[:, None, None], (len(heights), 20, 24)).astype(np.int16)
    positions = np.array([(-20.0, -30.0, 100.0 + h) for h in heights])
    return SeriesSpec(np.ascontiguousarray(voxels), positions=positions)


def test_one_missing_slice_is_interpolated_and_said(tmp_path: Path) -> None:
    spec = _irregular([2.0] * 5 + [4.0] + [2.0] * 5)
    reading = read(write_series(tmp_path, spec))
    assert not reading.regular
    assert any("1 slice is missing (after slice 6" in note for note in reading.notes)
    assert reading.volume.size[2] == 13
    assert np.abs(reading.volume.array()[:, 0, 0] - (1000 + 20 * np.arange(13))).max() <= 1
    assert len(reading.volume.info.tags["SOPInstanceUIDs"]) == 13


def test_many_missing_slices_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="slices are missing"):
        read(write_series(tmp_path, _irregular([2.0, 4.0, 4.0, 2.0, 2.0])))
    with pytest.raises(InputError, match="irregular slice spacing"):
        read(write_series(tmp_path / "b", _irregular([2.0] * 9 + [40.0])))


def test_irregular_spacing_is_resampled_and_said(tmp_path: Path) -> None:
    spec = _irregular([2.0, 2.3, 1.8, 2.0, 2.4, 1.9, 2.0])
    reading = read(write_series(tmp_path, spec))
    assert any("irregular slice spacing" in note and "resampled" in note for note in reading.notes)
    step = reading.volume.spacing[2]
    expected = 1000 + 10 * step * np.arange(reading.volume.size[2])
    assert np.abs(reading.volume.array()[:, 3, 3] - expected).max() <= 1.5


def test_gantry_tilt_is_straightened(tmp_path: Path) -> None:
    # A bright rod along the patient's z in slices that a tilted gantry shifts along y.
    drift = 2.0 * np.tan(np.radians(15))
    positions = np.array([(-20.0, -30.0 + drift * k, 100.0 + 2.0 * k) for k in range(8)])
    voxels = np.zeros((8, 40, 24), dtype=np.int16)
    for k in range(8):
        row = (0.0 - positions[k][1]) / 0.9  # y = 0
        voxels[k, int(np.floor(row)), 10] = round(1000 * (1 - row % 1))
        voxels[k, int(np.floor(row)) + 1, 10] = round(1000 * (row % 1))
    reading = read(write_series(tmp_path, SeriesSpec(voxels, positions=positions, modality="CT")))
    assert any("gantry tilt of 15.0 degrees" in note for note in reading.notes)
    assert not reading.regular
    image, array = reading.volume.image, reading.volume.array().astype(float)
    for k in range(8):
        rows = array[k, :, 10]
        centre = (rows * np.arange(len(rows))).sum() / rows.sum()
        y = image.TransformContinuousIndexToPhysicalPoint((10.0, centre, float(k)))[1]
        assert abs(y) < 0.15
        assert abs(rows.sum() - 1000) < 3


def test_slices_shifted_at_random_are_refused(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    positions = np.array([(-20 + rng.uniform(-8, 8), -30.0, 100.0 + 2 * k) for k in range(6)])
    with pytest.raises(InputError, match="shifted against each other"):
        read(write_series(tmp_path, SeriesSpec(phantom(6), positions=positions)))


def test_two_slices_are_read_with_a_warning(tmp_path: Path) -> None:
    reading = read(write_series(tmp_path, SeriesSpec(phantom(2))))
    assert reading.volume.size[2] == 2
    assert any("two slices only" in note for note in reading.notes)


def test_gaps_between_thin_slices_are_said(tmp_path: Path) -> None:
    reading = read(write_series(tmp_path, SeriesSpec(phantom(5), tags={"SliceThickness": 0.5})))
    assert any("there are gaps" in note for note in reading.notes)


def test_secondary_captures_without_place_are_refused(tmp_path: Path) -> None:
    def capture(ds: pydicom.Dataset, k: int) -> None:
        ds.SOPClassUID = ds.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.7"
        del ds.ImagePositionPatient

    with pytest.raises(InputError, match="secondary captures"):
        read(write_series(tmp_path, SeriesSpec(phantom(4), edit=capture)))


def test_one_bad_file_costs_that_file_only(tmp_path: Path) -> None:
    paths = write_series(tmp_path, SeriesSpec(phantom(8)))
    paths[7].write_bytes(paths[7].read_bytes()[:-200])
    (tmp_path / "notes.txt").write_text("no image")
    reading = read([*paths, tmp_path / "notes.txt"])
    assert np.array_equal(reading.volume.array(), phantom(8)[:7])
    assert [note for note in reading.notes if "img007" in note and "cut off" in note]
    assert [note for note in reading.notes if "notes.txt" in note and "not a DICOM file" in note]


def test_zero_length_tags_count_as_absent(tmp_path: Path) -> None:
    def empty(ds: pydicom.Dataset, k: int) -> None:
        for keyword in (
            "EchoTime",
            "RepetitionTime",
            "SliceThickness",
            "InstanceNumber",
            "ImageType",
            "PatientName",
        ):
            setattr(ds, keyword, None)

    assert np.array_equal(
        read(write_series(tmp_path, SeriesSpec(phantom(), edit=empty))).volume.array(), phantom()
    )


def test_colour_without_place(tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    pixels = rng.integers(0, 255, (20, 24, 3), dtype=np.uint8)
    ds = dataset_of(SeriesSpec(phantom(1)), 0)
    ds.SamplesPerPixel, ds.PhotometricInterpretation, ds.PlanarConfiguration = 3, "RGB", 0
    ds.BitsAllocated = ds.BitsStored = 8
    ds.HighBit, ds.PixelRepresentation, ds.PixelData = 7, 0, pixels.tobytes()
    del ds.ImagePositionPatient
    ds.save_as(tmp_path / "a.dcm", enforce_file_format=True)
    assert np.array_equal(read([tmp_path / "a.dcm"]).volume.array()[0], pixels)


@pytest.mark.skipif(not DATA.is_dir(), reason="the real data (../shared/data) are not here")
@pytest.mark.parametrize(
    "name",
    [
        "dicom_mr_t1_datalad",
        "dicom_ct_totalseg",
        "dicom_mr_papaya",
        "dicom_mr_dwv_bbmri",
        "dicom_ct_dcmqi_3slice",
    ],
)
def test_real_series_agree_with_itk(name: str) -> None:
    import SimpleITK as sitk

    reading = read([Path(path) for path in glob.glob(str(DATA / name / "*"))])
    sitk.ProcessObject.SetGlobalWarningDisplay(False)
    series = sitk.ImageSeriesReader()
    series.SetFileNames([frame.path for frame in reading.frames])
    expected = series.Execute()
    assert np.array_equal(sitk.GetArrayViewFromImage(expected), reading.volume.array())
    assert np.allclose(expected.GetOrigin(), reading.volume.image.GetOrigin())
    assert np.allclose(expected.GetSpacing(), reading.volume.spacing, atol=1e-3)
    assert np.allclose(expected.GetDirection(), reading.volume.image.GetDirection(), atol=1e-4)


def test_a_decoder_that_hangs_or_crashes_costs_its_image_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The child that decodes is replaced by one that sleeps, then by one that dies."""
    import sys
    import time

    from D24FADLib.dicom import decoding

    monkeypatch.setattr(decoding, "_SECONDS", 1.0)
    original = subprocess.Popen
    for code, said in (
        ("import time; time.sleep(60)", "did not come to an end"),
        ("import os; os._exit(11)", "crashed"),
    ):

        def start(command: list[str], code: str = code, **kinds: object) -> subprocess.Popen:
            return original([sys.executable, "-c", code], **kinds)  # type: ignore[call-overload]

        monkeypatch.setattr(decoding.subprocess, "Popen", start)
        begin = time.perf_counter()
        with decoding.ChildDecoder() as child, pytest.raises(decoding.Undecodable, match=said):
            child.stored_values(str(tmp_path / "x.dcm"), 0, 100)
        assert time.perf_counter() - begin < 10


def read_without_decoders(paths: list[Path], target: Path) -> str:
    """Read in a process in which no decoder of pydicom can be imported; voxels to `target`, or the error."""
    block = (
        "import sys\nfor n in ('pylibjpeg', 'openjpeg', 'libjpeg', 'gdcm', 'PIL'): sys.modules[n] = None\n"
    )
    child = block + "from D24FADLib.dicom import decoding\nsys.exit(decoding.main())"
    code = f"""
        exec({block!r})
        import numpy as np
        from D24FADLib.dicom import decoding
        from D24FADLib.dicom.series import read_files
        from D24FADLib.errors import InputError
        decoding.COMMAND = [sys.executable, "-c", {child!r}]
        try:
            np.save({str(target)!r}, read_files({[str(p) for p in paths]!r}, "series").volume.array())
        except InputError as error:
            print(error)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).resolve().parents[3],
    )
    return done.stdout


def test_where_a_decoder_is_missing_itk_stands_in(tmp_path: Path) -> None:
    voxels = phantom(3, 64, 72) - 300  # signed, with a rescale that ITK applies and that must not be twice
    paths = write_series(tmp_path, SeriesSpec(voxels, modality="CT", slope=2.0, intercept=-1024.0))
    for path in paths:
        reread(path, lambda ds: ds.compress("1.2.840.10008.1.2.4.90", generate_instance_uid=False))
    assert read_without_decoders(paths, tmp_path / "a.npy") == ""
    assert np.array_equal(np.load(tmp_path / "a.npy"), voxels * 2.0 - 1024)


def test_a_missing_decoder_is_named(tmp_path: Path) -> None:
    """Of an enhanced object, for which nothing stands in."""
    path = multiframe(SeriesSpec(phantom(3, 64, 72).astype(np.uint16)), tmp_path / "e.dcm")
    reread(path, lambda ds: ds.compress("1.2.840.10008.1.2.4.90", generate_instance_uid=False))
    said = read_without_decoders([path], tmp_path / "a.npy")
    assert "needs a decoder that is not installed. Install d24fad[dicom]" in said
    assert not (tmp_path / "a.npy").exists()


def test_enhanced_multiframe_of_two_phases_is_split(tmp_path: Path) -> None:
    path = multiframe(
        SeriesSpec(np.concatenate([phantom(4, seed=1), phantom(4, seed=2)])), tmp_path / "e.dcm"
    )

    def phases(ds: pydicom.Dataset) -> None:
        items = ds.PerFrameFunctionalGroupsSequence
        for number, item in enumerate(items):
            item.FrameContentSequence[0].TemporalPositionIndex = 1 + number // 4
            if number >= 4:
                item.PlanePositionSequence = items[number - 4].PlanePositionSequence

    reread(path, phases)
    first, second = read([path], 1), read([path], 2)
    assert first.stacks == 2
    assert np.array_equal(first.volume.array(), phantom(4, seed=1))
    assert np.array_equal(second.volume.array(), phantom(4, seed=2))


def test_implicit_value_representations(tmp_path: Path) -> None:
    voxels = phantom(4)
    paths = write_series(tmp_path, SeriesSpec(voxels))
    for path in paths:
        ds = pydicom.dcmread(path)
        ds.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2"
        ds.save_as(path, enforce_file_format=True)
    assert np.array_equal(read(paths).volume.array(), voxels)
