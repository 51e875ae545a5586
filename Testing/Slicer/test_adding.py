"""Folders, files and series as references: in turns and by a process, to be stopped at any time."""

import os
import signal
import time
import types

import numpy as np
import pytest
import SimpleITK as sitk

pytest.importorskip("pydicom")

from d24fadhost import dicom
from d24fadhost.fixtures import alive
from dicom_factory import SeriesSpec, phantom, write_many, write_series

from D24FADLib.errors import InputError
from D24FADLib.references.suitability import Kind
from D24FADLib.worker import processes


class Told:
    """The callbacks of an adding, noted."""

    def __init__(self):
        self.progress, self.ended = [], []

    def onAdding(self, *said):
        self.progress.append(said)

    def onAdded(self, problems):
        self.ended.append(problems)


def saved(path, compress=False):
    image = sitk.GetImageFromArray(np.random.default_rng(0).integers(0, 99, (20, 48, 40)).astype(np.int16))
    image.SetSpacing((2.0, 2.0, 4.0))
    sitk.WriteImage(image, str(path), compress)
    return str(path)


@pytest.fixture
def slow_folder(tmp_path):
    """So many files that several processes read them."""
    write_many(tmp_path / "slow", 9000)
    return str(tmp_path / "slow")


def until(host, condition, seconds=60):
    assert host.process_events(seconds, until=condition)


def test_a_dicom_folder_is_read_by_a_process(logic, host, tmp_path, quiet_log):
    spec = SeriesSpec(phantom(60), spacing=(2.0, 2.0, 4.0))
    write_series(tmp_path / "normal", spec)
    told = Told()
    assert logic.addReferenceFolder(str(tmp_path / "normal"), told) == []
    adding = logic.currentAdding()
    assert logic.isAdding()
    assert logic.references() == []
    until(host, lambda: adding.pids)
    pids = adding.pids
    assert os.getpid() not in pids
    until(host, lambda: told.ended)
    assert told.ended == [[]]
    assert ("normal", 60, 60) in told.progress
    assert not logic.isAdding()
    (row,) = logic.references()
    assert (row.name, row.modality, row.slices) == ("normal", "MR", 60)
    assert logic.referenceSource(row.key) == "Folder"
    assert not any(alive(pid) for pid in pids)


def test_a_folders_traits_are_judged_and_saved_with_the_scene(logic, volumes, tmp_path):
    import slicer

    logic.setQuery(volumes.study()[0])
    write_series(tmp_path / "small", SeriesSpec(phantom(4), spacing=(1.0, 1.0, 4.0)))
    row = logic.addReferencePath(str(tmp_path / "small"))
    before = logic.referenceProblems(row.key)
    assert Kind.COVERAGE in [reason.kind for reason in before]
    slicer.mrmlScene.SetURL(str(tmp_path / "scene.mrml"))
    slicer.mrmlScene.Commit()
    slicer.mrmlScene.Clear(False)
    slicer.mrmlScene.Import()
    assert logic.references() == [row]
    logic.setQuery(volumes.study()[0])
    assert logic.referenceProblems(row.key) == before


def test_what_is_no_single_series_is_said(logic, tmp_path):
    for name in ("first", "second"):
        write_series(tmp_path / "two" / name, SeriesSpec(phantom(3)))
    (tmp_path / "none").mkdir()
    (tmp_path / "none" / "readme.txt").write_text("x")
    (problem,) = logic.addReferenceFolder(str(tmp_path / "two"))
    assert problem.startswith("two holds 2 DICOM series. Import it")
    (problem,) = logic.addReferenceFolder(str(tmp_path / "none"))
    assert problem == "none holds no images that can be read."
    (problem,) = logic.addReferenceFolder(str(tmp_path / "gone"))
    assert problem == "gone cannot be read."
    assert logic.references() == []
    with pytest.raises(InputError, match="2 DICOM series"):
        logic.addReferencePath(str(tmp_path / "two"))


