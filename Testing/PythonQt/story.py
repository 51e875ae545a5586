"""The panel in a real PythonQt, with real ctk widgets: run by test_pythonqt.py, ends with "passed"."""

import gc
import os
import sys
import traceback
from pathlib import Path

sys.path.insert(0, os.environ["D24FAD_STORY_FOLDER"])

import stand_in
from stand_in import ROOT, descendants, qt, turn

stand_in.start()

import numpy as np  # noqa: E402
import slicer  # noqa: E402
from D24FADParts import sampledata, settings, workerprocess  # noqa: E402
from D24FADParts.folderscan import FolderScan  # noqa: E402
from D24FADParts.panel import dialogs  # noqa: E402
from D24FADParts.run import Run  # noqa: E402
from D24FADParts.steps import Steps  # noqa: E402
from dicom_factory import SeriesSpec, phantom, write_many, write_series  # noqa: E402

import D24FAD  # noqa: E402

WORKER = str(ROOT / "Testing" / "Host" / "workers" / "fake_worker.py")
PYTHON = os.environ["D24FAD_STORY_PYTHON"]
raised = []


def hook(kind, value, trace):
    raised.append(f"{kind.__name__}: {value}")
    traceback.print_exception(kind, value, trace)


sys.excepthook = hook  # PythonQt prints what a slot raises, by this


def behaving(mode):
    return lambda query, supports, output, _options: [WORKER, mode, query, output, *supports]


def volume(name, seed, lesion=False):
    random = np.random.default_rng(seed)
    array = np.zeros((20, 48, 40))
    array[2:-2, 6:-6, 6:-6] = 500 + 10 * random.standard_normal((16, 36, 28))
    if lesion:
        array[8:12, 20:26, 15:21] += 400
    matrix = np.diag([-2.0, -2.0, 4.0, 1.0])
    matrix[:3, 3] = 40, 48, -40
    return slicer.util.addVolumeFromArray(array.astype(np.int16), ijkToRAS=matrix, name=name)


def texts(table):
    return [[table.item(row, c).text() for c in range(table.columnCount)] for row in range(table.rowCount)]


def in_dialog(act):
    """What a hand does in the dialog that is going to be open."""
    qt.QTimer.singleShot(200, lambda: act(qt.QApplication.activeModalWidget()))


def part(dialog, name):
    return next(child for child in descendants(dialog) if child.name == name)


def type_file(name):
    def act(dialog):
        part(dialog, "fileNameEdit").text = name
        part(dialog, "buttonBox").buttons()[0].click()

    in_dialog(act)


def choose(button, text):
    menu = button.menu()
    menu.popup(qt.QPoint(0, 0))
    turn()
    next(action for action in menu.actions() if action.text == text).trigger()
    menu.close()
    turn()


def run_to_end(panel, mode):
    panel.logic.workerArguments = behaving(mode)
    panel.ui.applyButton.click()
    assert panel.logic.isRunning()
    assert turn(30, lambda: not panel.logic.isRunning())
    turn()
    return panel.ui.runMessage.text


def a_study_and_its_references(panel):
    ui = panel.ui
    query = volume("Study", 100, lesion=True)
    references = [volume(f"Normal {number} & co", number) for number in (1, 2, 3)]
    ui.querySelector.refresh()
    turn()
    assert panel.logic.query() is query
    assert ui.planeSelector.itemText(0) == "As acquired (axial)"
    ui.querySelector.setCurrentNode(references[0])
    assert panel.logic.query() is references[0]
    ui.querySelector.setCurrentNode(query)
    choose(ui.addLoadedButton, "All of these")
    table = ui.referencesTable
    assert [row[0] for row in texts(table)] == [node.GetName() for node in references]
    assert {row[5] for row in texts(table)} == {"Fits"}
    for state, used in ((qt.Qt.Unchecked, False), (qt.Qt.Checked, True)):
        table.item(0, 0).setCheckState(state)
        turn()
        assert panel.logic.references()[0].use is used
    table.selectRow(1)
    ui.removeButton.click()
    turn()
    assert table.rowCount == 2


