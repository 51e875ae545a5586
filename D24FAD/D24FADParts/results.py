"""The results of a run as nodes of the scene, and the threshold that its candidates follow."""

from dataclasses import asdict, dataclass, field

import numpy as np
import slicer
from slicer.i18n import tr as _

from . import candidates, colors, geometry, layers, placement, segmentation, settings, tables

MAP, EXPECTED, WEIGHT, SEGMENTATION = "Map", "ExpectedNormal", "Weight", "Segmentation"
FINDINGS, SCORES, PLOT = "FindingsTable", "ScoreTable", "ScorePlot"
REFERENCE = "D24FAD.Reference"  # of a weight volume: the name of the reference it is about


@dataclass(frozen=True)
class Finding:
    """A candidate where the reader needs it: millimetres, millilitres, the slice of the highest voxel."""

    rank: int
    peak: float
    mean: float
    volumeMl: float
    slice: int
    place: tuple  # of the centre, world RAS
    peakPlace: tuple  # of the highest voxel: surely inside, where a bent finding's centre is not
    segmentId: str
    pixels: object = None  # of a single image, else None
    areaMm2: object = None  # of a single image whose pixels have a size


@dataclass
class Outcome:
    """What the worker handed back, read into memory but not yet in the scene."""

    map: object  # vtkImageData
    expected: object
    weights: list
    peaks: list
    means: list
    sliceWeights: list  # one list a reference
    threshold: float
    calibrated: bool
    plane: str
    warnings: list
    references: list  # (name, key) of each reference, in the order of the weights
    score: float = 0.0
    leastVoxels: int = 1
    budget: float = 0.0  # findings that a normal study may have on average at the threshold; 0: unknown
    withheld: str = ""  # why the detector gives no findings, where it does not
    unusual: tuple = (None, None)  # shares of normal studies that score as high, as low
    explanations: list = field(default_factory=list)  # runrecord.Explanation of the detector's findings
    fused: bool = False  # whether several kinds of evidence make up the map, whose unit is its own then


