"""Studies and references from DICOM: the browser's selection, tags, sets of series, and DICOM SEG back.

The database and what surrounds it are the host's (see Testing/README); the files are real, and dcmqi, which
Slicer itself calls, writes the segmentation.
"""

import importlib.util
import json
import types

import numpy as np
import pytest

pytest.importorskip("pydicom")

from d24fadhost import dicom
from dicom_factory import PHI, SeriesSpec, write_series

from D24FADLib.errors import D24FADError
from D24FADLib.references.suitability import Kind

SIZE = (12, 40, 36)
needs_dcmqi = pytest.mark.skipif(importlib.util.find_spec("dcmqi") is None, reason="dcmqi is not installed")


def voxels(seed, ball=False):
    random = np.random.default_rng(seed)
    array = np.zeros(SIZE)
    array[1:-1, 5:-5, 5:-5] = 500 + 10 * random.standard_normal(array[1:-1, 5:-5, 5:-5].shape)
    if ball:
        array[6:9, 20:27, 12:18] += 400
    return array.astype(np.int16)


class Archive:
    """Four MR series of one protocol in the database: the study first, then three normals."""

    def __init__(self, folder, database):
        self.database = database
        shared = {"BodyPartExamined": "HEAD", "ContrastBolusAgent": ""}
        self.specs = [
            SeriesSpec(voxels(number, ball=number == 0), spacing=(2.0, 2.0, 4.0), tags=dict(shared))
            for number in range(4)
        ]
        for number, spec in enumerate(self.specs):
            self.add(folder / f"series{number}", spec)
        self.uids = [spec.series_uid for spec in self.specs]

    def add(self, folder, spec):
        self.paths = write_series(folder, spec)
        for path in self.paths:
            self.database.insert(str(path))

    def forget(self, uid):
        for key in [key for key, h in self.database._headers.items() if uid == h.SeriesInstanceUID]:
            del self.database._headers[key]


@pytest.fixture
def archive(host, module, tmp_path, monkeypatch):
    from D24FADParts import tags

    tags._tagsCache.clear()
    return Archive(tmp_path / "dicom", dicom.install(monkeypatch))


def select(monkeypatch, uids, visual=False):
    """As if these series were selected in the DICOM browser."""
    import slicer

    widget = types.SimpleNamespace(browserWidget=dicom.DicomBrowser(list(uids), visual))
    monkeypatch.setattr(slicer.modules, "DICOMWidget", widget, raising=False)


def load(uid):
    import slicer

    return slicer.mrmlScene.GetNodeByID(dicom.loadSeriesByUID([uid])[0])


@pytest.fixture
def detected(logic, archive, monkeypatch):
    logic.setQuery(load(archive.uids[0]))
    select(monkeypatch, archive.uids[1:3])
    assert logic.addReferencesFromDicomSelection() == []
    logic.detect()
    return logic


@pytest.mark.parametrize("visual", [False, True], ids=["classic browser", "visual browser"])
def test_the_browsers_selection_becomes_references(logic, archive, monkeypatch, visual):
    import slicer

    logic.setQuery(load(archive.uids[0]))
    already = load(archive.uids[1])
    select(monkeypatch, archive.uids[1:], visual)
    assert logic.addReferencesFromDicomSelection() == []
    rows = logic.references()
    assert [row.seriesUid for row in rows] == archive.uids[1:]
    assert {(row.modality, row.slices) for row in rows} == {("MR", SIZE[0])}
    assert {logic.referenceSource(row.key) for row in rows} == {"DICOM"}
    assert [logic.referenceProblems(row.key) for row in rows] == [[], [], []]
    # What is loaded is not loaded again, and what is in the list not listed again.
    assert len(slicer.util.getNodesByClass("vtkMRMLScalarVolumeNode")) == 4
    assert slicer.util.getNodesByClass("vtkMRMLScalarVolumeNode")[1] is already
    problems = logic.addReferencesFromDicomSelection()
    assert [problem.endswith("is in the list already.") for problem in problems] == [True] * 3
    assert len(logic.references()) == 3


