"""Pictures of slice views: the real slice logic's blend of layers, with the segments' outlines on it.

The blend comes from Slicer's own slice logic, without OpenGL. The outlines are drawn here, from the
segmentation's voxels: Slicer's displayable manager for them needs a full application.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import vtk
from vtk.util import numpy_support


def picture(name: str, width: int = 420, height: int = 420, segmentation: Any = None) -> Any:
    """The view of this name ("Red", "Yellow", "Green") as a (rows, columns, 3) array."""
    import slicer

    logic = slicer.app.layoutManager().sliceWidget(name).sliceLogic()
    node = logic.GetSliceNode()
    node.SetDimensions(width, height, 1)
    offset = node.GetSliceOffset()
    logic.FitSliceToBackground(width, height)
    node.SetSliceOffset(offset)  # fitting goes to the middle of the volume
    logic.UpdatePipeline()
    connection = logic.GetImageDataConnection()
    connection.GetProducer().Update()
    image = connection.GetProducer().GetOutputDataObject(0)
    pixels = numpy_support.vtk_to_numpy(image.GetPointData().GetScalars())
    pixels = np.array(pixels.reshape(height, width, -1)[..., :3])
    if segmentation is not None:
        _outline(pixels, node, segmentation)
    return pixels[::-1]


def _outline(pixels: Any, sliceNode: Any, segmentationNode: Any) -> None:
    from D24FADParts import geometry

    height, width = pixels.shape[:2]
    x, y = np.meshgrid(np.arange(width), np.arange(height))
    ras = np.stack([x, y, 0 * x, 0 * x + 1], -1) @ geometry.matrixToArray(sliceNode.GetXYToRAS()).T
    segments = segmentationNode.GetSegmentation()
    for number in range(segments.GetNumberOfSegments()):
        segment = segments.GetNthSegment(number)
        image = segment.GetRepresentation("Binary labelmap")

        matrix = vtk.vtkMatrix4x4()
        image.GetImageToWorldMatrix(matrix)
        index = np.rint(ras @ np.linalg.inv(geometry.matrixToArray(matrix)).T)[..., :3].astype(int)
        size = np.array(image.GetDimensions())
        inside = ((index >= 0) & (index < size)).all(-1)
        index = np.clip(index, 0, size - 1)
        values = numpy_support.vtk_to_numpy(image.GetPointData().GetScalars()).reshape(size[::-1])
        mask = (values[index[..., 2], index[..., 1], index[..., 0]] == segment.GetLabelValue()) & inside
        edge = mask & ~(
            np.roll(mask, 1, 0) & np.roll(mask, -1, 0) & np.roll(mask, 1, 1) & np.roll(mask, -1, 1)
        )
        pixels[edge] = (255 * np.array(segment.GetColor())).astype(np.uint8)
