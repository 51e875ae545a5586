"""What is written: valid, in the right study, on the right slices, voxel-identical when read back."""

from __future__ import annotations

import dataclasses
import glob
import random
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from detections import REFERENCE_NAMES, detection_for, export
from dicom_factory import (
    AXIAL,
    OBLIQUE,
    PHI,
    SAGITTAL,
    SeriesSpec,
    dataset_of,
    multiframe,
    phantom,
    write_series,
)

from D24FADLib.dicom.detect_options import require_exportable
from D24FADLib.dicom.export import KINDS, Exported, export_detection
from D24FADLib.dicom.series import read_files
from D24FADLib.errors import InputError
from D24FADLib.imaging.volume import Volume

pydicom = pytest.importorskip("pydicom")
highdicom = pytest.importorskip("highdicom", reason="highdicom is not installed (d24fad[dicom])")
DATA = Path(__file__).resolve().parents[4] / "shared" / "data" / "volumes"
DCMQI = shutil.which("segimage2itkimage") or str(
    Path(__import__("sys").executable).with_name("segimage2itkimage")
)


def validate(exported: Exported) -> None:
    if shutil.which("dciodvfy") is None:
        pytest.skip("dciodvfy is not installed (apt: dicom3tools)")
    for kind, path in exported.files.items():
        done = subprocess.run(["dciodvfy", str(path)], capture_output=True, text=True, check=False)
        said = (done.stdout + done.stderr).splitlines()
        assert not [line for line in said if line.startswith("Error")], kind
        assert done.returncode == 0, kind


def voxels_by_source(seg: object, labels_shape: tuple[int, int]) -> dict[tuple[str, int], np.ndarray]:
    """(source instance, segment) -> pixels, following each frame's reference to its source image."""
    frames = {}
    pixels = seg.pixel_array.reshape(-1, *labels_shape)
    for frame, item in zip(pixels, seg.PerFrameFunctionalGroupsSequence, strict=True):
        source = item.DerivationImageSequence[0].SourceImageSequence[0]
        number = item.SegmentIdentificationSequence[0].ReferencedSegmentNumber
        frames[(source.ReferencedSOPInstanceUID, number)] = frame
        position = item.PlanePositionSequence[0].ImagePositionPatient
        assert position is not None
    return frames


@pytest.mark.parametrize(("modality", "findings"), [("MR", 3), ("CT", 1), ("MR", 40)])
def test_every_object_is_valid(tmp_path: Path, modality: str, findings: int) -> None:
    exported, _, _ = export(tmp_path, SeriesSpec(phantom(6, 64, 72), modality=modality), findings=findings)
    assert set(exported.files) == set(KINDS)
    validate(exported)


def test_objects_belong_to_the_querys_patient_and_study(tmp_path: Path) -> None:
    spec = SeriesSpec(phantom())
    exported, _, paths = export(tmp_path, spec)
    sources = {pydicom.dcmread(path).SOPInstanceUID for path in paths}
    series, instances = set(), set()
    for path in exported.files.values():
        ds = pydicom.dcmread(path)
        for keyword, value in PHI.items():
            assert str(ds[keyword].value) == value
        assert ds.StudyInstanceUID == spec.study_uid
        assert "RESEARCH USE ONLY" in ds.SeriesDescription
        series.add(ds.SeriesInstanceUID)
        instances.add(ds.SOPInstanceUID)
        assert "Zebulon" not in path.name
    assert len(series) == len(instances) == len(exported.files)
    assert spec.series_uid not in series
    assert not instances & sources


