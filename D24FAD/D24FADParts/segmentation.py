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
_EDITOR = "SegmentEditor"
_CHOSEN_FILL = 0.35
_FADES_OVER = 10  # ranks from the strongest colour to the weakest
BINARY, SURFACE = "Binary labelmap", "Closed surface"


class CandidateSegmentation:
    """Keeps a segmentation node in step with the candidates.

    All segments share one label image on the query's grid, so that a new threshold only rewrites the
    voxels that change. Segments that stay are kept: each new one costs an item in the subject hierarchy
    and a display of its own. Those that go are stripped of the image first: removing one that has it would
    search the whole image for its label.
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
        segmentation = self.node.GetSegmentation()
        wanted = {segmentIdOf(candidate.rank) for candidate in candidates}
        modifying = self.node.StartModify()
        strip(self.node, [name for name in segmentation.GetSegmentIDs() if not self._stays(name, wanted)])
        for candidate in candidates:
            if segmentation.GetSegment(segmentIdOf(candidate.rank)) is None:
                segmentation.AddSegment(self._segment(candidate, name), segmentIdOf(candidate.rank))
        # The array too: VTK keeps its range by it, and DICOM export asks for that to tell empty segments.
        self._image.GetPointData().GetScalars().Modified()
        self._image.Modified()
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

    def _stays(self, segmentId, wanted):
        """Surfaces and the like would not follow the voxels: segments that have any are made anew."""
        segmentation = self.node.GetSegmentation()
        own = segmentation.GetSegment(segmentId).GetRepresentation(BINARY) is self._image
        return own and segmentId in wanted and not segmentation.ContainsRepresentation(SURFACE)

    def _segment(self, candidate, name):
        segment = slicer.vtkSegment()
        segment.SetName(name(candidate))
        segment.AddRepresentation(BINARY, self._image)
        segment.SetLabelValue(candidate.rank)
        share = min(1.0, (candidate.rank - 1) / _FADES_OVER)
        segment.SetColor(*(a + (b - a) * share for a, b in zip(_STRONGEST, _WEAKEST, strict=True)))
        tag(segment)
        return segment


def strip(node, segmentIds=None):
    """Take segments (all) out, their voxels first: else each would be searched for in the whole image."""
    segmentation = node.GetSegmentation()
    for segmentId in list(segmentation.GetSegmentIDs() if segmentIds is None else segmentIds):
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


def select(node, segmentId, queryNode):
    """Fill one segment and only outline the others; the Segment Editor, when it is opened, has it selected,
    so that correcting it needs no search. An editor that is at work on another segmentation is left alone."""
    display = node.GetDisplayNode()
    if display is not None:
        modifying = display.StartModify()
        display.SetOpacity2DFill(_CHOSEN_FILL)
        for other in node.GetSegmentation().GetSegmentIDs():
            display.SetSegmentOpacity2DFill(other, 1.0 if other == segmentId else 0.0)
        display.EndModify(modifying)
    editor = _editorNode()
    if editor.GetSegmentationNode() in (None, node):
        editor.SetAndObserveSegmentationNode(node)
        editor.SetAndObserveSourceVolumeNode(queryNode)
        editor.SetSelectedSegmentID(segmentId)


def _editorNode():
    """The Segment Editor module's parameters, made as that module makes them where it has not been opened."""
    scene = slicer.mrmlScene
    node = scene.GetSingletonNode(_EDITOR, "vtkMRMLSegmentEditorNode")
    if node is None:
        node = scene.CreateNodeByClass("vtkMRMLSegmentEditorNode")
        node.UnRegister(None)
        node.SetSingletonTag(_EDITOR)
        node = scene.AddNode(node)
    return node


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
