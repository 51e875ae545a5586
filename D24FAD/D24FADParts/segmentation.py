"""The candidates as a segmentation: one segment each, with terminology and the algorithm's name."""

import numpy as np
import slicer
from vtk.util import numpy_support

from . import geometry, placement

TERMINOLOGY = (
    "Segmentation category and type - DICOM master list"
    "~SCT^49755003^Morphologically Altered Structure"
    "~SCT^4147007^Mass"
    "~^^"
    "~Anatomic codes - DICOM master list"
    "~^^~^^"
)
_STRONGEST = (0.90, 0.10, 0.29)
_WEAKEST = (1.00, 0.75, 0.30)
BINARY = "Binary labelmap"


class CandidateSegmentation:
    """Keeps a segmentation node in step with the candidates.

    All segments share one label image on the query's grid, so that a new threshold only rewrites the
    voxels that change. Segments are stripped of it before they are removed: removing one that has it
    would search the whole image for its label.
    """

    def __init__(self, node, queryNode):
        self.node = node
        dimensions = queryNode.GetImageData().GetDimensions()
        self._image = slicer.vtkOrientedImageData()
        self._image.SetDimensions(*dimensions)
        self._image.SetImageToWorldMatrix(geometry.arrayToMatrix(geometry.ijkToLocal(queryNode)))
        # Pages of zeros come when they are first written: allocating these takes no time.
        self._labels = np.zeros(dimensions[0] * dimensions[1] * dimensions[2], np.uint8)
        scalars = numpy_support.numpy_to_vtk(self._labels, deep=False)
        scalars.SetName("ImageScalars")
        self._image.GetPointData().SetScalars(scalars)
        self._written = None
        self._ownTime = self._image.GetMTime()

    def update(self, candidates, index, rank, name):
        """Make the node's segments these candidates; `name(candidate)` gives each its name."""
        if self._written is not None:
            self._labels[self._written] = 0
        self._labels[index] = rank
        self._written = index
        self._image.Modified()
        segmentation = self.node.GetSegmentation()
        modifying = self.node.StartModify()
        strip(self.node)
        for candidate in candidates:
            segmentation.AddSegment(
                self._segment(candidate, len(candidates), name), segmentIdOf(candidate.rank)
            )
        self.node.EndModify(modifying)
        self._ownTime = self._image.GetMTime()

    def wasEdited(self):
        """Whether someone painted or erased, added, removed or took a segment elsewhere since `update`."""
        segmentation = self.node.GetSegmentation()
        if segmentation is None:
            return False
        images = [
            segmentation.GetNthSegment(number).GetRepresentation(BINARY)
            for number in range(segmentation.GetNumberOfSegments())
        ]
        ours = all(image is self._image for image in images)
        return not ours or self._image.GetMTime() > self._ownTime

    def _segment(self, candidate, count, name):
        segment = slicer.vtkSegment()
        segment.SetName(name(candidate))
        segment.AddRepresentation(BINARY, self._image)
        segment.SetLabelValue(candidate.rank)
        share = (candidate.rank - 1) / max(1, count - 1)
        segment.SetColor(*(a + (b - a) * share for a, b in zip(_STRONGEST, _WEAKEST, strict=True)))
        tag(segment)
        return segment


def strip(node):
    """Take all segments out, their voxels first: else each would be searched for in the whole image."""
    segmentation = node.GetSegmentation()
    for segmentId in list(segmentation.GetSegmentIDs()):
        segmentation.GetSegment(segmentId).RemoveAllRepresentations()
        segmentation.RemoveSegment(segmentId)


def isWhatWasFound(node, candidates):
    """Whether a segmentation that was loaded holds these candidates still, as far as sizes tell."""
    segmentation = node.GetSegmentation()
    segments = [segmentation.GetNthSegment(number) for number in range(segmentation.GetNumberOfSegments())]
    sizes = []
    for segment in segments:
        image = segment.GetRepresentation(BINARY)
        scalars = image.GetPointData().GetScalars() if image is not None else None
        if scalars is None:
            return False
        sizes.append(int((numpy_support.vtk_to_numpy(scalars) == segment.GetLabelValue()).sum()))
    return sorted(sizes) == sorted(candidate.voxels for candidate in candidates)


def segmentIdOf(rank):
    return f"candidate_{rank:03d}"


def tag(segment):
    """What a DICOM SEG needs to say of a segment: what it is, and that an algorithm made it."""
    from D24FADLib import __version__

    segment.SetTag(slicer.vtkSegment.GetTerminologyEntryTagName(), TERMINOLOGY)
    segment.SetTag("DICOM.SegmentAlgorithmType", "AUTOMATIC")
    segment.SetTag("DICOM.SegmentAlgorithmName", f"D24FAD {__version__}")


def addSegmentationNode(queryNode, name, role, run):
    """An empty segmentation on the query's grid, drawn as outlines that let the map be seen."""
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", name)
    node.CreateDefaultDisplayNodes()
    node.SetReferenceImageGeometryParameterFromVolumeNode(queryNode)
    node.SetNodeReferenceID(
        slicer.vtkMRMLSegmentationNode.GetReferenceImageGeometryReferenceRole(), queryNode.GetID()
    )
    node.SetAttribute(placement.ROLE, role)
    node.SetAttribute(placement.RUN, run)
    node.SetAndObserveTransformNodeID(queryNode.GetTransformNodeID())
    display = node.GetDisplayNode()
    display.SetVisibility3D(False)
    display.SetOpacity2DFill(0.0)
    display.SetOpacity2DOutline(1.0)
    placement.placeBeside(node, queryNode)
    return node