@pytest.mark.parametrize("orientation", [AXIAL, SAGITTAL, OBLIQUE], ids=["axial", "sagittal", "oblique"])
@pytest.mark.parametrize("order", ["ascending", "descending", "shuffled"])
@pytest.mark.parametrize("flip", ["", "k", "ijk", "swapped"])
def test_findings_land_on_the_slices_at_their_position(
    tmp_path: Path, orientation: tuple[float, ...], order: str, flip: str
) -> None:
    numbers = list(range(6))
    if order == "descending":
        numbers.reverse()
    elif order == "shuffled":
        random.Random(5).shuffle(numbers)
    spec = SeriesSpec(
        phantom(6),
        orientation=orientation,
        edit=lambda ds, k: setattr(ds, "InstanceNumber", numbers[k] + 1),
    )
    paths = write_series(tmp_path / "s", spec, [f"{numbers[k]:03d}.dcm" for k in range(6)])
    query = _turned(read_files(paths, "query").volume, flip)
    detection = detection_for(query, 2, seed=4)
    exported = export_detection(detection, paths, tmp_path / "out", ["seg"])
    assert exported.notes == ()
    seg = pydicom.dcmread(exported.files["seg"])
    found = voxels_by_source(seg, (20, 24))
    # Independently: where is each labelled voxel in the patient, and which file's pixel lies there?
    expected: dict[tuple[str, int], set[tuple[int, int]]] = {}
    for k, j, i in np.argwhere(detection.labels):
        place = np.array(query.image.TransformIndexToPhysicalPoint((int(i), int(j), int(k))))
        column, row, height = spec.axes().T @ (place - np.array(spec.origin)) / np.array(spec.spacing)
        assert np.allclose([column, row, height], np.round([column, row, height]), atol=1e-3)
        uid = str(pydicom.dcmread(paths[round(height)], stop_before_pixels=True).SOPInstanceUID)
        key = (uid, int(detection.labels[k, j, i]))
        expected.setdefault(key, set()).add((round(row), round(column)))
    assert {key: {tuple(at) for at in np.argwhere(frame)} for key, frame in found.items()} == expected


def _turned(volume: Volume, flip: str) -> Volume:
    import SimpleITK as sitk

    if flip == "swapped":
        return dataclasses.replace(volume, image=sitk.PermuteAxes(volume.image, (2, 0, 1)))
    turn = [axis in flip for axis in "ijk"]
    return dataclasses.replace(volume, image=sitk.Flip(volume.image, turn))


def test_read_back_through_highdicom_is_identical(tmp_path: Path) -> None:
    exported, detection, paths = export(tmp_path, SeriesSpec(phantom(), orientation=OBLIQUE))
    seg = highdicom.seg.segread(exported.files["seg"])
    uids = [str(pydicom.dcmread(path).SOPInstanceUID) for path in paths]
    labels = seg.get_pixels_by_source_instance(
        uids, combine_segments=True, assert_missing_frames_are_empty=True
    )
    assert np.array_equal(labels, detection.labels)
    described = seg.get_segment_description(1)
    assert described.segmented_property_type.value == "52988006"
    assert described.algorithm_identification.name.startswith("D24FAD")
    assert described.tracking_uid
    referenced = seg.ReferencedSeriesSequence[0].ReferencedInstanceSequence
    assert {str(item.ReferencedSOPInstanceUID) for item in referenced} == set(uids)


def test_parametric_map_holds_the_very_floats(tmp_path: Path) -> None:
    exported, detection, paths = export(tmp_path, SeriesSpec(phantom(), orientation=OBLIQUE))
    ds = pydicom.dcmread(exported.files["map"])
    assert ds.pixel_array.dtype == np.float32
    heights = [
        float(i.PlanePositionSequence[0].ImagePositionPatient[2]) for i in ds.PerFrameFunctionalGroupsSequence
    ]
    normal_up = np.argsort(heights)
    assert np.array_equal(ds.pixel_array[normal_up], detection.anomaly_map.array())
    uids = [str(pydicom.dcmread(path).SOPInstanceUID) for path in paths]
    assert [
        str(i.DerivationImageSequence[0].SourceImageSequence[0].ReferencedSOPInstanceUID)
        for n in normal_up
        for i in [ds.PerFrameFunctionalGroupsSequence[n]]
    ] == uids
    assert ds.ContentQualification == "RESEARCH"
    read = (
        highdicom.pm.ParametricMap.from_dataset(ds)
        if hasattr(highdicom.pm.ParametricMap, "from_dataset")
        else None
    )
    assert read is None or read.Rows == 20


