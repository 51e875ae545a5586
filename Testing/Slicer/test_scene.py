"""The module in a scene that changes around it: other scenes, other modules, other views."""

import os

import numpy as np
import pytest


@pytest.fixture
def detected(logic, volumes):
    query, references = volumes.study()
    logic.setQuery(query)
    for node in references:
        logic.addReferenceNode(node)
    logic.detect()
    return logic


def test_findings_are_never_those_of_a_scene_closed_before(detected, volumes, tmp_path):
    """Another scene's map may have the very ID of the one that was looked at."""
    import slicer

    first = detected.results().findings[0].place
    mapId = detected.results().node("Map").GetID()
    slicer.mrmlScene.Clear(False)
    assert detected.results().findings == []
    assert detected.results().count == 0
    query, references = volumes.study(ball=(-12.0, -9.0, 3.0))
    detected.setQuery(query)
    for node in references:
        detected.addReferenceNode(node)
    detected.detect()
    second = detected.results().findings[0].place
    assert np.linalg.norm(np.subtract(first, second)) > 10
    assert slicer.mrmlScene.WriteToMRB(str(tmp_path / "second.mrb"), None)
    slicer.mrmlScene.Clear(False)
    # The first one again, by a logic that knows the second: it must look at what is there.
    query, references = volumes.study()
    detected.setQuery(query)
    for node in references:
        detected.addReferenceNode(node)
    detected.detect()
    assert detected.results().node("Map").GetID() == mapId
    slicer.mrmlScene.Clear(False)
    assert slicer.mrmlScene.ReadFromMRB(str(tmp_path / "second.mrb"), True)
    found = detected.results()
    found.restore()
    assert np.allclose(found.findings[0].place, second, atol=0.01)


@pytest.mark.parametrize("then", ["closed", "another"])
def test_a_closed_scene_is_let_go(detected, tmp_path, then):
    """The segmentation's node and its label image are freed with the scene, not by the next run."""
    import slicer

    assert slicer.mrmlScene.WriteToMRB(str(tmp_path / "scene.mrb"), None)
    freed = []
    node = detected.results().node("Segmentation")
    image = node.GetSegmentation().GetNthSegment(0).GetRepresentation("Binary labelmap")
    for thing in (node, image):
        thing.AddObserver("DeleteEvent", lambda *_said: freed.append(1))
    del node, image, thing
    slicer.mrmlScene.Clear(False)
    if then == "another":
        assert slicer.mrmlScene.ReadFromMRB(str(tmp_path / "scene.mrb"), True)
    detected.results()
    assert len(freed) == 2


def test_a_map_that_was_changed_is_looked_at_again(detected):
    import slicer

    found = detected.results()
    assert found.count == 1
    array = slicer.util.arrayFromVolume(found.node("Map"))
    array[:] = 0
    slicer.util.arrayFromVolumeModified(found.node("Map"))
    assert detected.setThreshold(found.threshold) == 0


def test_results_are_not_offered_as_references(detected):
    names = [node.GetName() for node in detected.possibleReferences()]
    assert names == []
    assert len(detected.ownVolumeIds()) == 4


def test_the_slice_that_counts_is_the_one_of_the_layout(detected):
    import slicer
    from D24FADParts import views

    detected.jumpToSlice(4)
    assert detected.currentSlice() == 4
    # Another layout has views of its own; those of the one before stay in the scene.
    before = views.sliceNodes()
    other = slicer.vtkMRMLSliceLogic()
    other.SetMRMLScene(slicer.mrmlScene)
    node = other.AddSliceNode("Compare1")
    node.SetOrientation("Axial")
    node.SetMappedInLayout(True)
    for hidden in before:
        hidden.SetMappedInLayout(False)
    try:
        bounds = [0.0] * 6
        detected.results().query.GetRASBounds(bounds)
        node.SetSliceOffset(bounds[4] + 4.0 * 6.5)
        assert detected.currentSlice() == 6
    finally:
        for hidden in before:
            hidden.SetMappedInLayout(True)


def test_a_chosen_finding_is_selected_in_the_segment_editor(detected):
    import slicer

    found = detected.results()
    detected.showFinding(1)
    editor = slicer.mrmlScene.GetSingletonNode("SegmentEditor", "vtkMRMLSegmentEditorNode")
    assert editor.GetSegmentationNode() is found.node("Segmentation")
    assert editor.GetSelectedSegmentID() == "candidate_001"
    assert editor.GetSourceVolumeNode() is detected.query()
    # An editor that is at work on something else is left alone.
    other = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", "Other")
    editor.SetAndObserveSegmentationNode(other)
    editor.SetSelectedSegmentID("mine")
    detected.showFinding(1)
    assert editor.GetSegmentationNode() is other
    assert editor.GetSelectedSegmentID() == "mine"