def test_the_views_stay_on_the_study_while_references_load(logic, archive, monkeypatch):
    """Slicer shows what it loads; a reference is not what the reader wants to look at."""
    import slicer

    query = load(archive.uids[0])
    logic.setQuery(query)
    slicer.util.setSliceViewerLayers(background=query, fit=True)
    view = slicer.app.layoutManager().sliceWidget("Red")
    view.mrmlSliceNode().SetSliceOffset(11.0)
    whole = dicom.loadSeriesByUID

    def loadAndShow(uids):
        made = whole(uids)
        slicer.util.setSliceViewerLayers(background=made[0], fit=True)
        view.mrmlSliceNode().SetSliceOffset(0.0)
        return made

    monkeypatch.setattr(__import__("DICOMLib").DICOMUtils, "loadSeriesByUID", loadAndShow)
    select(monkeypatch, archive.uids[1:])
    logic.addReferencesFromDicomSelection()
    assert view.sliceLogic().GetSliceCompositeNode().GetBackgroundVolumeID() == query.GetID()
    assert view.mrmlSliceNode().GetSliceOffset() == pytest.approx(11.0)


def test_a_series_that_is_no_volume_is_said(logic, archive, monkeypatch, tmp_path):
    def withoutPixels(dataset, _k):
        for keyword in ("PixelSpacing", "ImagePositionPatient", "ImageOrientationPatient"):
            delattr(dataset, keyword)

    report = SeriesSpec(voxels(9)[:1], modality="SR")
    report.edit = withoutPixels
    write_series(tmp_path / "report", report)
    archive.database.insert(str(tmp_path / "report" / "img000.dcm"))
    monkeypatch.setattr(dicom, "_alongNormal", lambda header: 0.0)
    select(monkeypatch, [report.series_uid, archive.uids[1]])
    assert logic.addReferencesFromDicomSelection() == [
        "A selected series holds no volume that can be compared."
    ]
    assert len(logic.references()) == 1


def test_tags_say_what_does_not_fit(logic, archive, monkeypatch, tmp_path):
    enhanced = SeriesSpec(
        voxels(7), (2.0, 2.0, 4.0), tags={"BodyPartExamined": "NECK", "ContrastBolusAgent": "Gd"}
    )
    archive.add(tmp_path / "other", enhanced)
    logic.setQuery(load(archive.uids[0]))
    select(monkeypatch, [enhanced.series_uid])
    logic.addReferencesFromDicomSelection()
    (row,) = logic.references()
    assert {reason.kind for reason in logic.referenceProblems(row.key)} == {
        Kind.BODY_PART,
        Kind.CONTRAST_AGENT,
    }


def test_a_set_of_series_keeps_uids_and_comes_back_in_another_scene(logic, archive, monkeypatch):
    import slicer

    select(monkeypatch, archive.uids[1:])
    logic.addReferencesFromDicomSelection()
    text = logic.saveReferenceSet("Heads").read_text()
    entries = json.loads(text)["references"]
    assert [(entry["kind"], entry["value"]) for entry in entries] == [("series", u) for u in archive.uids[1:]]
    assert not any(value in text for value in PHI.values())
    slicer.mrmlScene.Clear(False)
    archive.forget(archive.uids[2])
    (problem,) = logic.loadReferenceSet("Heads")
    assert "not in the DICOM database" in problem
    rows = logic.references()
    assert [row.use for row in rows] == [True, False, True]
    assert [reason.kind for reason in logic.referenceProblems(rows[1].key)] == [Kind.MISSING]
    # It stays a series in the set, so that it is found again when it is back.
    again = json.loads(logic.saveReferenceSet("Heads").read_text())["references"]
    assert [entry["value"] for entry in again] == archive.uids[1:]


def test_the_panel_says_what_the_study_is_and_hides_its_date(panel, archive, host):
    ui = panel.ui
    ui.querySelector.setCurrentNode(load(archive.uids[0]))
    host.process_events(0.05)
    assert ui.aboutLabel.text == "MR · Head · t1 axial\n36 × 40 × 12, 2 × 2 × 4 mm"
    assert ui.showDateCheckBox.isVisible()
    ui.showDateCheckBox.click()
    assert "2026-01-02" in ui.aboutLabel.text
    shown = " ".join(str(getattr(w, "text", "")) + str(getattr(w, "toolTip", "")) for w in vars(ui).values())
    assert not any(value in shown for value in PHI.values())


