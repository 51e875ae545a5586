"""The whole story by clicks, with a made-up worker: choose, add, refuse, run, look, jump, export."""

import numpy as np
import pytest
from d24fadhost.clicks import LEFT, chooseInMenu, click, clickRow, clickTick, runToEnd, texts
from d24fadhost.fixtures import SCREENSHOTS, behaving, left_in
from PySide6 import QtCore, QtWidgets
from PySide6.QtTest import QTest


def test_an_empty_scene_says_what_to_do_first(panel, host, screenshot):
    host.process_events(0.1)
    assert not panel.ui.applyButton.enabled
    assert "Choose the study" in panel.ui.progressLabel.text
    assert "2 to 8 are advised" in panel.ui.referencesMessage.text
    assert panel.ui.aboutLabel.text == "No study chosen."
    assert "not a diagnosis" in panel.ui.researchLabel.text
    assert panel.ui.researchLabel.isVisible()
    screenshot(panel.parent, "1-empty")


def test_choosing_a_study_and_references(loaded, host, screenshot):
    panel, query, _references = loaded
    ui = panel.ui
    assert panel.logic.query() is query
    assert ui.planeSelector.itemText(0) == "As acquired (axial)"
    assert "40 × 48 × 20" in ui.aboutLabel.text
    assert not ui.applyButton.enabled
    chooseInMenu(ui.addLoadedButton, "Normal 1")
    assert texts(ui.referencesTable) == [["Normal 1", "Scene", "–", "20", "–", "Fits"]]
    assert "One reference works" in ui.referencesMessage.text
    assert ui.applyButton.enabled
    chooseInMenu(ui.addLoadedButton, "All of these")
    assert [row[0] for row in texts(ui.referencesTable)] == ["Normal 1", "Normal 2", "Normal 3"]
    assert not ui.referencesMessage.isVisible()
    # Untick all: no run without a reference.
    for row in range(3):
        clickTick(ui.referencesTable, row)
        host.process_events(0.05)
    assert [row.use for row in panel.logic.references()] == [False] * 3
    assert not ui.applyButton.enabled
    assert "tick it" in ui.applyButton.toolTip
    clickTick(ui.referencesTable, 1)
    host.process_events(0.05)
    assert ui.applyButton.enabled
    # Remove one.
    assert not ui.removeButton.enabled
    clickRow(ui.referencesTable, 0)
    click(ui.removeButton)
    assert [row[0] for row in texts(ui.referencesTable)] == ["Normal 2", "Normal 3"]
    screenshot(panel.parent, "2-references")


def test_references_that_do_not_fit_are_marked_and_refused(loaded, host, volumes, screenshot, tmp_path):
    import qt

    panel, _query, _references = loaded
    ui = panel.ui
    sagittal = np.array([[0, 0, 1], [-1, 0, 0], [0, -1, 0]], float)
    volumes.add("Knee", volumes.grid(sagittal))
    chooseInMenu(ui.addLoadedButton, "Normal 1")
    chooseInMenu(ui.addLoadedButton, "Knee")
    knee = ui.referencesTable.item(1, 5)
    assert knee.text() == "Check"
    assert "Orientation: the study is axial, this is sagittal." in knee.toolTip()
    broken = tmp_path / "broken.nrrd"
    broken.write_text("no image")
    qt.QFileDialog.planned.append([str(broken)])
    click(ui.addFilesButton)
    assert host.process_events(5, until=lambda: not panel.logic.isAdding())
    assert "broken.nrrd is no image that can be read." in ui.referencesMessage.text
    assert len(panel.logic.references()) == 2
    click(ui.addDicomButton)
    assert host.process_events(5, until=lambda: not panel.logic.isAdding())
    assert "DICOM browser" in ui.referencesMessage.text
    qt.QFileDialog.planned.append("")  # a cancelled dialog changes nothing
    click(ui.addFolderButton)
    assert len(panel.logic.references()) == 2
    screenshot(panel.parent, "3-unfit")