def test_fractional_segmentation_holds_the_scaled_map(tmp_path: Path) -> None:
    exported, detection, paths = export(tmp_path, SeriesSpec(phantom()))
    seg = highdicom.seg.segread(exported.files["fractional"])
    uids = [str(pydicom.dcmread(path).SOPInstanceUID) for path in paths]
    values = seg.get_pixels_by_source_instance(uids, segment_numbers=[1])[..., 0]
    scale = float(seg.SegmentSequence[0].SegmentDescription.split("divided by ")[1].split(" ")[0])
    assert np.abs(values * scale - detection.anomaly_map.array()).max() <= 0.51 * scale / 255 + 1e-4


@pytest.mark.skipif(not Path(DCMQI).exists(), reason="dcmqi is not installed (pip install dcmqi)")
@pytest.mark.parametrize("findings", [1, 3])
@pytest.mark.parametrize("orientation", [AXIAL, OBLIQUE], ids=["axial", "oblique"])
def test_dcmqi_reads_the_same_voxels(tmp_path: Path, orientation: tuple[float, ...], findings: int) -> None:
    import SimpleITK as sitk

    exported, detection, _ = export(
        tmp_path, SeriesSpec(phantom(), orientation=orientation), findings=findings
    )
    (tmp_path / "itk").mkdir()
    command = [
        DCMQI,
        "--inputDICOM",
        exported.files["seg"],
        "--outputDirectory",
        tmp_path / "itk",
        "--outputType",
        "nrrd",
    ]
    subprocess.run(command, check=True, capture_output=True)
    grid = detection.query.image
    for finding in detection.findings:
        image = sitk.ReadImage(str(tmp_path / "itk" / f"{finding.rank}.nrrd"))
        assert np.allclose(image.GetSpacing(), grid.GetSpacing(), atol=1e-4)
        on_grid = sitk.Resample(image, grid, sitk.Transform(), sitk.sitkNearestNeighbor, 0)
        expected = detection.labels == finding.rank
        assert np.array_equal(sitk.GetArrayViewFromImage(on_grid) > 0, expected)
        assert int((sitk.GetArrayViewFromImage(image) > 0).sum()) == int(expected.sum())
    paramap = Path(DCMQI).with_name("paramap2itkimage")
    command = [
        paramap,
        "--inputDICOM",
        exported.files["map"],
        "--outputDirectory",
        tmp_path / "itk",
        "--outputType",
        "nrrd",
    ]
    subprocess.run(command, check=True, capture_output=True)
    (read,) = glob.glob(str(tmp_path / "itk" / "*pmap*"))
    image = sitk.ReadImage(read)
    on_grid = sitk.Resample(image, grid, sitk.Transform(), sitk.sitkNearestNeighbor, -1.0)
    assert np.allclose(sitk.GetArrayViewFromImage(on_grid), detection.anomaly_map.array(), rtol=1e-6)


def texts_in(dataset: pydicom.Dataset) -> list[str]:
    found = []
    for element in dataset.iterall():
        if element.VR not in ("SQ", "OB", "OW", "OF"):
            found.append(str(element.value))
    return found


