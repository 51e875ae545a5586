"""Everything the panel does, without a widget: the methods that D24FADLogic offers."""

import time

import slicer
from slicer.i18n import tr as _

from D24FADLib.errors import D24FADError, InputError

from . import (
    adding,
    dependencies,
    explain,
    exports,
    geometry,
    placement,
    referencesets,
    results,
    segmentation,
    settings,
    views,
)
from .references import ReferenceList, requireVolume
from .run import Run, check

_PAUSE_SECONDS = 0.005


class DetectionApi:
    """Needs `getParameterNode()`. One run at a time."""

    workerArguments = None  # tests put another worker in the detector's place
    tempFolder = None
    referenceSetFolder = None

    def __init__(self):
        self._run = self._adding = None
        self._results = None
        self._resultsOf = None
        self._seconds = 0.0

    # Study

    def setQuery(self, volumeNode):
        parameters = self.getParameterNode()
        nodeId = volumeNode.GetID() if volumeNode is not None else None
        if parameters.GetNodeReferenceID(settings.QUERY) != nodeId:
            parameters.SetNodeReferenceID(settings.QUERY, nodeId)

    def query(self):
        return self.getParameterNode().GetNodeReference(settings.QUERY)

    def ownVolumeIds(self):
        """The node IDs of all volumes that runs made: they are results, neither studies nor references."""
        nodes = slicer.util.getNodesByClass("vtkMRMLScalarVolumeNode")
        return [node.GetID() for node in nodes if node.GetAttribute(placement.ROLE)]

    def setOption(self, name, value):
        """One of `settings.DEFAULTS`, such as "Plane", "Device" or "Align"."""
        return settings.put(self.getParameterNode(), name, value)

    # References

    def references(self):
        return ReferenceList(self.getParameterNode()).rows()

    def _row(self, key):
        return next(row for row in self.references() if row.key == key)

    def possibleReferences(self):
        """The loaded volumes that could be added now."""
        rows = ReferenceList(self.getParameterNode())
        taken = {self.query(), *(rows.nodeOf(row) for row in rows.rows())}
        own = set(self.ownVolumeIds())
        found = []
        for node in slicer.util.getNodesByClass("vtkMRMLScalarVolumeNode"):
            if node not in taken and node.GetID() not in own and not node.GetHideFromEditors():
                try:
                    requireVolume(node, "")
                except D24FADError:
                    continue
                found.append(node)
        return found

    def addReferenceNode(self, volumeNode):
        return ReferenceList(self.getParameterNode()).addNode(volumeNode)

    def addReferencePath(self, path):
        """One file or folder, for scripts: waits, raises InputError where it cannot be added."""
        problems = self.addReferencePaths([path])
        if problems:
            raise InputError(problems[0])
        return self.references()[-1]

    # With `callbacks` (see `adding.Adding`) these four return at once; without, for scripts, they wait and
    # return sentences about what could not be added.

    def addReferencePaths(self, paths, callbacks=None):
        """Files, and folders with one DICOM series each."""
        return self._add(adding.ofPaths(paths), callbacks)

    def addReferenceFolder(self, folder, callbacks=None):
        """Every image file of a folder but segmentations, or the DICOM series in it."""
        return self._add(adding.ofFolder(folder), callbacks)

    def addReferencesFromDicomSelection(self, callbacks=None):
        """The series selected in the DICOM browser."""
        return self._add(adding.ofDicomSelection(), callbacks)

    def loadReferenceSet(self, name, callbacks=None):
        """Replace the list by a saved set; raises InputError where the set itself cannot be read."""
        entries = referencesets.load(ReferenceList(self.getParameterNode()), name, self.referenceSetFolder)
        return self._add(entries, callbacks, isSet=True)

    def _add(self, things, callbacks, isSet=False):
        before = _("The request before was ended before all its references were added.")
        problems = [before] if self.isAdding() else []
        self.stopAdding(before)
        rows = ReferenceList(self.getParameterNode())
        made = self._adding = adding.Adding(rows, things, callbacks or _Waiting(None), isSet, problems)
        while callbacks is None and made.active:
            self._giveWay()
        return made.problems if callbacks is None else []

    def isAdding(self):
        return self._adding is not None and self._adding.active

    def currentAdding(self):
        return self._adding

    def stopAdding(self, why):
        """`why` is a sentence for the reader."""
        if self._adding is not None:
            self._adding.stop(why)

    def abandonAdding(self):
        if self._adding is not None:
            self._adding.abandon()

    def _giveWay(self):
        slicer.app.processEvents()
        time.sleep(_PAUSE_SECONDS)  # the worker needs the processor more

    def removeReferences(self, keys):
        ReferenceList(self.getParameterNode()).remove(keys)

    def setReferenceUsed(self, key, use):
        ReferenceList(self.getParameterNode()).setUsed(key, use)

    def referenceSource(self, key):
        return ReferenceList(self.getParameterNode()).sourceOf(self._row(key))

    def referenceProblems(self, key):
        return ReferenceList(self.getParameterNode()).problems(self._row(key), self.query())

    def referenceSets(self):
        return referencesets.names(self.referenceSetFolder)

    def saveReferenceSet(self, name):
        return referencesets.save(ReferenceList(self.getParameterNode()), name, self.referenceSetFolder)

    # Detection

    def missingPackages(self):
        return dependencies.missing()

    def helpfulPackages(self):
        """What the detector can do without, but is slower then."""
        return dependencies.helpful()

    def installPackages(self, packages, wheelFolder=""):
        """As `dependencies.install`."""
        return dependencies.install(packages, wheelFolder)

    def whyNotReady(self):
        """A sentence on what is missing for a run, "" where nothing is."""
        try:
            check(self.getParameterNode())
        except D24FADError as error:
            return str(error)
        return ""

    def isRunning(self):
        return self._run is not None and self._run.active

    def currentRun(self):
        return self._run

    def lastRunSeconds(self):
        return self._run.seconds if self._run is not None else 0.0

    def startDetection(self, callbacks):
        """Start a run; `callbacks` is told as `run.Run` says. A second call while one runs does nothing."""
        if self.isRunning():
            return self._run
        parameters = self.getParameterNode()
        keep = settings.isOn(parameters, "KeepPrevious")
        told = _ShowWhenDone(self, callbacks)
        started = Run(
            parameters, settings.options(parameters), told, keep, self.workerArguments, self.tempFolder
        )
        started.start()
        self._run = started
        return started

    def cancelDetection(self):
        if self._run is not None:
            self._run.cancel()

    def abandonDetection(self):
        if self._run is not None:
            self._run.abandon()

    def detect(self, callbacks=None):
        """Run to the end, for scripts: returns the results, raises RuntimeError where there are none."""
        outcome = _Waiting(callbacks)
        self.startDetection(outcome)
        while self.isRunning():
            self._giveWay()
        if outcome.problem is not None:
            raise RuntimeError(outcome.problem)
        return self.results()

    # Findings

    def results(self):
        parameters = self.getParameterNode()
        if self._results is None or self._resultsOf is not parameters:
            self._results, self._resultsOf = results.Results(parameters), parameters
        self._results.letGoOfWhatIsGone()
        return self._results

    def setResults(self, found):
        self._results, self._resultsOf = found, self.getParameterNode()

    def setThreshold(self, value):
        return self.results().setThreshold(value)

    def showLayer(self, which="map"):
        """ "map", "expected", "none", or the number of a reference, from 0, whose weight to show."""
        found = self.results()
        node = {"map": found.node(results.MAP), "expected": found.node(results.EXPECTED)}.get(which)
        if isinstance(which, int):
            weights = found.weightNodes()
            node = weights[which] if which < len(weights) else None
        opacity = float(settings.get(self.getParameterNode(), "Opacity"))
        views.showLayers(found.query, node, opacity)

    def setOpacity(self, value):
        self.setOption("Opacity", f"{value:.3f}")
        views.setOpacity(value)

    def showResults(self):
        """Study and map in all slice views, at the strongest finding; oblique studies in their own planes."""
        found = self.results()
        if not found.exist:
            return
        self.showLayer("map")
        if geometry.isOblique(geometry.ijkToWorld(found.query)):
            views.alignTo(found.query)
        slicer.util.setSliceViewerLayers(fit=True)
        if found.findings:
            views.jumpTo(found.findings[0].peakPlace)

    def showFinding(self, rank):
        """Move all slice views to a finding and select its segment."""
        found = self.results()
        finding = next((finding for finding in found.findings if finding.rank == rank), None)
        if finding is None:
            return
        views.jumpTo(finding.peakPlace)
        node = found.node(results.SEGMENTATION)
        if node is not None:
            segmentation.select(node, finding.segmentId, found.query)

    def explanation(self, rank):
        """Why this finding is one, and against which references it was judged: sentences, "" without any."""
        found = self.results()
        finding = next((one for one in found.findings if one.rank == rank), None)
        if finding is None:
            return ""
        judged, said = found.judgedBy(finding), found.explanationOf(finding)
        return explain.finding(finding.slice, judged, said, found.about.get("references", []))

    def jumpToSlice(self, number):
        """Move the slice views to a slice of the study."""
        found = self.results()
        if found.exist:
            world = geometry.ijkToWorld(found.query)
            dimensions = found.query.GetImageData().GetDimensions()
            views.jumpTo(geometry.sliceCenter(world, dimensions, found.sliceAxis(), number))

    def currentSlice(self):
        """The study's slice that a view shows now, along the plane of the run; None where none does."""
        found = self.results()
        return views.currentSlice(found.query, found.sliceAxis()) if found.exist else None

    # Export

    def exportSegmentation(self, path):
        return exports.exportSegmentation(self.results(), path)

    def exportDicomSegmentation(self, folder):
        return exports.exportDicomSegmentation(self.results(), folder)

    def exportFindings(self, path):
        return exports.exportFindings(self.results(), path)

    def exportMap(self, path):
        return exports.exportMap(self.results(), path)


class _ShowWhenDone:
    """Passes a run's reports on, and shows its results when it has ended well."""

    def __init__(self, logic, callbacks):
        self._logic, self._callbacks = logic, callbacks

    def onResults(self, found):
        self._logic.setResults(found)
        self._callbacks.onResults(found)

    def onShow(self):
        self._logic.showResults()

    def __getattr__(self, name):
        return getattr(self._callbacks, name)


class _Waiting:
    """The callbacks of a run that a script waits for."""

    def __init__(self, callbacks):
        self._callbacks = callbacks
        self.problem = None

    def onFailed(self, problem):
        self.problem = problem.text

    def onCancelled(self):
        self.problem = _("The run was cancelled.")

    def __getattr__(self, name):
        if self._callbacks is not None:
            return getattr(self._callbacks, name)
        return lambda *_arguments: None
