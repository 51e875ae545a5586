"""Step 4 as the scene and the detector change what there is to show."""

import numpy as np
from d24fadhost.clicks import chooseInMenu, click, clickRow, runToEnd, texts
from d24fadhost.fixtures import behaving
from PySide6 import QtCore, QtWidgets
from PySide6.QtTest import QTest


def test_a_loaded_scene_keeps_its_own_study(loaded, host, tmp_path, quiet_log):
    """While a scene loads, its selector picks whichever volume comes first; that is nobody's choice."""
    import slicer

    panel, _query, references = loaded
    ui = panel.ui
    ui.querySelector.setCurrentNode(references[1])
    chooseInMenu(ui.addLoadedButton, "Normal 1")
    assert panel.logic.query() is references[1]
    assert slicer.mrmlScene.WriteToMRB(str(tmp_path / "scene.mrb"), None)
    slicer.mrmlScene.Clear(False)
    host.process_events(0.05)
    assert panel.logic.query() is None
    assert slicer.mrmlScene.ReadFromMRB(str(tmp_path / "scene.mrb"), True)
    host.process_events(0.05)
    assert panel.logic.query().GetName() == "Normal 2"
    assert ui.querySelector.currentNode() is panel.logic.query()
    assert [row.name for row in panel.logic.references()] == ["Normal 1"]
    # From here on the user's choice counts again.
    ui.querySelector.setCurrentNode(slicer.util.getNode("Study"))
    assert panel.logic.query().GetName() == "Study"


def test_another_scene_with_a_map_of_the_same_id_shows_its_own_findings(loaded, host, tmp_path, quiet_log):
    """Closed and loaded in one go, as File / Load does: the panel has no turn in between."""
    import slicer

    panel, query, _references = loaded
    chooseInMenu(panel.ui.addLoadedButton, "All of these")
    runToEnd(panel, host)
    first = texts(panel.ui.findingsTable)
    assert slicer.mrmlScene.WriteToMRB(str(tmp_path / "first.mrb"), None)
    array = slicer.util.arrayFromVolume(query)
    array[:] = np.roll(array, (4, -8, -6), (0, 1, 2))
    slicer.util.arrayFromVolumeModified(query)
    runToEnd(panel, host)
    assert texts(panel.ui.findingsTable) != first
    slicer.mrmlScene.Clear(False)
    assert slicer.mrmlScene.ReadFromMRB(str(tmp_path / "first.mrb"), True)
    host.process_events(0.1)
    assert texts(panel.ui.findingsTable) == first


def test_results_are_no_studies_to_choose(loaded, host):
    import slicer

    panel, query, _references = loaded
    chooseInMenu(panel.ui.addLoadedButton, "All of these")
    runToEnd(panel, host)
    assert slicer.mrmlScene.GetNumberOfNodesByClass("vtkMRMLScalarVolumeNode") == 4 + 5
    assert panel.ui.querySelector.nodeCount() == 4
    assert panel.ui.querySelector.currentNode() is query
    slicer.mrmlScene.RemoveNode(query)
    host.process_events(0.05)
    assert panel.ui.querySelector.currentNode().GetName().startswith("Normal")


def test_a_finding_is_explained_and_references_are_judged(loaded, host, screenshot, quiet_log):
    panel, _query, _references = loaded
    ui = panel.ui
    chooseInMenu(ui.addLoadedButton, "All of these")
    panel.logic.workerArguments = behaving("explained")
    runToEnd(panel, host)
    assert ui.scoreLabel.text == "Of normal studies, 2 % would score as high as this one."
    assert [row[5] for row in texts(ui.referencesTable)] == ["Stands out", "Check", "Left out"]
    blurred = ui.referencesTable.item(1, 5).toolTip()
    assert blurred == "Normal 2 is blurred or moved compared with the other references."
    clickRow(ui.findingsTable, 0)
    assert ui.findingLabel.text == (
        "A normal study has 0.12 findings as strong on average.\n"
        "Slice 10 was judged against Normal 1 (0.50), Normal 2 (0.33), Normal 3 (0.17).\n"
        "At its peak Normal 2 is most like it.\n"
        "Difference in fine, middle, coarse detail: 0.31, 0.22, 0.10."
    )
    screenshot(panel.parent, "13-explained")


def test_findings_that_the_detector_withholds_are_not_shown(loaded, host, screenshot, tmp_path, quiet_log):
    import slicer

    panel, _query, _references = loaded
    ui = panel.ui
    chooseInMenu(ui.addLoadedButton, "All of these")
    panel.logic.workerArguments = behaving("withheld")
    runToEnd(panel, host)
    assert ui.countLabel.text == "No findings are given."
    assert ui.withheldMessage.text.startswith("Study does not resemble its references. Choose other")
    assert ui.findingsTable.rowCount == 0
    found = panel.logic.results()
    assert found.node("Map") is not None
    ui.thresholdSlider.value = ui.thresholdSlider.minimum
    host.process_events(0.1)
    assert (ui.findingsTable.rowCount, ui.thresholdNote.text) == (0, "")
    assert found.node("Segmentation").GetSegmentation().GetNumberOfSegments() == 0
    screenshot(panel.parent, "14-withheld")
    # ... nor after the scene was saved and loaded.
    assert slicer.mrmlScene.WriteToMRB(str(tmp_path / "scene.mrb"), None)
    slicer.mrmlScene.Clear(False)
    assert slicer.mrmlScene.ReadFromMRB(str(tmp_path / "scene.mrb"), True)
    host.process_events(0.1)
    assert ui.countLabel.text == "No findings are given."
    panel.logic.workerArguments = behaving("well")
    runToEnd(panel, host)
    assert ui.countLabel.text == "1 candidate above 6.00 SD."
    assert not ui.withheldMessage.isVisible()


