"""qMRMLWidget and qMRMLNodeComboBox over the real scene."""

from __future__ import annotations

from typing import Any

import vtk
from PySide6 import QtCore, QtWidgets

from d24fadhost.properties import give_connect


class qMRMLWidget(QtWidgets.QWidget):
    mrmlSceneChanged = QtCore.Signal(object)

    def __init__(self, parent: Any = None) -> None:
        super().__init__(parent)
        give_connect(self)
        self.isEntered = True

    def setMRMLScene(self, scene: Any) -> None:
        # The .ui file connects this signal to each selector; a QUiLoader cannot, so the host does it.
        for selector in self.findChildren(qMRMLNodeComboBox):
            selector.setMRMLScene(scene)
        self.mrmlSceneChanged.emit(scene)


class SortFilterProxyModel:
    """As much of qMRMLSortFilterProxyModel as hides nodes by their ID."""

    def __init__(self, onChanged: Any) -> None:
        self._hidden: tuple[str, ...] = ()
        self._onChanged = onChanged

    @property
    def hiddenNodeIDs(self) -> tuple[str, ...]:
        return self._hidden

    @hiddenNodeIDs.setter
    def hiddenNodeIDs(self, ids: Any) -> None:
        if tuple(ids) != self._hidden:
            self._hidden = tuple(ids)
            self._onChanged()


class qMRMLNodeComboBox(QtWidgets.QWidget):
    currentNodeChanged = QtCore.Signal(object)
    SIGNALS = frozenset({"currentNodeChanged(vtkMRMLNode*)"})

    def __init__(self, parent: Any = None) -> None:
        super().__init__(parent)
        give_connect(self)
        self._types: list[str] = []
        self._none = False
        self._children = True
        self._scene: Any = None
        self._tags: list[int] = []
        self._current: str | None = None
        self._filter = SortFilterProxyModel(self._refresh)
        self._combo = QtWidgets.QComboBox(self)
        self._combo.setSizeAdjustPolicy(QtWidgets.QComboBox.AdjustToMinimumContentsLengthWithIcon)
        layout = QtWidgets.QHBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(self._combo)
        self._combo.currentIndexChanged.connect(self._picked)

    def _put(self, name: str, value: Any) -> None:
        setattr(self, name, value)
        self._refresh()

    nodeTypes = QtCore.Property("QStringList", lambda s: s._types, lambda s, v: s._put("_types", list(v)))
    noneEnabled = QtCore.Property(bool, lambda s: s._none, lambda s, v: s._put("_none", v))
    showChildNodeTypes = QtCore.Property(bool, lambda s: s._children, lambda s, v: s._put("_children", v))
    addEnabled = QtCore.Property(bool, lambda s: False, lambda s, v: None)
    removeEnabled = QtCore.Property(bool, lambda s: False, lambda s, v: None)
    renameEnabled = QtCore.Property(bool, lambda s: False, lambda s, v: None)
    noneDisplay = QtCore.Property(str, lambda s: "", lambda s, v: None)
    currentNodeID = QtCore.Property(str, lambda s: s._current or "", lambda s, v: s.setCurrentNodeID(v))

    def setMRMLScene(self, scene: Any) -> None:
        for tag in self._tags:
            self._scene.RemoveObserver(tag)
        self._scene, self._tags = scene, []
        if scene is not None:
            import slicer

            for event in (
                slicer.vtkMRMLScene.NodeAddedEvent,
                slicer.vtkMRMLScene.NodeRemovedEvent,
                slicer.vtkMRMLScene.EndBatchProcessEvent,
                vtk.vtkCommand.ModifiedEvent,
            ):
                self._tags.append(scene.AddObserver(event, lambda *_: self._refresh()))
        self._refresh()

    def sortFilterProxyModel(self) -> SortFilterProxyModel:
        return self._filter

    def addAttribute(self, nodeType: str, name: str, value: Any = None) -> None:
        pass

    def _nodes(self) -> list[Any]:
        if self._scene is None:
            return []
        found = []
        for nodeType in self._types:
            for index in range(self._scene.GetNumberOfNodesByClass(nodeType)):
                node = self._scene.GetNthNodeByClass(index, nodeType)
                exact = node.GetClassName() == nodeType
                hidden = node.GetHideFromEditors() or node.GetID() in self._filter.hiddenNodeIDs
                if (exact or self._children) and not hidden:
                    found.append(node)
        return found

    def _refresh(self) -> None:
        nodes = self._nodes()
        before = self._current
        self._combo.blockSignals(True)
        self._combo.clear()
        if self._none:
            self._combo.addItem("None", None)
        for node in nodes:
            self._combo.addItem(node.GetName() or "", node.GetID())
        index = self._combo.findData(before) if before else -1
        if index < 0:
            index = 0 if self._combo.count() else -1
        self._combo.setCurrentIndex(index)
        self._combo.blockSignals(False)
        self._current = self._combo.currentData()
        if self._current != before:
            self.currentNodeChanged.emit(self.currentNode())

    def _picked(self, index: int) -> None:
        self._current = self._combo.itemData(index)
        self.currentNodeChanged.emit(self.currentNode())

    def currentNode(self) -> Any:
        return self._scene.GetNodeByID(self._current) if self._scene is not None and self._current else None

    def setCurrentNode(self, node: Any) -> None:
        self.setCurrentNodeID(node.GetID() if node is not None else None)

    def setCurrentNodeID(self, nodeID: str | None) -> None:
        index = self._combo.findData(nodeID) if nodeID else (0 if self._none else -1)
        if index != self._combo.currentIndex():
            self._combo.setCurrentIndex(index)

    def nodeCount(self) -> int:
        return len(self._nodes())


WIDGETS = {cls.__name__: cls for cls in (qMRMLWidget, qMRMLNodeComboBox)}
