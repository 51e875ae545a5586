"""`qt`, `ctk` and `slicer` in the program `pythonqt-host`: PythonQt's own, and real MRML from slicer-core.

What the two hosts share is Testing/Host/d24fadhost, as far as it needs no PySide6.
"""

import importlib
import sys
import tempfile
import time
import types
from pathlib import Path

from PythonQt import QtCore, QtGui, widgets

import __main__

ROOT = Path(__file__).resolve().parents[2]
for folder in ("", "D24FAD", "Testing/Host", "Testing/Unit/dicom"):
    sys.path.insert(0, str(ROOT / folder))
application = __main__._application


def _module(name, *sources):
    made = sys.modules[name] = types.ModuleType(name)
    for source in sources:
        for attribute in dir(source):
            if not attribute.startswith("_"):
                setattr(made, attribute, getattr(source, attribute))
    return made


qt = _module("qt", QtGui, QtCore)
_module("ctk", widgets)

import slicer  # noqa: E402
import slicer.util  # noqa: E402
from d24fadhost.files import CoreIOManager  # noqa: E402
from d24fadhost.logics import LayoutManager, Modules  # noqa: E402

sys.modules["SampleData"] = importlib.import_module("d24fadhost.sampledata")


class Application:
    applicationName = "PythonQt test host"

    def __init__(self):
        self._temporary = tempfile.TemporaryDirectory(prefix="d24fad-pythonqt-")
        self.temporaryPath = self._temporary.name
        self.slicerUserSettingsFilePath = ""
        self._io = CoreIOManager()
        self._settings = qt.QSettings(f"{self.temporaryPath}/host.ini", qt.QSettings.IniFormat)
        self._layout = None

    def layoutManager(self):
        if self._layout is None:
            self._layout = LayoutManager()
        return self._layout

    def applicationLogic(self):
        return self.layoutManager()._application

    def coreIOManager(self):
        return self._io

    def userSettings(self):
        return self._settings

    def testingEnabled(self):
        return False

    def processEvents(self):
        application.processEvents()

    def connect(self, _signal, _slot):
        return True

    def pauseRender(self):
        pass

    def resumeRender(self):
        pass


def start():
    slicer.__path__.append(str(ROOT / "Testing" / "Host" / "d24fadhost" / "slicerpath"))
    slicer.mrmlScene = slicer.vtkMRMLScene()
    slicer.qMRMLWidget = widgets.qMRMLWidget
    slicer.app = Application()
    slicer.modules = Modules()
    slicer.modules.add("D24FAD", ROOT / "D24FAD" / "D24FAD.py")
    slicer.util.loadUI = __main__._loader.load
    slicer.util.childWidgetVariables = childWidgetVariables
    slicer.util.mainWindow = lambda: None
    __main__._nodes, __main__._node = _nodes, slicer.mrmlScene.GetNodeByID
    slicer.app.layoutManager()


def _nodes():
    """What a node selector lists: (ID, name) of the scalar volumes."""
    nodes = slicer.util.getNodesByClass("vtkMRMLScalarVolumeNode")
    return [
        (node.GetID(), node.GetName() or "")
        for node in nodes
        if node.GetClassName() == "vtkMRMLScalarVolumeNode" and not node.GetHideFromEditors()
    ]


def descendants(widget):
    found = list(widget.children())
    return found + [below for child in found for below in descendants(child)]


def childWidgetVariables(widget):
    variables = types.SimpleNamespace()
    for child in descendants(widget):
        if child.name:
            setattr(variables, child.name, child)
    return variables


def turn(seconds=0.1, until=None):
    """Run the event loop for so long, or until the condition holds; whether it does."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        application.processEvents()
        application.sendPostedEvents(None, qt.QEvent.DeferredDelete)
        if until is not None and until():
            return True
        time.sleep(0.002)
    return until is None