def test_an_unsuitable_reference_stops_the_run_unless_one_goes_on_anyway(loaded, host, volumes, quiet_log):
    panel, _query, _references = loaded
    ui = panel.ui
    small = volumes.add("Wrist", volumes.grid(spacing=(0.4, 0.4, 4.0)))
    chooseInMenu(ui.addLoadedButton, "Wrist")
    assert ui.referencesTable.item(0, 5).text() == "Unsuitable"
    assert not ui.applyButton.enabled
    assert ui.progressLabel.text.startswith("Wrist is not suitable: Field of view: the study covers")
    ui.advancedButton.collapsed = False
    host.process_events(0.05)
    click(ui.anywayCheckBox)
    assert ui.applyButton.enabled
    runToEnd(panel, host)
    assert "candidate" in ui.countLabel.text
    # ... but what is gone cannot be compared, whatever one ticks.
    import slicer

    slicer.mrmlScene.RemoveNode(small)
    host.process_events(0.05)
    assert ui.referencesTable.item(0, 5).text() == "Missing"
    assert not ui.applyButton.enabled


def test_a_reference_set_is_saved_and_loaded_by_clicks(loaded, host, tmp_path):
    import qt
    import SimpleITK as sitk

    panel, _query, _references = loaded
    ui = panel.ui
    for name in ("a.nrrd", "b.nrrd"):
        image = sitk.GetImageFromArray(np.ones((20, 48, 40), np.int16))
        image.SetSpacing((2.0, 2.0, 4.0))
        sitk.WriteImage(image, str(tmp_path / name))
    qt.QFileDialog.planned.append([str(tmp_path / "a.nrrd"), str(tmp_path / "b.nrrd")])
    click(ui.addFilesButton)
    assert host.process_events(5, until=lambda: not panel.logic.isAdding())
    assert [row[1] for row in texts(ui.referencesTable)] == ["File", "File"]

    def name():
        dialog = next(
            w for w in QtWidgets.QApplication.topLevelWidgets() if w.objectName == "D24FADNameDialog"
        )
        edit = dialog.findChild(QtWidgets.QLineEdit)
        QTest.keyClicks(edit, "Brain T1")
        QTest.keyClick(edit, QtCore.Qt.Key_Return)

    QtCore.QTimer.singleShot(50, name)
    click(ui.saveSetButton)
    assert "Saved as Brain T1" in ui.referencesMessage.text
    panel.logic.removeReferences([row.key for row in panel.logic.references()])
    (tmp_path / "b.nrrd").unlink()
    chooseInMenu(ui.loadSetButton, "Brain T1")
    assert host.process_events(5, until=lambda: not panel.logic.isAdding())
    assert [row[5] for row in texts(ui.referencesTable)] == ["Fits", "Missing"]
    assert "b.nrrd is gone" in ui.referencesMessage.text


def test_a_folder_is_added_and_cancelled_by_clicks(loaded, host, tmp_path, screenshot, quiet_log):
    import qt

    pytest.importorskip("pydicom")
    from dicom_factory import SeriesSpec, phantom, write_many, write_series

    panel, _query, _references = loaded
    ui = panel.ui
    folder = tmp_path / "a folder of a normal study, with a name that is much too long for the line"
    write_many(folder, 9000)
    qt.QFileDialog.planned.append(str(folder))
    click(ui.addFolderButton)
    assert host.process_events(20, until=lambda: ui.addingProgressBar.maximum > 0)
    assert ui.addingWidget.isVisible()
    assert ui.addingLabel.text.startswith("Reading a folder of a normal")
    # The panel stays usable: another reference, and then Cancel.
    chooseInMenu(ui.addLoadedButton, "Normal 1")
    screenshot(panel.parent, "3-folder")
    click(ui.addingCancelButton)
    assert not ui.addingWidget.isVisible()
    assert ui.referencesMessage.text.startswith("Cancelled.")
    assert [row[0] for row in texts(ui.referencesTable)] == ["Normal 1"]
    write_series(tmp_path / "normal", SeriesSpec(phantom(20), spacing=(2.0, 2.0, 4.0)))
    qt.QFileDialog.planned.append(str(tmp_path / "normal"))
    click(ui.addFolderButton)
    assert host.process_events(20, until=lambda: not panel.logic.isAdding())
    assert not ui.addingWidget.isVisible()
    assert texts(ui.referencesTable)[1][:4] == ["normal", "Folder", "MR", "20"]