class Results:
    """The nodes of the last run that the parameter node names. Deleted nodes are simply not there."""

    def __init__(self, parameterNode):
        self._node = parameterNode
        self._letGo()

    # What there is

    def node(self, role, number=0):
        found = self._node.GetNthNodeReference(f"Result.{role}", number)
        return found if found is not None and found.GetScene() is not None else None

    def weightNodes(self):
        count = self._node.GetNumberOfNodeReferences(f"Result.{WEIGHT}")
        return [node for node in (self.node(WEIGHT, number) for number in range(count)) if node is not None]

    @property
    def query(self):
        return self.node("Query")

    @property
    def exist(self):
        return self.node(MAP) is not None and self.query is not None

    @property
    def about(self):
        """{threshold, calibrated, plane, score, warnings, lowest, highest, leastVoxels, budget, references,
        withheld, unusual, explanations, fused} of the run."""
        return settings.getJson(self._node, "Result", {})

    @property
    def count(self):
        """The number of candidates at the threshold; `findings` lists the strongest of them."""
        return self._count if self._areOfTheMap() else 0

    @property
    def findings(self):
        return self._findings if self._areOfTheMap() else []

    @property
    def mapKey(self):
        """Differs whenever another map, or the same with other voxels, is there; None where there is none."""
        mapNode = self.node(MAP)
        return _voxelsOf(mapNode) if mapNode is not None else None

    def _areOfTheMap(self):
        """Whether what was found is of the map in the scene: another scene may have one of the same ID."""
        return self._findingsOf is not None and self._findingsOf == self.mapKey

    @property
    def threshold(self):
        return float(self._node.GetParameter("Threshold") or self.about.get("threshold", 0.0))

    @property
    def unit(self):
        return _("SD") if self.about.get("calibrated") and not self.about.get("fused") else ""

    def judgedBy(self, finding):
        """[(reference, its weight in the finding's slice)], the weightiest first; [] where unknown."""
        scores, names = self.node(SCORES), self.about.get("references", [])
        weights = []
        for number, name in enumerate(names, 1):
            column = tables.columnValues(scores, tables.weightTitle(number, name)) if scores else []
            if finding.slice < len(column) and np.isfinite(column[finding.slice]):
                weights.append((name, float(column[finding.slice])))
        return sorted(weights, key=lambda pair: -pair[1])

    def explanationOf(self, finding):
        """What the detector said of this very finding (`runrecord.Explanation` as a dictionary), else {}."""
        near = 0.5 * min(self.query.GetSpacing())
        for said in self.about.get("explanations", []):
            if np.abs(np.subtract(said["peakPlace"], finding.peakPlace)).max() < near:
                return said
        return {}

    def sliceAxis(self):
        return geometry.sliceAxis(geometry.ijkToLocal(self.query), self.about.get("plane", "axial"))

    # A new run

    def replace(self, queryNode, outcome, keep=False):
        """Put an outcome into the scene in place of the one before; a generator, a step a node."""
        if keep:
            self._forget()
        else:
            self.remove()
        yield
        colors.colorTable(colors.ANOMALY)
        colors.colorTable(colors.WEIGHT)
        yield
        run = slicer.mrmlScene.GenerateUniqueName("D24FAD run")
        name = queryNode.GetName()
        self._refer("Query", queryNode)
        mapNode = layers.addVolume(
            outcome.map, queryNode, _("{name} anomaly map").format(name=name), MAP, run
        )
        self._refer(MAP, mapNode)
        yield
        self._finder = candidates.CandidateFinder(slicer.util.arrayFromVolume(mapNode), outcome.threshold / 2)
        self._finderOf = _voxelsOf(mapNode)
        settings.putJson(
            self._node,
            "Result",
            {
                "threshold": outcome.threshold,
                "calibrated": outcome.calibrated,
                "plane": outcome.plane,
                "score": outcome.score,
                "warnings": outcome.warnings,
                "lowest": self._finder.lowest,
                "highest": self._finder.highest,
                "leastVoxels": outcome.leastVoxels,
                "budget": outcome.budget,
                "references": [name for name, _key in outcome.references],
                "withheld": outcome.withheld,
                "unusual": outcome.unusual,
                "explanations": [asdict(explanation) for explanation in outcome.explanations],
                "fused": outcome.fused,
            },
        )
        yield
        if outcome.expected is not None:
            title = _("{name} expected normal").format(name=name)
            node = layers.addVolume(outcome.expected, queryNode, title, EXPECTED, run)
            layers.showAsImage(node, queryNode)
            self._refer(EXPECTED, node)
            yield
        for image, (reference, _key) in zip(outcome.weights, outcome.references, strict=False):
            title = _("{name} weight of {reference}").format(name=name, reference=reference)
            node = layers.addVolume(image, queryNode, title, WEIGHT, run)
            node.SetAttribute(REFERENCE, reference)
            layers.showAsWeight(node)
            self._node.AddNodeReferenceID(f"Result.{WEIGHT}", node.GetID())
            yield
        self._addTables(queryNode, outcome, name, run)
        yield
        self._segmentsOf(self.node(SEGMENTATION), queryNode)
        yield
        self.setThreshold(outcome.threshold)

    def _addTables(self, queryNode, outcome, name, run):
        title = _("{name} candidate findings").format(name=name)
        self._refer(SEGMENTATION, segmentation.addSegmentationNode(queryNode, title, SEGMENTATION, run))
        self._refer(
            FINDINGS, tables.addTable(queryNode, _("{name} findings").format(name=name), FINDINGS, run)
        )
        scores = tables.addTable(queryNode, _("{name} slice scores").format(name=name), SCORES, run)
        names = [reference for reference, _key in outcome.references]
        tables.fillScores(scores, outcome.peaks, outcome.means, outcome.sliceWeights, names)
        self._refer(SCORES, scores)
        title = _("{name} score plot").format(name=name)
        self._refer(PLOT, tables.addPlot(queryNode, scores, title, PLOT, run))

    def _refer(self, role, node):
        self._node.SetNodeReferenceID(f"Result.{role}", node.GetID())

    def remove(self):
        """Take the last run's nodes out of the scene."""
        nodes = [self.node(role) for role in (MAP, EXPECTED, SEGMENTATION, FINDINGS, SCORES, PLOT)]
        plot = self.node(PLOT)
        if plot is not None:
            for number in range(plot.GetNumberOfPlotSeriesNodes()):
                nodes.append(plot.GetNthPlotSeriesNode(number))
        nodes += self.weightNodes()
        self._forget()
        for node in nodes:
            if node is not None:
                _removeWhole(node)

    def _forget(self):
        for role in ("Query", MAP, EXPECTED, WEIGHT, SEGMENTATION, FINDINGS, SCORES, PLOT):
            self._node.RemoveNodeReferenceIDs(f"Result.{role}")
        self._node.UnsetParameter("Result")
        self._node.UnsetParameter("Threshold")
        self._letGo()

    def letGoOfWhatIsGone(self):
        """A closed scene's voxels are freed only when nothing here holds them any more."""
        if self._segments is not None and self._segments.node.GetScene() is None:
            self._segments = None
        if self._finderOf != self.mapKey:
            self._finder = self._finderOf = None
        if not self._areOfTheMap():
            self._count, self._findings, self._findingsOf = 0, [], None

    def _letGo(self):
        self._finder = self._finderOf = self._segments = None
        self._count, self._findings, self._findingsOf = 0, [], None

    # The threshold

    def thresholdRange(self):
        """(lowest, highest) that the slider offers."""
        finder = self._findCandidates()
        return finder.lowest, max(finder.highest, finder.lowest) * 1.02

    def setThreshold(self, value):
        """Make segmentation, findings and map follow; returns the number of candidates."""
        mapNode, query, segmentNode = self.node(MAP), self.query, self.node(SEGMENTATION)
        if mapNode is None or query is None:
            return 0
        self._node.SetParameter("Threshold", repr(float(value)))
        finder = self._findCandidates()
        self._count, found, index, rank = self._found(value)
        self._findings, self._findingsOf = self._toFindings(found, query), _voxelsOf(mapNode)
        if segmentNode is not None:
            self._segmentsOf(segmentNode, query).update(found, index, rank, self._segmentName)
            self._node.SetParameter("SegmentedAt", repr(float(value)))
        if self.node(FINDINGS) is not None:
            tables.fillFindings(self.node(FINDINGS), self.findings)
        layers.showAsMap(mapNode, value, finder.highest)
        return self.count

    def restore(self):
        """After a scene was loaded: the findings of its segmentation's threshold, without redoing it."""
        if self.exist and not self._areOfTheMap():
            self._count, found, _index, _rank = self._found(self.threshold)
            self._findings, self._findingsOf = self._toFindings(found, self.query), self.mapKey

    def _segmentName(self, candidate):
        return _("Candidate {rank}").format(rank=candidate.rank)

    def _segmentsOf(self, node, query):
        if self._segments is None or self._segments.node is not node:
            edited = self._loadedWasEdited(node)
        else:
            edited = self._segments.wasEdited()
            if not edited:
                return self._segments
        if edited:
            node = self._keepEdited(node, query)
        self._segments = segmentation.CandidateSegmentation(node, query)
        return self._segments

    def _loadedWasEdited(self, node):
        """Whether a segmentation that came with a saved scene is not what its threshold gave."""
        if node.GetSegmentation().GetNumberOfSegments() == 0:
            return False
        before = float(self._node.GetParameter("SegmentedAt") or self.about.get("threshold", 0.0))
        found = self._found(before)[1]
        return not segmentation.isWhatWasFound(node, found)

    def _keepEdited(self, node, query):
        """What was corrected by hand is never overwritten: it stays, and a new one follows the slider."""
        name, run = node.GetName(), node.GetAttribute(placement.RUN)
        node.SetName(_("{name} (edited)").format(name=name))
        node.RemoveAttribute(placement.ROLE)
        node.SetDisplayVisibility(False)
        fresh = segmentation.addSegmentationNode(query, name, SEGMENTATION, run)
        self._refer(SEGMENTATION, fresh)
        return fresh

    def _found(self, threshold):
        """As `CandidateFinder.find`; nothing where the detector withholds its findings."""
        about = self.about
        threshold = float("inf") if about.get("withheld") else threshold
        return self._findCandidates().find(threshold, about.get("leastVoxels", 1))

    def _findCandidates(self):
        mapNode = self.node(MAP)
        if self._finder is None or self._finderOf != _voxelsOf(mapNode):
            array = slicer.util.arrayFromVolume(mapNode)
            self._finder = candidates.CandidateFinder(array, self.about.get("threshold", 0.0) / 2)
            self._finderOf = _voxelsOf(mapNode)
        return self._finder

    def _toFindings(self, found, query):
        world = geometry.ijkToWorld(query)
        voxelMl = abs(float(np.linalg.det(world[:3, :3]))) / 1000.0
        axis = self.sliceAxis()
        flat = query.GetImageData().GetDimensions()[2] == 1
        sides = np.linalg.norm(world[:3, :2], axis=0)
        # Slicer takes pixels for 1 mm where nothing tells their size.
        pixelMm2 = float(sides.prod()) if flat and not np.allclose(sides, 1.0, atol=1e-9) else None
        return [
            Finding(
                candidate.rank,
                candidate.peak,
                candidate.mean,
                candidate.voxels * voxelMl,
                candidate.peakIjk[axis],
                geometry.toPlace(world, candidate.centerIjk),
                geometry.toPlace(world, candidate.peakIjk),
                segmentation.segmentIdOf(candidate.rank),
                candidate.voxels if flat else None,
                None if pixelMm2 is None else candidate.voxels * pixelMm2,
            )
            for candidate in found
        ]


def _voxelsOf(volumeNode):
    """A key of these voxels as they are now: VTK never gives a time of modification twice."""
    image = volumeNode.GetImageData()
    return image.GetPointData().GetScalars().GetMTime() if image is not None else None


def _removeWhole(node):
    """Remove a node with its display and storage nodes; its place in the hierarchy goes with it."""
    companions = []
    for count, nth in (
        ("GetNumberOfDisplayNodes", "GetNthDisplayNode"),
        ("GetNumberOfStorageNodes", "GetNthStorageNode"),
    ):
        if hasattr(node, count):
            companions += [getattr(node, nth)(index) for index in range(getattr(node, count)())]
    if node.IsA("vtkMRMLSegmentationNode"):
        segmentation.strip(node)
    slicer.mrmlScene.RemoveNode(node)
    for companion in companions:
        if companion is not None and companion.GetScene() is not None:
            slicer.mrmlScene.RemoveNode(companion)
