"""The result volumes as nodes: anomaly map, a weight per reference, what would be normal here."""

import numpy as np
import slicer
import vtk
from vtk.util import numpy_support

from . import colors, geometry, placement


def emptyImage(shape, dtype):
    """(vtkImageData, its voxels as a writable (k, j, i) array) of this shape; voxels are not set."""
    image = vtk.vtkImageData()
    image.SetDimensions(shape[2], shape[1], shape[0])
    image.AllocateScalars(numpy_support.get_vtk_array_type(np.dtype(dtype)), 1)
    array = numpy_support.vtk_to_numpy(image.GetPointData().GetScalars()).reshape(shape)
    return image, array


def addVolume(image, queryNode, name, role, run):
    """A scalar volume node of these voxels, on exactly the query's grid and under its transform."""
    node = slicer.mrmlScene.CreateNodeByClass("vtkMRMLScalarVolumeNode")
    node.UnRegister(None)
    node.SetName(name)
    node.SetIJKToRASMatrix(geometry.arrayToMatrix(geometry.ijkToLocal(queryNode)))
    node.SetAndObserveImageData(image)
    node.SetAttribute(placement.ROLE, role)
    node.SetAttribute(placement.RUN, run)
    display = slicer.mrmlScene.CreateNodeByClass("vtkMRMLScalarVolumeDisplayNode")
    display.UnRegister(None)
    # Its automatic window would go through all voxels on the GUI thread; ours is known.
    display.AutoWindowLevelOff()
    slicer.mrmlScene.AddNode(display)
    slicer.mrmlScene.AddNode(node)
    node.SetAndObserveDisplayNodeID(display.GetID())
    node.SetAndObserveTransformNodeID(queryNode.GetTransformNodeID())
    placement.placeBeside(node, queryNode)
    return node


def showAsMap(node, threshold, highest):
    """Heat colours from half the threshold up; below it nothing is drawn, so that anatomy stays clear."""
    low = threshold / 2
    _show(node, colors.colorTable(colors.ANOMALY), low, max(highest, threshold * 1.5, low + 1e-3))
    node.GetDisplayNode().SetLowerThreshold(low)
    node.GetDisplayNode().SetUpperThreshold(max(highest, low) * 10 + 1)
    node.GetDisplayNode().ApplyThresholdOn()


def showAsWeight(node):
    """From 0 to 1 for every reference alike, so that the layers can be compared."""
    _show(node, colors.colorTable(colors.WEIGHT), 0.0, 1.0)


def showAsImage(node, queryNode):
    """Grey, with the query's window, so that switching between them shows only real differences."""
    display, query = node.GetDisplayNode(), queryNode.GetDisplayNode()
    display.SetAndObserveColorNodeID("vtkMRMLColorTableNodeGrey")
    if query is not None:
        display.SetWindowLevel(query.GetWindow(), query.GetLevel())


def _show(node, table, low, high):
    display = node.GetDisplayNode()
    display.SetAndObserveColorNodeID(table.GetID())
    display.SetWindowLevelMinMax(low, high)
