"""The map lies exactly on the anatomy, whatever the grid."""

import numpy as np
import pytest

BALL = (14.0, 1.0, 15.0)


def turned(degrees, axis):
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    i, j = [(1, 2), (2, 0), (0, 1)][axis]
    turn = np.eye(3)
    turn[i, i], turn[j, j], turn[i, j], turn[j, i] = c, c, -s, s
    return turn


# The RAS directions of i, j and k, as columns.
AXIAL = np.diag([-1.0, -1.0, 1.0])
CORONAL = np.array([[-1, 0, 0], [0, 0, 1], [0, -1, 0]], float)
SAGITTAL = np.array([[0, 0, 1], [-1, 0, 0], [0, -1, 0]], float)
GRIDS = {
    "axial": (AXIAL, "axial"),
    "coronal": (CORONAL, "coronal"),
    "sagittal": (SAGITTAL, "sagittal"),
    "oblique 20 degrees": (turned(20, 0) @ turned(10, 2) @ AXIAL, "axial"),
    "left-handed": (AXIAL @ np.diag([1.0, 1.0, -1.0]), "axial"),
    "left-handed sagittal": (SAGITTAL @ np.diag([1.0, 1.0, -1.0]), "sagittal"),
}


@pytest.mark.parametrize("grid", GRIDS)
def test_a_landmark_is_found_where_it_is(logic, volumes, grid):
    import slicer

    columns, plane = GRIDS[grid]
    query, references = volumes.study(matrix=volumes.grid(columns), ball=BALL)
    logic.setQuery(query)
    for node in references:
        logic.addReferenceNode(node)
    from D24FADParts import geometry

    assert geometry.defaultPlane(query) == plane
    found = logic.detect()
    assert found.count == 1
    error = np.abs(np.array(found.findings[0].place) - BALL)
    # Along every voxel axis, in voxels.
    along = np.abs(columns.T @ (np.array(found.findings[0].place) - BALL)) / volumes.SPACING
    assert along.max() < 0.5, (error, along)
    # The node, as Slicer's own machinery places it: its brightest voxels lie on the landmark too.
    mapNode = found.node("Map")
    array = slicer.util.arrayFromVolume(mapNode)
    k, j, i = np.argwhere(array > 0.9 * array.max()).mean(axis=0)
    place = geometry.toPlace(geometry.ijkToWorld(mapNode), (i, j, k))
    assert (np.abs(columns.T @ (np.array(place) - BALL)) / volumes.SPACING).max() < 0.5


@pytest.mark.parametrize("grid", GRIDS)
def test_slice_views_cut_the_map_where_they_cut_the_study(logic, volumes, grid, host):
    """What a slice view draws of the map at the landmark is the landmark (by Slicer's own reslicing)."""
    import slicer
    from vtk.util import numpy_support

    columns, _plane = GRIDS[grid]
    query, references = volumes.study(matrix=volumes.grid(columns), ball=BALL)
    logic.setQuery(query)
    for node in references:
        logic.addReferenceNode(node)
    logic.detect()
    logic.showFinding(1)
    sliceLogic = slicer.app.layoutManager().sliceWidget("Red").sliceLogic()
    for layer, threshold in ((sliceLogic.GetBackgroundLayer(), 700), (sliceLogic.GetForegroundLayer(), 6)):
        reslice = layer.GetReslice()
        reslice.Update()
        image = reslice.GetOutput()
        values = numpy_support.vtk_to_numpy(image.GetPointData().GetScalars()).reshape(
            image.GetDimensions()[::-1]
        )
        rows, columnsSeen = np.nonzero(values[0] > threshold)
        assert len(rows), "the landmark is not in the view"
        xy = np.array([columnsSeen.mean(), rows.mean(), 0, 1])
        toRas = sliceLogic.GetSliceNode().GetXYToRAS()
        place = np.array(toRas.MultiplyPoint(xy))[:3]
        normal = np.array([sliceLogic.GetSliceNode().GetSliceToRAS().GetElement(row, 2) for row in range(3)])
        inPlane = place - BALL - normal * np.dot(place - BALL, normal)
        assert np.linalg.norm(inPlane) < 1.0  # half of the 2 mm voxels


def test_results_follow_the_study_under_a_transform(logic, volumes):
    """A registered study: its results lie under the same transform, places are told in the world."""
    import slicer
    import vtk

    query, references = volumes.study(ball=BALL)
    transform = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLinearTransformNode")
    matrix = vtk.vtkMatrix4x4()
    matrix.SetElement(0, 3, 30.0)
    transform.SetMatrixTransformToParent(matrix)
    for node in [query, *references]:
        node.SetAndObserveTransformNodeID(transform.GetID())
    logic.setQuery(query)
    for node in references:
        logic.addReferenceNode(node)
    found = logic.detect()
    assert np.allclose(found.findings[0].place, np.add(BALL, (30, 0, 0)), atol=1)
    assert found.node("Map").GetTransformNodeID() == transform.GetID()
    assert found.node("Segmentation").GetTransformNodeID() == transform.GetID()


def test_a_nonlinear_transform_is_refused_with_what_to_do(logic, volumes):
    import slicer

    from D24FADLib.errors import InputError

    query, references = volumes.study()
    grid = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLGridTransformNode")
    import vtk

    displacement = vtk.vtkImageData()
    displacement.SetDimensions(4, 4, 4)
    displacement.AllocateScalars(vtk.VTK_DOUBLE, 3)
    grid.GetTransformFromParentAs("vtkOrientedGridTransform").SetDisplacementGridData(displacement)
    references[0].SetAndObserveTransformNodeID(grid.GetID())
    logic.setQuery(query)
    with pytest.raises(InputError, match="harden"):
        logic.addReferenceNode(references[0])