def test_segmentations_are_left_out_of_a_folder(logic, volumes, tmp_path):
    """By their names, as Slicer tells label maps, and by what Slicer writes into their headers."""
    import slicer

    query, references = volumes.study()
    logic.setQuery(query)
    for node in references:
        logic.addReferenceNode(node)
    logic.detect()
    folder = tmp_path / "normals"
    folder.mkdir()
    logic.exportSegmentation(str(folder / "lesion.seg.nrrd"))
    (folder / "renamed.nrrd").write_bytes((folder / "lesion.seg.nrrd").read_bytes())
    saved(folder / "brain-label.nii.gz")
    saved(folder / "a.nii.gz")
    slicer.mrmlScene.Clear(False)
    problems = logic.addReferenceFolder(str(folder))
    assert problems == [
        "Left out as segmentations, by their names: brain-label.nii.gz, lesion.seg.nrrd.",
        "renamed.nrrd: a segmentation, not an image. Give the image that it was drawn on.",
    ]
    assert [row.name for row in logic.references()] == ["a.nii.gz"]
    # Where all are, the folder is not taken for one of DICOM files either.
    (folder / "a.nii.gz").unlink()
    (folder / "renamed.nrrd").unlink()
    (problem,) = logic.addReferenceFolder(str(folder))
    assert problem.startswith("Left out")
    # Chosen by hand, it is refused as well.
    with pytest.raises(InputError, match="segmentation"):
        logic.addReferencePath(str(folder / "lesion.seg.nrrd"))


@pytest.mark.parametrize("how", ["cancel", "scene", "again", "leave"])
def test_it_can_be_ended_at_any_time(logic, host, slow_folder, tmp_path, quiet_log, how):
    import slicer

    saved(tmp_path / "b.nrrd")
    told, then = Told(), Told()
    logic.addReferenceFolder(slow_folder, told)
    adding = logic.currentAdding()
    until(host, lambda: any(total for _name, _done, total in told.progress))
    pids = {child for pid in adding.pids for child in (pid, *processes.descendants(pid))}
    assert len(pids) > 1
    assert all(alive(pid) for pid in pids)
    if how == "cancel":
        logic.stopAdding("Cancelled.")
        assert told.ended == [["Cancelled."]]
    elif how == "scene":
        slicer.mrmlScene.Clear(False)
        assert told.ended == [["The scene was closed before all references were added."]]
    elif how == "again":
        logic.addReferencePaths([str(tmp_path / "b.nrrd")], then)
        until(host, lambda: then.ended)
        assert told.ended == then.ended
        assert "ended before" in then.ended[0][0]
    else:
        logic.abandonAdding()
        assert told.ended == []
    until(host, lambda: not any(alive(pid) for pid in pids), 3)
    many = len(told.progress)
    host.process_events(0.3)
    assert len(told.progress) == many
    assert not logic.isAdding()
    assert [row.name for row in logic.references()] == (["b.nrrd"] if how == "again" else [])


def test_a_scan_that_dies_is_said(logic, host, slow_folder, quiet_log):
    told = Told()
    logic.addReferenceFolder(slow_folder, told)
    adding = logic.currentAdding()
    until(host, lambda: told.progress and told.progress[-1][2])
    for pid in adding.pids:
        os.kill(pid, signal.SIGKILL)
    until(host, lambda: told.ended)
    assert "ended unexpectedly" in told.ended[0][0]


def test_a_python_that_cannot_be_started(logic, tmp_path, monkeypatch, quiet_log):
    from D24FADParts import workerprocess

    monkeypatch.setattr(workerprocess, "pythonExecutable", lambda: "/no/such/python")
    write_series(tmp_path / "normal", SeriesSpec(phantom(3)))
    (problem,) = logic.addReferenceFolder(str(tmp_path / "normal"))
    assert problem.startswith("normal cannot be read: Slicer's Python could not be started.")