def test_segments_that_stay_are_kept_and_follow_the_threshold(detected):
    """Every new segment costs Slicer an item in the subject hierarchy: the slider must not remake them."""
    import slicer

    found = detected.results()
    segmentation = found.node("Segmentation").GetSegmentation()
    segment = segmentation.GetSegment("candidate_001")
    segment.SetName("Lesion")
    before = slicer.util.arrayFromSegmentBinaryLabelmap(
        found.node("Segmentation"), "candidate_001", found.query
    ).sum()
    detected.setThreshold(found.findings[0].peak * 0.97)
    assert segmentation.GetSegment("candidate_001") is segment
    assert segment.GetName() == "Lesion"
    after = slicer.util.arrayFromSegmentBinaryLabelmap(
        found.node("Segmentation"), "candidate_001", found.query
    ).sum()
    assert 0 < after < before
    assert not [
        n for n in slicer.util.getNodesByClass("vtkMRMLSegmentationNode") if "(edited)" in n.GetName()
    ]


def test_the_range_of_the_labels_is_told_anew(detected):
    """Slicer's DICOM export takes a segment for empty whose voxels have the range 0 to 0."""
    found = detected.results()
    threshold = found.threshold
    detected.setThreshold(found.findings[0].peak + 1)
    scalars = found._segments._image.GetPointData().GetScalars()
    assert scalars.GetValueRange() == (0, 0)
    detected.setThreshold(threshold)
    assert scalars.GetValueRange() == (0, 1)


def test_surfaces_follow_the_threshold(detected):
    found = detected.results()
    segmentation = found.node("Segmentation").GetSegmentation()
    segmentation.CreateRepresentation("Closed surface")

    def volume():
        import vtk

        mass = vtk.vtkMassProperties()
        mass.SetInputData(segmentation.GetSegment("candidate_001").GetRepresentation("Closed surface"))
        return mass.GetVolume()

    before = volume()
    detected.setThreshold(found.findings[0].peak * 0.97)
    assert volume() < 0.8 * before


def test_the_demo_is_made_in_turns_for_sample_data(host, module):
    import slicer
    from D24FADParts import sampledata

    host.new_scene()
    module.registerSampleData()
    (source,) = [s for s in slicer.modules.sampleDataSources["D24FAD"] if s.sampleName == "D24FADDemo"]
    assert os.path.exists(source.thumbnailFileName)
    slicer.modules.sampleDataSources.clear()
    source.customDownloader(source)
    source.customDownloader(source)  # a double click
    there = [0]  # volumes, after each turn
    while len(there) < 3 or sampledata._loading:
        host.application.processEvents()
        there.append(len(slicer.util.getNodesByClass("vtkMRMLScalarVolumeNode")))
    assert max(np.diff(there)) == 1
    assert len(there) > 4 * 5  # and each in several turns
    nodes = slicer.util.getNodesByClass("vtkMRMLScalarVolumeNode")
    assert [node.GetName() for node in nodes] == ["D24FADStudy", *(f"D24FADNormal{n}" for n in range(1, 5))]
    red = slicer.app.layoutManager().sliceWidget("Red").sliceLogic().GetSliceCompositeNode()
    assert red.GetBackgroundVolumeID() == nodes[0].GetID()
    assert np.array_equal(slicer.util.arrayFromVolume(nodes[1]), sampledata.makeSubject(1))
    slicer.mrmlScene.Clear(False)
    # A scene that is closed meanwhile gets no more volumes.
    source.customDownloader(source)
    assert host.process_events(10, until=lambda: slicer.mrmlScene.GetFirstNodeByName("D24FADNormal1"))
    slicer.mrmlScene.Clear(False)
    host.process_events(0.5)
    assert slicer.util.getNodesByClass("vtkMRMLScalarVolumeNode") == []
    source.customDownloader(source)
    assert host.process_events(10, until=lambda: slicer.mrmlScene.GetFirstNodeByName("D24FADNormal4"))
    slicer.mrmlScene.Clear(False)


def test_the_temporary_folder_is_slicers(detected, host, tmp_path, monkeypatch):
    import slicer

    monkeypatch.setattr(slicer.app, "temporaryPath", str(tmp_path))
    from D24FADParts import run

    started = run.Run(detected.getParameterNode(), None, None)
    assert started._temp == str(tmp_path)
