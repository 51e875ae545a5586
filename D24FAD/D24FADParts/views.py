"""What the slice views show, and where they are."""

from contextlib import contextmanager

import numpy as np
import slicer
import vtk

from . import geometry


def showLayers(background, foreground, opacity, fit=False):
    """Background and foreground of every slice view; `foreground` may be None."""
    slicer.util.setSliceViewerLayers(
        background=background, foreground=foreground, foregroundOpacity=opacity, fit=fit
    )


def setOpacity(opacity):
    slicer.util.setSliceViewerLayers(foregroundOpacity=opacity)


@contextmanager
def held():
    """What the slice views show, and where, stays as it is: Slicer shows what it loads. Views that showed
    nothing before are left to it."""
    layers, places = _layers(), _places()
    try:
        yield
    finally:
        for node, background, foreground, label in layers:
            if background and node.GetScene() is not None:
                node.SetBackgroundVolumeID(background)
                node.SetForegroundVolumeID(foreground)
                node.SetLabelVolumeID(label)
        if any(background for _node, background, _foreground, _label in layers):
            for node, toRas, fieldOfView in places:
                if node.GetScene() is not None:
                    node.GetSliceToRAS().DeepCopy(toRas)
                    node.UpdateMatrices()
                    node.SetFieldOfView(*fieldOfView)


def _layers():
    nodes = slicer.util.getNodesByClass("vtkMRMLSliceCompositeNode")
    return [
        (node, node.GetBackgroundVolumeID(), node.GetForegroundVolumeID(), node.GetLabelVolumeID())
        for node in nodes
    ]


def _places():
    places = []
    for node in sliceNodes():
        toRas = vtk.vtkMatrix4x4()
        toRas.DeepCopy(node.GetSliceToRAS())
        places.append((node, toRas, node.GetFieldOfView()))
    return places


def jumpTo(place):
    """Move every slice view to a place in world RAS, and to its centre where it was out of sight."""
    scene = slicer.mrmlScene
    slicer.vtkMRMLSliceNode.JumpAllSlices(scene, *place, slicer.vtkMRMLSliceNode.CenteredJumpSlice)


def sliceNodes():
    scene = slicer.mrmlScene
    count = scene.GetNumberOfNodesByClass("vtkMRMLSliceNode")
    return [scene.GetNthNodeByClass(index, "vtkMRMLSliceNode") for index in range(count)]


def alignTo(volumeNode):
    """Turn the views into an oblique volume's own planes, so that a view shows one slice of it."""
    for node in sliceNodes():
        node.RotateToVolumePlane(volumeNode)


def sliceNodeAlong(direction):
    """The slice node of the layout that looks along this RAS direction, None where none nearly does."""
    best, most = None, 0.7
    # Those of other layouts are in the scene too, and stay where they were last.
    nodes = sliceNodes()
    for node in [node for node in nodes if node.IsMappedInLayout()] or nodes:
        normal = np.array([node.GetSliceToRAS().GetElement(row, 2) for row in range(3)])
        cosine = abs(float(np.dot(normal / np.linalg.norm(normal), direction)))
        if cosine > most:
            best, most = node, cosine
    return best


def currentSlice(volumeNode, axis):
    """The number of the volume's slice along a voxel axis that a view shows now, None where none does."""
    ijkToRas = geometry.ijkToWorld(volumeNode)
    direction = ijkToRas[:3, axis] / np.linalg.norm(ijkToRas[:3, axis])
    node = sliceNodeAlong(direction)
    if node is None:
        return None
    matrix = node.GetSliceToRAS()
    index = geometry.toIndex(ijkToRas, [matrix.GetElement(row, 3) for row in range(3)])[axis]
    number = round(float(index))
    return number if 0 <= number < volumeNode.GetImageData().GetDimensions()[axis] else None