def a_run_and_its_findings(panel):
    ui = panel.ui
    assert "Done" in run_to_end(panel, "well")
    assert "1 candidate" in ui.countLabel.text
    assert texts(ui.findingsTable)[0][0] == "1"
    threshold = ui.thresholdSlider.value
    ui.thresholdSlider.value = ui.thresholdSlider.maximum
    turn()
    assert "No candidate" in ui.countLabel.text
    ui.thresholdSlider.value = threshold
    turn()
    ui.findingsTable.selectRow(0)
    turn()
    assert "judged against" in ui.findingLabel.text
    assert str(panel.logic.currentSlice()) == texts(ui.findingsTable)[0][3]
    composite = slicer.mrmlScene.GetFirstNodeByClass("vtkMRMLSliceCompositeNode")
    shown = []
    for index in range(ui.layerSelector.count):
        ui.layerSelector.setCurrentIndex(index)
        shown.append(composite.GetForegroundVolumeID())
    assert len(set(shown)) == 5  # the map, two weights, the expected normal, nothing
    ui.opacitySlider.value = 0.3
    assert abs(composite.GetForegroundOpacity() - 0.3) < 1e-6
    clicked = []
    plot = panel.findings._plot
    plot._onSlice = clicked.append
    place = qt.QPointF(plot.width / 2, 60)
    press = qt.QEvent.MouseButtonPress
    event = qt.QMouseEvent(press, place, place, qt.Qt.LeftButton, qt.Qt.LeftButton, qt.Qt.NoModifier)
    stand_in.application.sendEvent(plot, event)
    assert len(clicked) == 1
    assert panel.parent.grab().save(os.path.join(slicer.app.temporaryPath, "panel.png"))  # it can be painted


def advanced_settings(panel):
    ui = panel.ui

    def options():
        return settings.options(panel.logic.getParameterNode())

    ui.advancedButton.collapsed = False
    turn()
    ui.deviceSelector.setCurrentIndex(1)
    ui.alignSelector.setCurrentIndex(3)
    ui.planeSelector.setCurrentIndex(2)
    ui.batchSpinBox.setValue(4)
    ui.budgetSpinBox.setValue(0.5)
    ui.dropOutliersCheckBox.click()
    ui.modelPathEdit.currentPath = "/a"
    found = options()
    assert (found.device, found.align, found.plane, found.batch) == ("cpu", "rigid", "coronal", 4)
    assert (found.false_positives_per_study, found.drop_outliers, found.model) == (0.5, True, "/a")
    ui.modelPathEdit.currentPath = ""
    assert options().model == ""
    for path in ("/a", ""):
        ui.wheelFolderEdit.currentPath = path
        assert slicer.app.userSettings().value("D24FAD/WheelFolder", "?") == path


def what_goes_wrong(panel):
    assert "memory ran out" in run_to_end(panel, "kill")
    assert "without a result" in run_to_end(panel, "nonsense")
    assert "is cut off" in run_to_end(panel, "cut")
    panel.logic.workerArguments = behaving("hang")
    panel.ui.applyButton.click()
    assert turn(10, lambda: "Comparing" in panel.ui.progressLabel.text)
    panel.ui.applyButton.click()
    assert turn(3, lambda: not panel.logic.isRunning())
    assert "Cancelled" in panel.ui.runMessage.text
    before = workerprocess.pythonExecutable
    workerprocess.pythonExecutable = lambda: "/no/such/python"
    assert "could not be started" in run_to_end(panel, "well")
    workerprocess.pythonExecutable = before


def nothing_is_kept(panel):
    turn(0.3)
    gc.collect()
    kinds = (Run, Steps, workerprocess.WorkerProcess)
    kept = [thing for thing in gc.get_objects() if isinstance(thing, kinds)]
    assert [thing for thing in kept if thing is not panel.logic.currentRun()] == []