def test_running_looking_jumping_exporting(loaded, host, temp, screenshot, tmp_path, quiet_log):
    import qt
    import slicer

    panel, query, _references = loaded
    ui = panel.ui
    chooseInMenu(ui.addLoadedButton, "All of these")
    panel.logic.workerArguments = behaving("slow:0.12")
    click(ui.applyButton)
    assert ui.applyButton.text == "Cancel"
    assert host.process_events(10, until=lambda: "left" in ui.progressLabel.text)
    assert ui.progressLabel.text.startswith("Comparing slices · ")
    assert " of 20 · a few seconds left" in ui.progressLabel.text
    assert ui.progressBar.isVisible()
    assert 0 < ui.progressBar.value < 1000
    screenshot(panel.parent, "4-running")
    assert host.process_events(20, until=lambda: not panel.logic.isRunning())
    host.process_events(0.1)
    assert ui.applyButton.text == "Find anomalies"
    assert left_in(temp) == []
    assert ui.countLabel.text == "1 candidate above 6.00 SD."
    assert texts(ui.referencesTable)[0][4:] == ["0.50", "Stands out"]
    assert ui.thresholdNote.text.startswith("Here, a normal study has at most 1 false finding on average")
    assert not ui.findingLabel.isVisible()

    # A click on a finding moves the views and marks its slice.
    clickRow(ui.findingsTable, 0)
    finding = panel.logic.results().findings[0]
    node = slicer.app.layoutManager().sliceWidget("Red").mrmlSliceNode()
    offset = [node.GetSliceToRAS().GetElement(row, 3) for row in range(3)]
    assert offset[2] == pytest.approx(finding.peakPlace[2], abs=0.1)
    assert panel.logic.currentSlice() == finding.slice
    # The row stays selected whatever else happens in the scene.
    slicer.mrmlScene.AddNewNodeByClass("vtkMRMLTextNode", "Note")
    host.process_events(0.05)
    assert [index.row() for index in ui.findingsTable.selectionModel().selectedRows()] == [0]
    segmentation = panel.logic.results().node("Segmentation").GetDisplayNode()
    assert segmentation.GetSegmentOpacity2DFill("candidate_001") == 1.0

    # ... which references it was judged against is told.
    judged = "Slice 10 was judged against Normal 1 (0.50), Normal 2 (0.33), Normal 3 (0.17)."
    assert ui.findingLabel.text == judged
    assert ui.findingLabel.isVisible()

    # A click into the plot goes to that slice.
    plot = ui.plotFrame.findChild(QtWidgets.QWidget, "scorePlot")
    click(plot, QtCore.QPoint(plot.xOf(4), 60))
    assert panel.logic.currentSlice() == 4
    assert plot._current == 4

    # Layers and opacity.
    composite = slicer.app.layoutManager().sliceWidget("Red").sliceLogic().GetSliceCompositeNode()
    assert composite.GetForegroundVolumeID() == panel.logic.results().node("Map").GetID()
    names = [ui.layerSelector.itemText(index) for index in range(ui.layerSelector.count)]
    assert names == ["Anomaly map", *(f"Weight of Normal {n}" for n in (1, 2, 3)), "Expected normal", "None"]
    ui.layerSelector.setCurrentIndex(2)
    assert composite.GetForegroundVolumeID() == panel.logic.results().weightNodes()[1].GetID()
    ui.opacitySlider.value = 0.3
    assert composite.GetForegroundOpacity() == pytest.approx(0.3)
    ui.layerSelector.setCurrentIndex(0)

    # The threshold, live.
    ui.thresholdSlider.value = 1000
    host.process_events(0.1)
    assert ui.countLabel.text.startswith("No candidate above")
    assert ui.findingsTable.rowCount == 0
    assert ui.thresholdNote.text.startswith("At 6.00, a normal study has at most 1 false finding")
    assert not ui.findingLabel.isVisible()
    ui.thresholdSlider.value = 6.0
    host.process_events(0.1)
    assert ui.findingsTable.rowCount == 1
    clickRow(ui.findingsTable, 0)
    screenshot(panel.parent, "5-findings")

    # Export.
    for button, name in (
        (ui.exportFindingsButton, "f.csv"),
        (ui.exportMapButton, "m.nrrd"),
        (ui.exportSegmentationButton, "s.seg.nrrd"),
    ):
        qt.QFileDialog.planned.append(str(tmp_path / name))
        click(button)
        assert (tmp_path / name).stat().st_size > 50
        assert name in ui.findingsMessage.text
    assert "Study" not in panel.ui.findingsMessage.text
    assert slicer.mrmlScene.GetFirstNodeByName("Study") is query


