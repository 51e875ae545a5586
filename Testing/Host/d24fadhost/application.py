"""Starts the host: the Qt application, the real scene and logics, and what hangs from `slicer.app`."""

from __future__ import annotations

import atexit
import os
import sys
import tempfile
import types
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import vtk

from d24fadhost import ctkwidgets, loadui, mrmlwidgets, sampledata
from d24fadhost.files import CoreIOManager
from d24fadhost.logics import LayoutManager, Modules

HERE = Path(__file__).resolve().parent
_host: Host | None = None


@dataclass
class Host:
    """What a test can look at and steer: shown messages, the answers to give, the Qt application."""

    application: Any
    messages: list[str] = field(default_factory=list)
    answers: list[Any] = field(default_factory=list)
    buttons: list[list[str]] = field(default_factory=list)
    picture: str = ""  # where the next message box is to be drawn

    def new_scene(self) -> None:
        """Close the scene as File / Close does; slice views and selection survive."""
        import slicer

        slicer.mrmlScene.Clear(False)
        slicer.app.renewLayout()
        self.messages.clear()
        self.answers.clear()
        self.buttons.clear()
        self.picture = ""

    def process_events(self, seconds: float = 0.0, until: Any = None) -> bool:
        """Run the event loop for so long, or until the condition holds; whether it does."""
        from PySide6 import QtCore

        deadline = QtCore.QDeadlineTimer(int(seconds * 1000))
        while True:
            self.application.processEvents(QtCore.QEventLoop.AllEvents, 20)
            if until is not None and until():
                return True
            if deadline.hasExpired():
                return until is None
            QtCore.QThread.msleep(2)


def start() -> Host:
    """The one host of this process."""
    global _host
    if _host is None:
        _host = _start()
    return _host


def _start() -> Host:
    os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")
    if not os.environ.get("DISPLAY"):
        os.environ.setdefault("VTK_DEFAULT_OPENGL_WINDOW", "vtkEGLRenderWindow")
    os.environ.setdefault("QT_LOGGING_RULES", "qt.qpa.fonts=false")
    from PySide6 import QtGui, QtWidgets

    application = QtWidgets.QApplication.instance() or QtWidgets.QApplication(["host"])
    application.setStyle("Fusion")
    application.setFont(QtGui.QFont("DejaVu Sans", 9))
    host = Host(application)

    from d24fadhost.qtmodule import QtModule

    qt: Any = QtModule("qt")
    qt.QMessageBox = _message_box(host)
    sys.modules["qt"] = qt
    ctk = types.ModuleType("ctk")
    for name, cls in ctkwidgets.WIDGETS.items():
        setattr(ctk, name, cls)
    ctk.ctkMessageBox = qt.QMessageBox  # type: ignore[attr-defined]
    sys.modules["ctk"] = ctk
    sys.modules["SampleData"] = sampledata

    import slicer
    import slicer.util

    slicer.__path__.append(str(HERE / "slicerpath"))
    for name, cls in mrmlwidgets.WIDGETS.items():
        setattr(slicer, name, cls)
    slicer.mrmlScene = slicer.vtkMRMLScene()
    slicer.app = Application(host)
    # Reading a bundle unpacks it into the cache folder of these.
    cache, manager = slicer.vtkCacheManager(), slicer.vtkDataIOManager()
    cache.SetRemoteCacheDirectory(slicer.app.temporaryPath)
    manager.SetCacheManager(cache)
    slicer.mrmlScene.SetCacheManager(cache)
    slicer.mrmlScene.SetDataIOManager(manager)
    slicer.mrmlScene.AddObserver(slicer.vtkMRMLScene.NodeAboutToBeRemovedEvent, _forget_item)
    slicer.modules = Modules()
    slicer.util.loadUI = loadui.loadUI
    slicer.util.childWidgetVariables = loadui.childWidgetVariables
    slicer.util.mainWindow = lambda: None
    slicer.util.selectModule = lambda module: None
    import slicer.i18n
    import slicer.ScriptedLoadableModule

    return host