def test_report_has_the_measurements_and_names_no_reference(tmp_path: Path) -> None:
    spec = SeriesSpec(phantom())
    paths = write_series(tmp_path / "source", spec)
    detection = detection_for(read_files(paths, "query").volume)
    digests = ["ab" * 32, "cd" * 32]
    exported = export_detection(detection, paths, tmp_path / "out", ["report"], digests)
    report = highdicom.sr.srread(exported.files["report"])
    groups = report.content.get_volumetric_roi_measurement_groups()
    assert len(groups) == len(detection.findings)
    seg = pydicom.dcmread(exported.files["seg"])
    for group, finding in zip(groups, detection.findings, strict=True):
        values = [
            (m.name.value, m.derivation.value if m.derivation else "", m.value)
            for m in group.get_measurements()
        ]
        assert values[0][0] == "118565006"
        assert values[0][2] == pytest.approx(finding.volume_ml, rel=1e-6)
        assert values[1][2] == pytest.approx(finding.peak, rel=1e-6)
        assert values[2][2] == pytest.approx(finding.mean, rel=1e-6)
        segment = group.reference_type
        assert segment is not None
        tracked = seg.SegmentSequence[finding.rank - 1]
        assert group.tracking_uid == tracked.TrackingUID
    text = "\n".join(texts_in(report))
    assert "Normal reference 1" in text
    assert "abababababababab" in text
    for name in REFERENCE_NAMES:
        assert name not in text
    validate(exported)


def test_references_stay_out_of_every_object(tmp_path: Path) -> None:
    exported, _, _ = export(tmp_path, SeriesSpec(phantom()))
    for path in exported.files.values():
        content = path.read_bytes()
        for name in REFERENCE_NAMES:
            for part in (name, *name.split("^")):
                assert part.encode() not in content
                assert part not in path.name


def test_without_findings_there_is_a_report_and_no_segmentation(tmp_path: Path) -> None:
    exported, _, _ = export(tmp_path, SeriesSpec(phantom()), findings=0)
    assert "seg" not in exported.files
    assert "no findings, so there is no segmentation" in exported.notes
    texts = texts_in(pydicom.dcmread(exported.files["report"]))
    assert any("no candidate findings" in text for text in texts)
    validate(exported)


@pytest.mark.parametrize(
    ("charset", "name"),
    [
        ("ISO_IR 100", "Müller^Jörg"),
        ("ISO_IR 192", "Ωμέγα^Ζήτα"),
        (["", "ISO 2022 IR 87"], "Yamada^Tarou=山田^太郎=やまだ^たろう"),
        ("ISO_IR 144", "Люкceмбypг"),
    ],
)
def test_names_in_other_alphabets_arrive_whole(tmp_path: Path, charset: object, name: str) -> None:
    def edit(ds: pydicom.Dataset, k: int) -> None:
        ds.SpecificCharacterSet, ds.PatientName = charset, name

    exported, _, _ = export(tmp_path, SeriesSpec(phantom(3), edit=edit))
    for path in exported.files.values():
        assert str(pydicom.dcmread(path).PatientName) == name
    validate(exported)


def test_broken_patient_values_do_not_make_results_invalid(tmp_path: Path) -> None:
    def edit(ds: pydicom.Dataset, k: int) -> None:
        with pydicom.config.disable_value_validation():
            ds.PatientBirthDate, ds.StudyTime, ds.PatientSex = "unknown", "noon", "X"
            ds.AccessionNumber = "A" * 40
            del ds.ReferringPhysicianName

    exported, _, _ = export(tmp_path, SeriesSpec(phantom(3), edit=edit))
    validate(exported)


@pytest.mark.parametrize("modality", ["MR", "CT"])
def test_enhanced_multiframe_as_source(tmp_path: Path, modality: str) -> None:
    spec = SeriesSpec(phantom(5), modality=modality)
    path = multiframe(spec, tmp_path / "enhanced.dcm", order=[3, 0, 4, 1, 2])
    query = read_files([path], "query").volume
    detection = detection_for(query, 2)
    exported = export_detection(detection, [path], tmp_path / "out", KINDS)
    seg = highdicom.seg.segread(exported.files["seg"])
    uid = pydicom.dcmread(path).SOPInstanceUID
    labels = seg.get_pixels_by_source_frame(
        uid, [2, 4, 5, 1, 3], combine_segments=True, assert_missing_frames_are_empty=True
    )
    assert np.array_equal(labels, detection.labels)
    validate(exported)