@pytest.mark.parametrize("mode", ["kill", "nonsense", "memory"])
def test_a_dying_worker_leaves_a_message_and_a_usable_panel(loaded, host, temp, mode, screenshot, quiet_log):
    panel, _query, _references = loaded
    ui = panel.ui
    chooseInMenu(ui.addLoadedButton, "All of these")
    panel.logic.workerArguments = behaving(mode)
    runToEnd(panel, host)
    assert ui.runMessage.isVisible()
    assert ui.applyButton.text == "Find anomalies"
    assert ui.applyButton.enabled
    assert left_in(temp) == []
    if mode == "kill":
        assert "smaller batch" in ui.runMessage.text
        screenshot(panel.parent, "6-crashed")
    panel.logic.workerArguments = behaving("well")
    runToEnd(panel, host)
    assert "candidate" in ui.countLabel.text


def test_a_temporary_folder_that_is_gone_is_said_in_the_panel(loaded, host, temp, quiet_log):
    panel, _query, _references = loaded
    ui = panel.ui
    chooseInMenu(ui.addLoadedButton, "All of these")
    panel.logic.tempFolder = str(temp / "gone")
    click(ui.applyButton)
    assert "temporary folder cannot be used (No such file or directory)" in ui.runMessage.text
    assert ui.applyButton.text == "Find anomalies"
    assert not ui.progressBar.isVisible()
    panel.logic.tempFolder = str(temp)
    runToEnd(panel, host)
    assert "candidate" in ui.countLabel.text


def test_cancel_by_click(loaded, host, temp):
    panel, _query, _references = loaded
    chooseInMenu(panel.ui.addLoadedButton, "Normal 1")
    panel.logic.workerArguments = behaving("stubborn")
    click(panel.ui.applyButton)
    assert host.process_events(10, until=lambda: "Comparing" in panel.ui.progressLabel.text)
    host.process_events(0.3)
    click(panel.ui.applyButton)
    assert panel.ui.progressLabel.text == "Cancelling..."
    assert host.process_events(1.0, until=lambda: not panel.logic.isRunning())
    assert panel.ui.applyButton.text == "Find anomalies"
    assert "Cancelled" in panel.ui.runMessage.text
    assert left_in(temp) == []


def test_apply_pressed_twice_quickly_runs_and_cancels_once(loaded, host, temp, quiet_log):
    panel, _query, _references = loaded
    chooseInMenu(panel.ui.addLoadedButton, "Normal 1")
    QTest.mouseDClick(panel.ui.applyButton, LEFT)
    QTest.mouseClick(panel.ui.applyButton, LEFT)
    assert host.process_events(20, until=lambda: not panel.logic.isRunning())
    host.process_events(0.2)
    assert left_in(temp) == []
    assert panel.ui.applyButton.text == "Find anomalies"


@pytest.mark.parametrize("what", ["scene", "query", "reference"])
def test_the_scene_changes_while_it_runs(loaded, host, temp, what, quiet_log):
    import slicer

    panel, query, references = loaded
    chooseInMenu(panel.ui.addLoadedButton, "All of these")
    panel.logic.workerArguments = behaving("slow:0.1")
    click(panel.ui.applyButton)
    assert host.process_events(10, until=lambda: "Comparing" in panel.ui.progressLabel.text)
    if what == "scene":
        slicer.mrmlScene.Clear(False)
    else:
        slicer.mrmlScene.RemoveNode(query if what == "query" else references[0])
    assert host.process_events(5, until=lambda: not panel.logic.isRunning())
    assert "was" in panel.ui.runMessage.text
    assert "detector was running" in panel.ui.runMessage.text
    assert left_in(temp) == []
    assert panel.ui.applyButton.text == "Find anomalies"


def test_reload_brings_the_parts_anew(panel, module, host):
    """Developer mode's Reload, as far as the host goes: the parts are forgotten, the old panel is silent."""
    import sys

    import slicer

    before = sys.modules["D24FADParts.api"]
    reloaded = []
    slicer.util.reloadScriptedModule = reloaded.append
    kept = {name: part for name, part in sys.modules.items() if name.startswith("D24FADParts")}
    try:
        panel.onReload()
        assert reloaded == ["D24FAD"]
        import D24FADParts.api

        assert D24FADParts.api is not before
    finally:
        for name in [name for name in sys.modules if name.startswith("D24FADParts")]:
            del sys.modules[name]
        sys.modules.update(kept)