def test_a_map_of_small_numbers_has_a_threshold_to_move(loaded, host):
    from D24FADParts import layers
    from D24FADParts.results import Outcome, Results

    panel, query, _references = loaded
    shape = query.GetImageData().GetDimensions()[::-1]
    image, array = layers.emptyImage(shape, np.float32)
    array[:] = 0.0005
    array[8:12, 20:26, 15:21] = 0.0042
    scores = [0.0] * shape[0]
    found = Results(panel.logic.getParameterNode())
    list(found.replace(query, Outcome(image, None, [], scores, scores, [], 0.0031, False, "axial", [], [])))
    panel.logic.setResults(found)
    panel.refresh()
    slider = panel.ui.thresholdSlider
    assert abs(slider.value - 0.0031) < 1e-6
    assert np.allclose((slider.minimum, slider.maximum), found.thresholdRange(), rtol=0, atol=1e-4)
    slider.value = 0.0041
    host.process_events(0.1)
    assert found.count == 1


def test_findings_of_another_study_say_so(loaded, host):
    panel, query, references = loaded
    chooseInMenu(panel.ui.addLoadedButton, "Normal 1")
    runToEnd(panel, host)
    assert panel.ui.countLabel.text == "1 candidate above 6.00 SD."
    panel.ui.querySelector.setCurrentNode(references[2])
    host.process_events(0.05)
    assert panel.ui.countLabel.text.endswith("They are of Study, not of the study chosen above.")
    panel.ui.querySelector.setCurrentNode(query)
    host.process_events(0.05)
    assert panel.ui.countLabel.text == "1 candidate above 6.00 SD."


def test_results_deleted_by_hand_leave_an_empty_step(loaded, host, quiet_log):
    import slicer

    panel, _query, _references = loaded
    chooseInMenu(panel.ui.addLoadedButton, "All of these")
    runToEnd(panel, host)
    slicer.mrmlScene.RemoveNode(panel.logic.results().node("Map"))
    host.process_events(0.05)
    assert panel.ui.countLabel.text == "Run Find anomalies to see findings here."
    assert not panel.ui.resultsWidget.isVisible()


def offered(dialog):
    """The name in a file dialog that is open."""
    return dialog.findChild(QtWidgets.QLineEdit, "fileNameEdit")


def typeName(dialog, name):
    dialog.activateWindow()
    offered(dialog).setFocus()
    QTest.qWait(20)
    offered(dialog).selectAll()
    QTest.keyClicks(offered(dialog), name)


def chooseFilter(dialog, index):
    """As a hand does in its list of file types."""
    box = dialog.findChild(QtWidgets.QComboBox, "fileTypeCombo")
    box.setFocus()
    for _step in range(index - box.currentIndex()):
        QTest.keyClick(box, QtCore.Qt.Key_Down)


def test_the_exports_type_is_the_chosen_filters(loaded, host, tmp_path, quiet_log):
    import qt

    panel, _query, _references = loaded
    ui = panel.ui
    chooseInMenu(ui.addLoadedButton, "All of these")
    runToEnd(panel, host)

    def export(button, act):
        def planned(dialog):
            dialog.setDirectory(str(tmp_path))
            act(dialog)
            return True

        qt.QFileDialog.planned.append(planned)
        click(button)
        return ui.findingsMessage.text.rpartition("/")[2]

    def nifti(dialog):
        chooseFilter(dialog, 1)
        assert offered(dialog).text() == "d24fad-candidates.nii.gz"

    assert export(ui.exportSegmentationButton, nifti) == "d24fad-candidates.nii.gz"
    assert (tmp_path / "d24fad-candidates.nii.gz").read_bytes()[:2] == b"\x1f\x8b"
    assert export(ui.exportSegmentationButton, lambda _dialog: None) == "d24fad-candidates.seg.nrrd"
    # A bare name gets the filter's ending, and so does one of another filter chosen afterwards.
    for typed, index, name in (
        ("bare", 0, "bare.seg.nrrd"),
        ("bare", 1, "bare.nii.gz"),
        ("typed.nii.gz", 0, "typed.nii.gz"),
        ("v1.5", 0, "v1.5.seg.nrrd"),
        ("other.seg.nrrd", 1, "other.nii.gz"),
    ):

        def write(dialog, typed=typed, index=index):
            typeName(dialog, typed)
            chooseFilter(dialog, index)

        assert export(ui.exportSegmentationButton, write) == name
        assert (tmp_path / name).stat().st_size

    def again(dialog):
        """Typed after the filter was chosen."""
        chooseFilter(dialog, 1)
        typeName(dialog, "bare.nrrd")

    # What the dialog could not ask about is asked; Cancel writes nothing.
    before = (tmp_path / "bare.nii.gz").stat().st_mtime_ns
    host.answers.append(qt.QMessageBox.Cancel)
    export(ui.exportSegmentationButton, again)
    assert "bare.nii.gz is there already" in host.messages[-1]
    assert (tmp_path / "bare.nii.gz").stat().st_mtime_ns == before
    assert export(ui.exportMapButton, lambda dialog: chooseFilter(dialog, 1)) == "d24fad-anomaly-map.nii.gz"

    def backAgain(dialog):
        chooseFilter(dialog, 1)
        QTest.keyClick(dialog.findChild(QtWidgets.QComboBox, "fileTypeCombo"), QtCore.Qt.Key_Up)

    assert export(ui.exportMapButton, backAgain) == "d24fad-anomaly-map.nrrd"
