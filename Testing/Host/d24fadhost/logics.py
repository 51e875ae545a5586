"""What is real of the host: Slicer's logics and slice views from slicer-core, under their usual names."""

from __future__ import annotations

import types
from pathlib import Path
from typing import Any


class Modules:
    """`slicer.modules`: the module under test and the C++ logics that slicer-core has."""

    def __init__(self) -> None:
        import slicer

        colors = slicer.vtkMRMLColorLogic()
        colors.SetMRMLScene(slicer.mrmlScene)
        self.colors = types.SimpleNamespace(logic=lambda: colors)
        for name, logic in (
            ("segmentations", slicer.vtkSlicerSegmentationsModuleLogic()),
            ("volumes", slicer.vtkSlicerVolumesLogic()),
        ):
            logic.SetMRMLScene(slicer.mrmlScene)
            setattr(self, name, types.SimpleNamespace(logic=lambda logic=logic: logic))

    def add(self, name: str, path: Path) -> None:
        setattr(self, name.lower(), types.SimpleNamespace(path=str(path), name=name))


ORIENTATIONS = {"Red": "Axial", "Yellow": "Sagittal", "Green": "Coronal"}


class LayoutManager:
    """Three real slice logics under their usual names."""

    def __init__(self) -> None:
        import slicer
        import vtk

        self._logics = vtk.vtkCollection()
        self._byName: dict[str, Any] = {}
        self._application = slicer.vtkMRMLApplicationLogic()
        self._application.SetMRMLScene(slicer.mrmlScene)
        for name in ORIENTATIONS:
            logic = slicer.vtkMRMLSliceLogic()
            logic.SetMRMLApplicationLogic(self._application)
            logic.SetMRMLScene(slicer.mrmlScene)
            logic.AddSliceNode(name)
            logic.GetSliceNode().SetDimensions(320, 320, 1)
            logic.GetSliceNode().SetMappedInLayout(True)
            self._logics.AddItem(logic)
            self._byName[name] = logic
        self._application.SetSliceLogics(self._logics)
        self.orient()

    def orient(self) -> None:
        """Each view in its own plane, as Slicer's layout has them in a new scene; a scene that is closed
        leaves the views turned as they were."""
        for name, orientation in ORIENTATIONS.items():
            if not self._byName[name].GetSliceNode().SetOrientation(orientation):
                raise RuntimeError(f"the host's {name} view could not be made {orientation.lower()}")

    def sliceViewNames(self) -> list[str]:
        return list(self._byName)

    def mrmlSliceLogics(self) -> Any:
        return self._logics

    def sliceWidget(self, name: str) -> Any:
        logic = self._byName[name]
        return types.SimpleNamespace(sliceLogic=lambda: logic, mrmlSliceNode=logic.GetSliceNode)