def test_resampled_query_is_written_on_its_own_grid(tmp_path: Path) -> None:
    import SimpleITK as sitk

    positions = np.array([(-20.0, -30.0 + 0.5 * k, 100.0 + 2.0 * k) for k in range(6)])
    paths = write_series(tmp_path / "s", SeriesSpec(phantom(6), positions=positions, modality="CT"))
    query = read_files(paths, "query").volume
    detection = detection_for(query)
    exported = export_detection(detection, paths, tmp_path / "out", ["seg", "map", "report"])
    assert any("grid of their own" in note for note in exported.notes)
    ds = pydicom.dcmread(exported.files["map"])
    places = [i.PlanePositionSequence[0].ImagePositionPatient for i in ds.PerFrameFunctionalGroupsSequence]
    upwards = np.argsort([float(place[2]) for place in places])
    assert np.array_equal(ds.pixel_array[upwards], detection.anomaly_map.array())
    assert np.allclose([float(v) for v in places[upwards[0]]], query.image.GetOrigin(), atol=1e-4)
    assert sitk.GetArrayViewFromImage(query.image).shape == ds.pixel_array.shape
    validate(exported)


def test_one_echo_of_a_mixed_series(tmp_path: Path) -> None:
    base = SeriesSpec(phantom(5))
    paths = []
    for n, echo in enumerate((10.0, 80.0)):
        spec = dataclasses.replace(base, voxels=phantom(5, seed=n), tags={"EchoTime": echo})
        paths += write_series(tmp_path / str(n), spec)
    reading = read_files(paths, "query", stack=2)
    detection = detection_for(reading.volume, 2)
    exported = export_detection(detection, paths, tmp_path / "out", ["seg"])
    sources = {uid for uid, _ in voxels_by_source(pydicom.dcmread(exported.files["seg"]), (20, 24))}
    assert sources <= {str(pydicom.dcmread(path).SOPInstanceUID) for path in paths[5:]}


@pytest.mark.parametrize("sized", [True, False])
def test_single_image_without_positions(tmp_path: Path, sized: bool) -> None:
    ds = dataset_of(SeriesSpec(phantom(1, 64, 80)), 0)
    ds.SOPClassUID = ds.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.1"
    for keyword in (
        "ImagePositionPatient",
        "ImageOrientationPatient",
        "FrameOfReferenceUID",
        "SliceThickness",
    ):
        delattr(ds, keyword)
    if not sized:
        del ds.PixelSpacing
    ds.Modality, ds.ViewPosition, ds.BodyPartExamined = "CR", "PA", "CHEST"
    ds.PatientOrientation = ["L", "F"]
    path = tmp_path / "cr.dcm"
    ds.save_as(path, enforce_file_format=True)
    query = read_files([path], "query").volume
    detection = detection_for(query)
    exported = export_detection(detection, [path], tmp_path / "out", KINDS)
    assert set(exported.files) == set(KINDS) - {"map"}
    assert any("no positions in the patient" in note for note in exported.notes)
    seg = pydicom.dcmread(exported.files["seg"])
    assert int((seg.pixel_array > 0).sum()) == int((detection.labels > 0).sum())
    assert list(seg.PatientOrientation) == ["L", "F"]
    # What has no thickness has an area, and no volume.
    report = highdicom.sr.srread(exported.files["report"])
    first = report.content.get_volumetric_roi_measurement_groups()[0].get_measurements()[0]
    pixels = int((detection.labels == 1).sum())
    said = seg.SegmentSequence[0].SegmentDescription
    if sized:
        assert (first.name.value, first.unit.value) == ("42798000", "mm2")
        assert first.value == pytest.approx(pixels * np.prod(query.spacing[:2]))
        assert said.endswith(f"{first.value:.2f} mm2")
    else:
        assert first.name.value == "ANOMALY-SCORE"
        assert said.endswith(f", {pixels} px")
        assert "42798000" not in "".join(texts_in(report))
    assert "118565006" not in "".join(texts_in(report))
    validate(exported)