@needs_dcmqi
def test_the_segmentation_goes_to_dicom_under_the_study(detected, archive, tmp_path):
    import highdicom
    import pydicom
    import slicer

    from D24FADLib import __version__

    found = detected.results()
    (tmp_path / "out").mkdir()
    assert detected.exportDicomSegmentation(str(tmp_path / "out")) == str(tmp_path / "out")
    (path,) = (tmp_path / "out").iterdir()
    seg = pydicom.dcmread(path)
    source = archive.specs[0]
    assert (seg.Modality, seg.StudyInstanceUID) == ("SEG", source.study_uid)
    assert seg.FrameOfReferenceUID == source.frame_uid
    assert (seg.PatientID, str(seg.PatientName)) == (PHI["PatientID"], PHI["PatientName"])
    assert seg.SeriesDescription == "D24FAD candidates, research use"
    (segment,) = seg.SegmentSequence
    assert (segment.SegmentAlgorithmType, segment.SegmentAlgorithmName) == (
        "AUTOMATIC",
        f"D24FAD {__version__}",
    )
    assert segment.SegmentedPropertyTypeCodeSequence[0].CodeValue == "4147007"
    assert str(path.parent) not in slicer.dicomDatabase.filesForSeries(archive.uids[0])[0]
    assert len(slicer.dicomDatabase.filesForSeries(str(seg.SeriesInstanceUID))) == 1
    # Read by another reader: on each of the study's own images, the voxels that the scene shows there.
    uids = found.query.GetAttribute("DICOM.instanceUIDs").split()
    assert len(uids) == SIZE[0]
    frames = highdicom.seg.Segmentation.from_dataset(seg).get_pixels_by_source_instance(
        uids, assert_missing_frames_are_empty=True, ignore_spatial_locations=True
    )
    scene = slicer.util.arrayFromSegmentBinaryLabelmap(
        found.node("Segmentation"), "candidate_001", found.query
    )
    assert scene.sum() > 50
    assert np.array_equal(frames[..., 0] > 0, scene > 0)
    k, j, i = np.argwhere(frames[..., 0]).mean(axis=0)
    assert np.allclose((k, j, i), (7, 23, 14.5), atol=1)


@needs_dcmqi
def test_a_dicom_export_that_cannot_be_says_why(detected, archive, tmp_path):
    found = detected.results()
    threshold = found.threshold
    detected.setThreshold(1000.0)
    with pytest.raises(D24FADError, match="no candidates"):
        detected.exportDicomSegmentation(str(tmp_path))
    detected.setThreshold(threshold)
    with pytest.raises(D24FADError, match="folder"):
        detected.exportDicomSegmentation(str(tmp_path / "nowhere"))
    archive.forget(archive.uids[0])
    with pytest.raises(D24FADError, match="DICOM database"):
        detected.exportDicomSegmentation(str(tmp_path))
    assert not list(tmp_path.glob("*.dcm"))


@needs_dcmqi
def test_the_export_button_asks_for_a_folder_where_the_study_is_dicom(panel, archive, host, tmp_path):
    import qt

    ui = panel.ui
    ui.querySelector.setCurrentNode(load(archive.uids[0]))
    for uid in archive.uids[1:3]:
        panel.logic.addReferenceNode(load(uid))
    panel.refresh()
    host.process_events(0.05)
    ui.applyButton.click()
    assert host.process_events(30, until=lambda: not panel.logic.isRunning())
    host.process_events(0.1)
    (tmp_path / "out").mkdir()
    qt.QFileDialog.planned.append(str(tmp_path / "out"))
    ui.exportSegmentationButton.click()
    assert ui.findingsMessage.text.startswith("Written to")
    assert [path.suffix for path in (tmp_path / "out").iterdir()] == [".dcm"]
