"""Results as nodes: layers, hierarchy, segmentation, tables, and a saved scene that comes back whole."""

import csv

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


def tagOf(segment, name):
    import vtk

    value = vtk.reference("")
    assert segment.GetTag(name, value)
    return value.get()


def nodesOf(role):
    import slicer

    return [
        node
        for node in slicer.util.getNodes("*", useLists=True).values()
        for node in node
        if node.GetAttribute("D24FAD.Role") == role
    ]


def test_layers_lie_on_the_study_grid_with_their_own_display(detected):
    found, query = detected.results(), detected.query()
    layers = [found.node("Map"), found.node("ExpectedNormal"), *found.weightNodes()]
    assert len(layers) == 4
    from D24FADParts import geometry

    for node in layers:
        assert np.allclose(geometry.ijkToWorld(node), geometry.ijkToWorld(query))
        assert node.GetImageData().GetDimensions() == query.GetImageData().GetDimensions()
    display = found.node("Map").GetDisplayNode()
    assert display.GetColorNode().GetName() == "D24FAD anomaly"
    assert display.GetApplyThreshold()
    assert display.GetLowerThreshold() == pytest.approx(found.threshold / 2)
    assert found.weightNodes()[0].GetDisplayNode().GetColorNode().GetName() == "D24FAD weight"
    assert found.node("ExpectedNormal").GetDisplayNode().GetWindow() == query.GetDisplayNode().GetWindow()


def test_results_are_placed_under_the_study(logic, volumes):
    import slicer
    from D24FADParts import placement

    query, references = volumes.study()
    tree = placement.hierarchy()
    patient = tree.CreateSubjectItem(tree.GetSceneItemID(), "Subject")
    study = tree.CreateStudyItem(patient, "Study 1")
    tree.SetItemParent(placement.itemOf(query), study)
    logic.setQuery(query)
    logic.addReferenceNode(references[0])
    found = logic.detect()
    made = [
        found.node(role) for role in ("Map", "ExpectedNormal", "Segmentation", "FindingsTable", "ScoreTable")
    ]
    for node in [*made, *found.weightNodes(), found.node("ScorePlot")]:
        assert tree.GetItemParent(tree.GetItemByDataNode(node)) == study, node.GetName()
    assert slicer.mrmlScene.GetNumberOfNodesByClass("vtkMRMLSubjectHierarchyNode") == 1


def test_segments_carry_terminology_and_algorithm(detected):
    import slicer

    segmentation = detected.results().node("Segmentation").GetSegmentation()
    segment = segmentation.GetNthSegment(0)
    entry = slicer.vtkSlicerTerminologyEntry()
    text = tagOf(segment, slicer.vtkSegment.GetTerminologyEntryTagName())
    logic = slicer.vtkSlicerTerminologiesModuleLogic()
    assert logic.DeserializeTerminologyEntry(text, entry)
    assert entry.GetCategoryObject().GetCodeMeaning() == "Morphologically Altered Structure"
    assert entry.GetTypeObject().GetCodeMeaning() == "Mass"
    from D24FADLib import __version__

    assert tagOf(segment, "DICOM.SegmentAlgorithmType") == "AUTOMATIC"
    assert tagOf(segment, "DICOM.SegmentAlgorithmName") == f"D24FAD {__version__}"


def test_segment_voxels_are_the_map_above_the_threshold(detected):
    import slicer

    found = detected.results()
    node, mapNode = found.node("Segmentation"), found.node("Map")
    labels = slicer.util.arrayFromSegmentBinaryLabelmap(node, "candidate_001", mapNode)
    above = slicer.util.arrayFromVolume(mapNode) > found.threshold
    assert labels.sum() == above.sum() > 50
    assert np.array_equal(labels > 0, above)


def test_the_tables_and_the_plot_say_what_was_found(detected):
    found = detected.results()
    table = found.node("FindingsTable").GetTable()
    assert table.GetNumberOfRows() == found.count == 1
    assert table.GetValueByName(0, "Slice").ToInt() == found.findings[0].slice
    scores = found.node("ScoreTable").GetTable()
    assert scores.GetNumberOfRows() == 20
    assert scores.GetNumberOfColumns() == 3 + 2
    plot = found.node("ScorePlot")
    assert plot.GetNumberOfPlotSeriesNodes() == 2
    assert plot.GetNthPlotSeriesNode(0).GetTableNode() is found.node("ScoreTable")


def test_a_second_run_replaces_the_first_unless_told_to_keep_it(detected):
    import slicer

    before = slicer.mrmlScene.GetNumberOfNodes()
    detected.detect()
    assert slicer.mrmlScene.GetNumberOfNodes() == before
    assert len(nodesOf("Map")) == 1
    detected.setOption("KeepPrevious", True)
    detected.detect()
    assert len(nodesOf("Map")) == len(nodesOf("Segmentation")) == 2
    # Only the last one is the panel's; removing it leaves the kept one.
    detected.results().remove()
    assert len(nodesOf("Map")) == 1


def test_the_threshold_moves_segmentation_table_and_map(detected):
    found = detected.results()
    top = found.findings[0].peak
    assert detected.setThreshold(top + 1) == 0
    assert found.node("Segmentation").GetSegmentation().GetNumberOfSegments() == 0
    assert found.node("FindingsTable").GetTable().GetNumberOfRows() == 0
    assert detected.setThreshold(found.about["lowest"]) >= 1
    assert found.node("Segmentation").GetSegmentation().GetNumberOfSegments() == len(found.findings)
    assert found.node("Map").GetDisplayNode().GetLowerThreshold() == pytest.approx(found.about["lowest"] / 2)