def files_and_dialogs(panel):
    ui, folder = panel.ui, slicer.app.temporaryPath
    for button, name in (
        (ui.exportSegmentationButton, "a.seg.nrrd"),
        (ui.exportSegmentationButton, "a.nii.gz"),
        (ui.exportFindingsButton, "a.csv"),
        (ui.exportMapButton, "map.nii.gz"),
    ):
        type_file(os.path.join(folder, name))
        button.click()
        assert "Written" in ui.findingsMessage.text
        assert os.path.getsize(os.path.join(folder, name))

    def choose_nifti(dialog):
        for key in (qt.Qt.Key_Down, qt.Qt.Key_Up, qt.Qt.Key_Down):
            event = qt.QKeyEvent(qt.QEvent.KeyPress, key, qt.Qt.NoModifier)
            stand_in.application.sendEvent(part(dialog, "fileTypeCombo"), event)
        part(dialog, "buttonBox").buttons()[0].click()

    in_dialog(choose_nifti)
    ui.exportSegmentationButton.click()
    assert ui.findingsMessage.text.endswith("d24fad-candidates.nii.gz")
    assert os.path.getsize(os.path.join(folder, "d24fad-candidates.nii.gz"))
    type_file(os.path.join(folder, "map.nii.gz"))
    ui.addFilesButton.click()
    assert turn(10, lambda: not panel.logic.isAdding())
    assert texts(ui.referencesTable)[-1][:2] == ["map.nii.gz", "File"]
    type_file(folder)
    assert dialogs.openFolder(ui.addFolderButton, "") == folder
    panel.logic.referenceSetFolder = os.path.join(folder, "sets")
    ui.referencesTable.selectAll()
    ui.removeButton.click()
    panel.logic.addReferencePath(os.path.join(folder, "map.nii.gz"))
    panel.refresh()

    def name_it(dialog):
        part(dialog, "D24FADNameEdit").text = "mine"
        dialog.accept()

    in_dialog(name_it)
    ui.saveSetButton.click()
    assert panel.logic.referenceSets() == ["mine"]
    choose(ui.loadSetButton, "mine")
    assert turn(10, lambda: not panel.logic.isAdding())
    assert texts(ui.referencesTable)[0][0] == "map.nii.gz"
    for button, answer in ((qt.QMessageBox.Cancel, False), (qt.QMessageBox.Ok, True)):
        in_dialog(lambda dialog, button=button: dialog.button(button).click())
        assert dialogs.confirmInstall(ui.applyButton, "Install?") is answer


def a_folder_of_dicom(panel):
    """Read by a process: it is listed, cancelled, and ended with the scene."""
    ui, folder = panel.ui, os.path.join(slicer.app.temporaryPath, "dicom")
    write_series(Path(folder), SeriesSpec(phantom(20)))
    before = ui.referencesTable.rowCount
    type_file(folder)
    ui.addFolderButton.click()
    assert panel.logic.isAdding()
    assert turn(30, lambda: not panel.logic.isAdding())
    turn()
    assert texts(ui.referencesTable)[before][:4] == ["dicom", "Folder", "MR", "20"]
    folder = os.path.join(slicer.app.temporaryPath, "many")
    write_many(Path(folder), 6000)
    ui.referencesTable.selectRow(before)
    ui.removeButton.click()
    turn()
    for end, said in (
        (ui.addingCancelButton.click, "Cancelled."),
        (lambda: slicer.mrmlScene.Clear(False), "The scene was closed"),
    ):
        type_file(folder)
        ui.addFolderButton.click()
        assert turn(30, lambda: ui.addingProgressBar.maximum > 100)
        assert ui.addingWidget.isVisible()
        end()
        turn()
        assert said in ui.referencesMessage.text
        assert not ui.addingWidget.isVisible()
    type_file(folder)
    ui.addFolderButton.click()
    assert turn(30, lambda: panel.logic.currentAdding().pids)


def the_demo(_panel):
    sampledata.startLoading()
    assert turn(20, lambda: slicer.mrmlScene.GetFirstNodeByName("D24FADNormal4"))
    turn()
    assert not sampledata._loading
    slicer.mrmlScene.Clear(False)
    turn()


def the_end(panel):
    assert panel.logic.isAdding()
    turn(0.3)
    assert "Run Find anomalies" in panel.ui.countLabel.text
    adding = panel.logic.currentAdding()
    panel.cleanup()
    assert not adding.active
    turn(0.3)
    gc.collect()
    kinds = (Steps, FolderScan, workerprocess.WorkerProcess)
    kept = [thing for thing in gc.get_objects() if isinstance(thing, kinds)]
    assert kept == [adding._steps], kept


def main():
    panel = D24FAD.D24FADWidget()
    panel.parent.resize(430, 1200)
    panel.logic.missingPackages = panel.logic.helpfulPackages = list
    workerprocess.pythonExecutable = lambda: PYTHON
    for chapter in (
        a_study_and_its_references,
        a_run_and_its_findings,
        advanced_settings,
        what_goes_wrong,
        nothing_is_kept,
        files_and_dialogs,
        the_demo,
        a_folder_of_dicom,
        the_end,
    ):
        print(chapter.__name__, flush=True)
        chapter(panel)
        assert not raised, raised

    D24FAD.D24FADLogic.missingPackages = lambda _self: ["the detector's part is passed over"]
    D24FAD.D24FADTest().runTest()
    assert not raised, raised

    print("passed", flush=True)


main()