def test_missing_packages_are_asked_for_first(loaded, host, screenshot):
    import qt
    from D24FADParts import dependencies

    panel, _query, _references = loaded
    chooseInMenu(panel.ui.addLoadedButton, "All of these")
    missing = [dependencies.Package("torch", "no_such_torch", "torch>=2.1", 220)]
    panel.logic.missingPackages = lambda: missing
    panel.logic.helpfulPackages = lambda: [dependencies.FASTER]
    host.answers.append(qt.QMessageBox.Cancel)
    host.picture = str(SCREENSHOTS / "11-install.png")
    click(panel.ui.applyButton)
    host.picture = ""
    assert "torch, about 220 MB" in host.messages[0]
    assert "openvino, about 60 MB (optional" in host.messages[0]
    assert host.buttons[0] == ["Install", "Cancel"]
    assert "numpy and SimpleITK are not touched" in host.messages[0]
    assert "Nothing was installed" in panel.ui.runMessage.text
    assert not panel.logic.isRunning()
    asked = []

    def install(packages, folder):
        asked.append((packages, folder))
        missing.clear()
        return "The PyTorch extension could not install torch."

    panel.logic.installPackages = install
    panel.ui.wheelFolderEdit.currentPath = "/wheels"
    host.answers.append(qt.QMessageBox.Ok)
    runToEnd(panel, host)
    assert [package.name for package in asked[0][0]] == ["torch", "openvino"]
    assert asked[0][1] == "/wheels"
    assert panel.ui.runMessage.text == "The PyTorch extension could not install torch."
    assert "candidate" in panel.ui.countLabel.text
    panel.ui.wheelFolderEdit.currentPath = ""


def wheels():
    import slicer

    return slicer.app.userSettings().value("D24FAD/WheelFolder", "")


def test_advanced_settings_reach_the_worker(loaded, host, screenshot):
    panel, _query, _references = loaded
    ui = panel.ui
    chooseInMenu(ui.addLoadedButton, "All of these")
    seen = []
    well = behaving("well")
    panel.logic.workerArguments = lambda *arguments: (seen.append(arguments[3]), well(*arguments))[1]
    ui.advancedButton.collapsed = False
    host.process_events(0.1)
    ui.deviceSelector.setCurrentIndex(1)
    ui.alignSelector.setCurrentIndex(3)
    ui.planeSelector.setCurrentIndex(2)
    ui.batchSpinBox.setValue(4)
    ui.budgetSpinBox.setValue(0.5)
    click(ui.dropOutliersCheckBox)
    click(ui.anywayCheckBox)
    screenshot(panel.parent, "7-advanced")
    runToEnd(panel, host)
    assert (seen[0].device, seen[0].align, seen[0].plane, seen[0].batch) == ("cpu", "rigid", "coronal", 4)
    assert seen[0].false_positives_per_study == 0.5
    assert (seen[0].drop_outliers, seen[0].unsuitable_anyway) == (True, True)


def test_advanced_settings_are_typed_and_emptied(panel, host):
    """What is typed stays as it is typed, and an emptied path is the default again."""
    from D24FADParts import settings

    ui = panel.ui
    ui.advancedButton.collapsed = False
    host.process_events(0.1)

    def options():
        return settings.options(panel.logic.getParameterNode())

    field = ui.modelPathEdit.findChild(QtWidgets.QLineEdit)
    QTest.keyClicks(field, "/ms")
    field.setCursorPosition(2)
    QTest.keyClicks(field, "odel")
    assert options().model == "/models"
    for edit, saved in ((ui.modelPathEdit, lambda: options().model), (ui.wheelFolderEdit, wheels)):
        field = edit.findChild(QtWidgets.QLineEdit)
        field.selectAll()
        QTest.keyClicks(field, "/a")
        assert saved() == "/a"
        field.selectAll()
        QTest.keyClick(field, QtCore.Qt.Key_Delete)
        assert saved() == ""
        panel.refresh()
        assert edit.currentPath == ""
        assert edit.filters == 0x001
    for box, keys, name in (
        (ui.budgetSpinBox, "2.5", "false_positives_per_study"),
        (ui.batchSpinBox, "12", "batch"),
    ):
        box.selectAll()
        QTest.keyClicks(box, keys)
        assert getattr(options(), name) == float(keys)