def test_a_segmentation_corrected_by_hand_is_never_overwritten(detected):
    found = detected.results()
    node = found.node("Segmentation")
    node.GetSegmentation().RemoveSegment("candidate_001")
    import slicer

    node.GetSegmentation().AddEmptySegment("mine", "Mine")
    detected.setThreshold(7.0)
    assert node.GetScene() is slicer.mrmlScene
    assert node.GetName().endswith("(edited)")
    assert node.GetSegmentation().GetSegment("mine") is not None
    assert found.node("Segmentation") is not node
    assert found.node("Segmentation").GetSegmentation().GetNumberOfSegments() == 1


@pytest.mark.parametrize("side", [0.5, 1.0])
def test_a_single_image_is_measured_by_its_area(logic, tmp_path, side):
    import slicer
    from D24FADParts.panel import findings

    nodes = []
    for seed in range(3):
        array = 500 + 10 * np.random.default_rng(seed).standard_normal((1, 40, 40))
        array[0, 10:14, 20:25] += 400 * (seed == 0)
        matrix = np.diag([-side, -side, 1.0, 1.0])
        nodes.append(slicer.util.addVolumeFromArray(array.astype(np.int16), ijkToRAS=matrix, name=str(seed)))
    logic.setQuery(nodes[0])
    for node in nodes[1:]:
        logic.addReferenceNode(node)
    logic.detect()
    found = logic.results().findings[0]
    # 1 mm is what Slicer takes where nothing tells a pixel's size.
    assert found.areaMm2 == (None if side == 1.0 else pytest.approx(found.pixels * 0.25))
    assert findings._size(found) == (f"{found.pixels} px" if side == 1.0 else f"{found.areaMm2:.0f} mm²")
    with open(logic.exportFindings(tmp_path / "f.csv"), encoding="utf-8", newline="") as file:
        row = next(csv.DictReader(file))
    assert row["pixels"] == str(found.pixels)
    assert (row["area_mm2"] == "") == (side == 1.0)


def test_exports(detected, tmp_path):
    import SimpleITK as sitk

    found = detected.results()
    path = detected.exportFindings(tmp_path / "f.csv")
    with open(path, encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 1
    assert float(rows[0]["center_r"]) == pytest.approx(found.findings[0].place[0], abs=0.01)
    image = sitk.ReadImage(detected.exportMap(str(tmp_path / "map.nii.gz")))
    assert image.GetSize() == detected.query().GetImageData().GetDimensions()
    labels = sitk.ReadImage(detected.exportSegmentation(str(tmp_path / "labels.nii.gz")))
    assert labels.GetSize() == image.GetSize()
    assert sitk.GetArrayFromImage(labels).max() == 1
    detected.exportSegmentation(str(tmp_path / "candidates.seg.nrrd"))
    assert (tmp_path / "candidates.seg.nrrd").stat().st_size > 100


def test_dicom_export_is_refused_where_the_study_is_not_dicom(detected, tmp_path):
    from D24FADLib.errors import D24FADError

    with pytest.raises(D24FADError):
        detected.exportDicomSegmentation(str(tmp_path))


def test_a_scene_saved_as_mrb_comes_back_whole(detected, tmp_path, module, host):
    import slicer

    found = detected.results()
    detected.setThreshold(7.5)
    before = [(f.rank, round(f.peak, 3), tuple(np.round(f.place, 2))) for f in found.findings]
    names = sorted(
        node.GetName()
        for role in ("Map", "Segmentation", "Weight", "FindingsTable")
        for node in nodesOf(role)
    )
    path = str(tmp_path / "scene.mrb")
    assert slicer.mrmlScene.WriteToMRB(path, None)
    slicer.mrmlScene.Clear(False)
    assert slicer.mrmlScene.ReadFromMRB(path, True)
    again = module.D24FADLogic()
    found = again.results()
    assert found.exist
    assert (
        sorted(n.GetName() for r in ("Map", "Segmentation", "Weight", "FindingsTable") for n in nodesOf(r))
        == names
    )
    found.restore()
    assert found.threshold == pytest.approx(7.5)
    assert [(f.rank, round(f.peak, 3), tuple(np.round(f.place, 2))) for f in found.findings] == before
    assert len(again.references()) == 2
    assert all(not again.referenceProblems(row.key) for row in again.references())
    assert again.setThreshold(6.0) == 1


def test_a_loaded_segmentation_that_was_corrected_is_kept_too(detected, tmp_path, module):
    import slicer

    def reload(name):
        path = str(tmp_path / name)
        assert slicer.mrmlScene.WriteToMRB(path, None)
        slicer.mrmlScene.Clear(False)
        assert slicer.mrmlScene.ReadFromMRB(path, True)
        return module.D24FADLogic()

    again = reload("plain.mrb")
    again.setThreshold(7.0)
    assert not [
        n for n in slicer.util.getNodesByClass("vtkMRMLSegmentationNode") if "(edited)" in n.GetName()
    ]
    node = again.results().node("Segmentation")
    node.GetSegmentation().RemoveSegment("candidate_001")
    node.GetSegmentation().AddEmptySegment("mine", "Mine")
    again = reload("edited.mrb")
    again.setThreshold(6.5)
    kept = [n for n in slicer.util.getNodesByClass("vtkMRMLSegmentationNode") if "(edited)" in n.GetName()]
    assert len(kept) == 1
    assert kept[0].GetSegmentation().GetSegment("mine") is not None