def test_the_gui_thread_is_free_while_a_folder_is_read(logic, host, tmp_path):
    write_many(tmp_path / "many", 3000)
    told, turns = Told(), 0
    logic.addReferenceFolder(str(tmp_path / "many"), told)
    while not told.ended:
        host.application.processEvents()
        turns += 1
        time.sleep(0.001)
    assert told.ended == [[]] or "holds" in told.ended[0][0]
    assert turns > 100


@pytest.fixture
def archive(host, module, tmp_path, monkeypatch):
    """Three series of the DICOM database, selected in its browser."""
    import slicer
    from D24FADParts import tags

    tags._tagsCache.clear()
    database = dicom.install(monkeypatch)
    specs = [SeriesSpec(phantom(6)) for _number in range(3)]
    for number, spec in enumerate(specs):
        for path in write_series(tmp_path / f"series{number}", spec):
            database.insert(str(path))
    uids = [spec.series_uid for spec in specs]
    widget = types.SimpleNamespace(browserWidget=dicom.DicomBrowser(uids))
    monkeypatch.setattr(slicer.modules, "DICOMWidget", widget, raising=False)
    return uids


def test_series_are_loaded_one_a_turn(logic, host, archive, monkeypatch):
    import DICOMLib
    import slicer

    turn, loaded = [0], []
    load = DICOMLib.DICOMUtils.loadSeriesByUID

    def noted(uids):
        loaded.append(turn[0])
        made = load(uids)
        time.sleep(0.03)  # longer than a turn lasts
        return made

    monkeypatch.setattr(DICOMLib.DICOMUtils, "loadSeriesByUID", noted)
    told = Told()
    logic.addReferencesFromDicomSelection(told)
    assert slicer.util.getNodesByClass("vtkMRMLScalarVolumeNode") == []
    while not told.ended:
        host.application.processEvents()
        turn[0] += 1
    assert told.ended == [[]]
    assert len(set(loaded)) == 3
    assert [row.seriesUid for row in logic.references()] == archive


def test_it_can_be_ended_from_within_slicers_loader(logic, host, archive, monkeypatch, quiet_log):
    """The loader shows its progress in event loops of its own, where Cancel may be pressed."""
    import DICOMLib

    load = DICOMLib.DICOMUtils.loadSeriesByUID

    def pressed(uids):
        made = load(uids)
        logic.stopAdding("Cancelled.")
        host.application.processEvents()
        return made

    monkeypatch.setattr(DICOMLib.DICOMUtils, "loadSeriesByUID", pressed)
    told = Told()
    logic.addReferencesFromDicomSelection(told)
    host.process_events(0.3)
    assert told.ended == [["Cancelled."]]
    assert logic.references() == []
    assert not logic.isAdding()


def test_a_loader_that_raises_costs_its_series_only(logic, archive, monkeypatch, caplog):
    import DICOMLib

    load = DICOMLib.DICOMUtils.loadSeriesByUID

    def raising(uids):
        if uids == [archive[1]]:
            raise ValueError("Quillfeather.dcm")
        return load(uids)

    monkeypatch.setattr(DICOMLib.DICOMUtils, "loadSeriesByUID", raising)
    assert logic.addReferencesFromDicomSelection() == ["DICOM series could not be loaded (ValueError)."]
    assert len(logic.references()) == 2
    assert "Quillfeather" not in caplog.text


def test_a_set_with_a_folder_comes_back(logic, tmp_path):
    write_series(tmp_path / "one", SeriesSpec(phantom(4)))
    write_series(tmp_path / "two", SeriesSpec(phantom(4)))
    for name in ("one", "two"):
        logic.addReferencePath(str(tmp_path / name))
    rows = logic.references()
    logic.saveReferenceSet("Folders")
    for path in (tmp_path / "two").iterdir():
        path.unlink()
    (problem,) = logic.loadReferenceSet("Folders")
    assert problem == "two holds no images that can be read."
    again = logic.references()
    assert (again[0].name, again[0].traits, again[0].use) == ("one", rows[0].traits, True)
    assert (again[1].name, again[1].slices, again[1].use) == ("two", 0, False)
