"""The D24FAD module: few-shot anomaly detection against a few normal references. Research use only."""

import importlib.util
import os
import sys

import qt
import slicer
from slicer.i18n import tr as _
from slicer.i18n import translate
from slicer.ScriptedLoadableModule import (
    ScriptedLoadableModule,
    ScriptedLoadableModuleLogic,
    ScriptedLoadableModuleTest,
    ScriptedLoadableModuleWidget,
)
from slicer.util import VTKObservationMixin

if importlib.util.find_spec("D24FADLib") is None:
    # A source checkout: the library lies beside the module's folder. Installed, it lies beside this file.
    sys.path.append(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

from D24FADParts.api import DetectionApi


class D24FAD(ScriptedLoadableModule):
    def __init__(self, parent):
        ScriptedLoadableModule.__init__(self, parent)
        parent.title = _("D24FAD")
        parent.categories = [translate("qSlicerAbstractCoreModule", "Quantification")]
        parent.dependencies = []
        parent.contributors = ["D24FAD for 3D Slicer contributors"]
        parent.helpText = _(
            "Shows where a study departs from a few normal studies of the same protocol, how strongly, and "
            "which normal study each slice was judged against. Research use only; not a diagnosis."
        )
        parent.acknowledgementText = _(
            "After D24FAD: few-shot anomaly detection, a teacher, a student and learned weights (ICLR 2026)."
        )
        slicer.app.connect("startupCompleted()", registerSampleData)


def registerSampleData():
    """Offer the simulated demo subjects in the Sample Data module."""
    from D24FADParts import sampledata

    sampledata.register()


class D24FADWidget(ScriptedLoadableModuleWidget, VTKObservationMixin):
    """The panel: puts the four steps together and keeps them in step with the scene."""

    def __init__(self, parent=None):
        self.logic = None
        self._steps = []
        self._later = None
        VTKObservationMixin.__init__(self)
        ScriptedLoadableModuleWidget.__init__(self, parent)

    def setup(self):
        ScriptedLoadableModuleWidget.setup(self)
        from D24FADParts.panel.findings import FindingsStep
        from D24FADParts.panel.references import ReferencesStep
        from D24FADParts.panel.run import RunStep
        from D24FADParts.panel.study import StudyStep

        uiWidget = slicer.util.loadUI(self.resourcePath("UI/D24FAD.ui"))
        self.layout.addWidget(uiWidget)
        self.ui = slicer.util.childWidgetVariables(uiWidget)
        uiWidget.setMRMLScene(slicer.mrmlScene)
        self.logic = D24FADLogic()
        self.study = StudyStep(self.ui, self.logic, self.refresh)
        self.references = ReferencesStep(self.ui, self.logic, self.refresh)
        self.run = RunStep(self.ui, self.logic, self.refresh, lambda _results: None)
        self.findings = FindingsStep(self.ui, self.logic)
        self._steps = [self.study, self.references, self.run, self.findings]
        scene = slicer.mrmlScene
        for event in (scene.NodeRemovedEvent, scene.NodeAddedEvent):
            self.addObserver(scene, event, self._onSceneChanged)
        for event in (scene.StartCloseEvent, scene.StartImportEvent, scene.StartRestoreEvent):
            self.addObserver(scene, event, self._onSceneSwitches)
        ends = (scene.EndCloseEvent, scene.EndImportEvent, scene.EndRestoreEvent, scene.EndBatchProcessEvent)
        for event in ends:
            self.addObserver(scene, event, self._onSceneChanged)
        self._later = qt.QTimer()
        self._later.setSingleShot(True)
        self._later.setInterval(0)
        self._later.connect("timeout()", self._follow)
        self._chooseQuery()
        self.refresh()

    def cleanup(self):
        self.removeObservers()
        if self._later is not None:
            self._later.stop()
        if self.logic is not None:
            self.logic.abandonDetection()
            self.logic.abandonAdding()
        if self._steps:
            self.findings.stopObserving()
            # After a Reload the old selector lives on, hidden, and still follows the scene.
            self.study.hold()
        # A widget that is still referred to when Slicer exits can crash it.
        self._steps = []
        self.study = self.references = self.run = self.findings = self.ui = None

    def enter(self):
        self._follow()

    def exit(self):
        """Nothing to do: a run goes on, and the panel keeps in step with the scene."""

    def onReload(self):
        """Developer mode's Reload: the module's parts anew too, not only its own file."""
        for name in [name for name in sys.modules if name.partition(".")[0] == "D24FADParts"]:
            del sys.modules[name]
        ScriptedLoadableModuleWidget.onReload(self)

    def refresh(self):
        """Show what the parameter node and the scene say now."""
        for step in self._steps:
            step.refresh()

    def _chooseQuery(self):
        """What the selector shows is what is chosen: the first volume, until the user chooses another."""
        if self.logic.query() is None:
            self.logic.setQuery(self.ui.querySelector.currentNode())

    def _onSceneSwitches(self, _caller=None, _event=None):
        """Until the scene is whole again, what its selector picks on its own is nobody's choice."""
        if self._steps:
            self.study.hold()

    def _onSceneChanged(self, _caller=None, _event=None):
        """Once for any number of changes in a row, and after the node that was added has its voxels."""
        if self._later is not None:
            self._later.start()

    def _follow(self):
        # Loading may turn the event loop half way; what ends a batch calls again.
        if self._steps and not slicer.mrmlScene.IsBatchProcessing():
            self.study.release()
            self._chooseQuery()
            self.refresh()


class D24FADLogic(ScriptedLoadableModuleLogic, DetectionApi):
    """Everything the panel does, without a widget; see `D24FADParts.api.DetectionApi`."""

    def __init__(self):
        ScriptedLoadableModuleLogic.__init__(self)
        DetectionApi.__init__(self)


class D24FADTest(ScriptedLoadableModuleTest):
    """Runs in Slicer's self tests too; the cases are in `D24FADParts.selftest`."""

    def setUp(self):
        slicer.mrmlScene.Clear()

    def runTest(self):
        from D24FADParts import selftest

        for case in selftest.CASES:
            self.setUp()
            self.delayDisplay(case.__doc__)
            case(self, D24FADLogic())
        self.delayDisplay(_("Test passed"))