def test_files_of_another_series_are_refused(tmp_path: Path) -> None:
    mine = write_series(tmp_path / "a", SeriesSpec(phantom()))
    far = write_series(tmp_path / "b", SeriesSpec(phantom(), origin=(900.0, 900.0, 900.0)))
    detection = detection_for(read_files(mine, "query").volume)
    with pytest.raises(InputError, match="do not lie where"):
        export_detection(detection, far, tmp_path / "out")
    with pytest.raises(InputError, match="different values of StudyInstanceUID"):
        export_detection(detection, [*mine, *far], tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("keyword", ["StudyInstanceUID", "SOPClassUID", "FrameOfReferenceUID"])
def test_a_source_that_nothing_can_refer_to_is_refused(tmp_path: Path, keyword: str) -> None:
    spec = SeriesSpec(phantom(), edit=lambda ds, k: setattr(ds, keyword, ""))
    paths = write_series(tmp_path, spec)
    detection = detection_for(read_files(paths, "query").volume)
    with pytest.raises(InputError, match=f"no valid {keyword}"):
        require_exportable([str(path) for path in paths])  # before the work
    with pytest.raises(InputError, match=f"no valid {keyword}"):
        export_detection(detection, paths, tmp_path / "out")


@pytest.mark.skipif(not DATA.is_dir(), reason="the real data (../shared/data) are not here")
@pytest.mark.parametrize("name", ["dicom_mr_dwv_bbmri", "dicom_ct_dcmqi_3slice", "dicom_mr_t1_datalad"])
def test_real_series(tmp_path: Path, name: str) -> None:
    reading = read_files(glob.glob(str(DATA / name / "*")), name)
    paths = [frame.path for frame in reading.frames]
    detection = detection_for(reading.volume)
    exported = export_detection(detection, paths, tmp_path, ["seg", "map", "report", "overview"])
    validate(exported)
    seg = highdicom.seg.segread(exported.files["seg"])
    labels = seg.get_pixels_by_source_instance(
        reading.volume.info.tags["SOPInstanceUIDs"],
        combine_segments=True,
        assert_missing_frames_are_empty=True,
    )
    assert np.array_equal(labels, detection.labels)


def test_a_finding_that_was_erased_is_left_out(tmp_path: Path) -> None:
    paths = write_series(tmp_path / "s", SeriesSpec(phantom()))
    detection = detection_for(read_files(paths, "query").volume)
    labels = detection.labels.copy()
    labels[labels == 2] = 0
    edited = dataclasses.replace(detection, labels=labels)
    exported = export_detection(edited, paths, tmp_path / "out", ["seg", "report"])
    assert any("1 finding without voxels" in note for note in exported.notes)
    seg = pydicom.dcmread(exported.files["seg"])
    assert [segment.SegmentLabel for segment in seg.SegmentSequence] == ["Finding 1", "Finding 3"]
    validate(exported)


def test_images_one_pixel_wide(tmp_path: Path) -> None:
    exported, _, _ = export(tmp_path, SeriesSpec(phantom(4, 24, 1)))
    validate(exported)


@pytest.mark.parametrize(
    ("orientation", "sides"), [(AXIAL, ("R", "A")), (SAGITTAL, ("A", "H")), ((-1, 0, 0, 0, 1, 0), ("L", "A"))]
)
def test_the_page_marks_the_patients_sides(orientation: tuple[float, ...], sides: tuple[str, str]) -> None:
    from D24FADLib.dicom.overview import draw

    volume = np.random.default_rng(0).random((4, 20, 24))
    figure = draw(volume, volume, np.zeros((4, 20, 24), int), (), (), 0.9, 1.0, orientation)
    shown = [tuple(text.get_text() for text in axes.texts) for axes in figure.axes]
    assert set(shown) == {sides}
