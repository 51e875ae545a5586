"""The module's self test: in Slicer by Reload and Test or ctest, outside it by Testing/Slicer.

Needs the detector's packages; without them the last case says so and is passed over.
"""

import numpy as np
import slicer

from . import candidates, geometry, sampledata
from .results import Outcome, Results


def testSampleDataIsMade(test, logic):
    """The demo study and its normals are made and fit each other"""
    nodes = [sampledata.addSubject("Study", 100, lesion=True), sampledata.addSubject("Normal", 1)]
    logic.setQuery(nodes[0])
    row = logic.addReferenceNode(nodes[1])
    assert logic.referenceProblems(row.key) == []
    assert geometry.defaultPlane(nodes[0]) == "axial"
    assert logic.whyNotReady() == ""


def testResultsEnterTheScene(test, logic):
    """An outcome becomes layers, a segmentation and tables, and the threshold moves them"""
    query = sampledata.addSubject("Study", 100)
    shape = query.GetImageData().GetDimensions()[::-1]
    from . import layers

    image, array = layers.emptyImage(shape, np.float32)
    array[:] = 0
    array[20:26, 40:48, 30:38] = 9
    array[40:42, 60:62, 30:32] = 5
    scores = [0.0] * shape[0]
    outcome = Outcome(image, None, [], scores, scores, [], 4.0, True, "axial", [], [])
    found = Results(logic.getParameterNode())
    for _step in found.replace(query, outcome):
        pass
    logic.setResults(found)
    assert found.count == 2
    assert logic.setThreshold(6.0) == 1
    expected = geometry.toPlace(geometry.ijkToWorld(query), (33.5, 43.5, 22.5))
    assert np.abs(np.subtract(found.findings[0].place, expected)).max() < 0.1
    logic.showResults()
    logic.showFinding(1)
    assert logic.currentSlice() == found.findings[0].slice
    found.remove()
    assert found.node("Map") is None
    assert len(slicer.util.getNodesByClass("vtkMRMLSegmentationNode")) == 0


def testCandidates(test, _logic):
    """Touching voxels are one candidate, others are not"""
    array = np.zeros((4, 5, 6), np.float32)
    array[1, 1, 1] = array[1, 2, 2] = 3
    array[0, 4, 5] = 2
    assert candidates.CandidateFinder(array, 1).find(1.5)[0] == 2


def testDetection(test, logic):
    """The detector, in its worker process, finds the lesion of the demo study"""
    if logic.missingPackages():
        test.delayDisplay("The detector's packages are not installed: its part of the test is passed over")
        return
    nodes = sampledata.load()
    logic.setQuery(nodes[0])
    for node in nodes[1:]:
        logic.addReferenceNode(node)
    found = logic.detect()
    assert found.exist
    assert len(found.weightNodes()) == sampledata.NORMAL_COUNT


CASES = (testSampleDataIsMade, testResultsEnterTheScene, testCandidates, testDetection)