@vtk.calldata_type(vtk.VTK_OBJECT)
def _forget_item(scene: Any, _event: str, node: Any) -> None:
    """As Slicer's subject hierarchy logic does, a removed node's item goes with it."""
    import slicer

    if scene.IsClosing() or scene.GetNumberOfNodesByClass("vtkMRMLSubjectHierarchyNode") == 0:
        return
    tree = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(scene)
    item = tree.GetItemByDataNode(node)
    if item:
        tree.RemoveItem(item, False, False)


class Application:
    applicationName = "Slicer test host"

    def __init__(self, host: Host) -> None:
        self._host = host
        self._layout: LayoutManager | None = None
        self._io = CoreIOManager()
        # Of its own, as Slicer's is: the cache's upkeep goes through all that lies in it.
        self._temporary = tempfile.TemporaryDirectory(prefix="d24fad-host-")
        self.temporaryPath = self._temporary.name
        self._settings: Any = None

    def layoutManager(self) -> LayoutManager:
        if self._layout is None:
            self._layout = LayoutManager()
        return self._layout

    def renewLayout(self) -> None:
        """A scene that was read brings slice nodes of its own; Slicer's layout manager takes to those."""
        import slicer

        scene = slicer.mrmlScene
        if self._layout is None:
            return
        nodes = [logic.GetSliceNode() for logic in self._layout._byName.values()]
        if all(node is not None and node.GetScene() is scene for node in nodes) and (
            scene.GetNumberOfNodesByClass("vtkMRMLSliceNode") == len(nodes)
        ):
            self._layout.orient()
            return
        for name in ("vtkMRMLSliceCompositeNode", "vtkMRMLSliceDisplayNode", "vtkMRMLSliceNode"):
            for node in slicer.util.getNodesByClass(name):
                scene.RemoveNode(node)
        self._layout = LayoutManager()

    def applicationLogic(self) -> Any:
        return self.layoutManager()._application

    def coreIOManager(self) -> CoreIOManager:
        return self._io

    def testingEnabled(self) -> bool:
        return False

    def processEvents(self, *arguments: Any) -> None:
        self._host.application.processEvents()

    def userSettings(self) -> Any:
        from PySide6 import QtCore

        from d24fadhost.properties import propertied

        if self._settings is None:
            path = os.path.join(self.temporaryPath, "d24fad-host.ini")
            self._settings = propertied(QtCore.QSettings)(path, QtCore.QSettings.IniFormat)
            # What it still holds when it is destroyed would be written, and bring the folder back.
            atexit.register(self._settings.sync)
        return self._settings

    settings = userSettings

    def overrideCursor(self) -> Any:
        return self._host.application.overrideCursor()

    def setOverrideCursor(self, cursor: Any) -> None:
        self._host.application.setOverrideCursor(cursor)

    def restoreOverrideCursor(self) -> None:
        self._host.application.restoreOverrideCursor()

    def pauseRender(self) -> None:
        pass

    def resumeRender(self) -> None:
        pass

    def connect(self, signature: str, slot: Any) -> bool:
        return True


def _message_box(host: Host) -> type:
    """Qt's own message box, which notes what it would show and gives the answer that the test planned
    (else OK) instead of waiting for one."""
    from PySide6 import QtWidgets

    from d24fadhost.properties import propertied

    class PlannedMessageBox(propertied(QtWidgets.QMessageBox)):  # type: ignore[misc]
        def exec_(self) -> Any:
            host.messages.append(self.text)
            host.buttons.append([button.text() for button in self.buttons()])
            if host.picture:
                self.show()  # it is laid out when it is shown
                host.process_events(0.05)
                self.grab().save(host.picture)
                self.hide()
            return host.answers.pop(0) if host.answers else QtWidgets.QMessageBox.Ok

    return PlannedMessageBox
