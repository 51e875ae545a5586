"""The module `qt`: every class of QtCore, QtGui and QtWidgets under one name, as PythonQt gives it."""

from __future__ import annotations

import types
from typing import Any, ClassVar

from PySide6 import QtCore, QtGui, QtWidgets

from d24fadhost.properties import propertied


class PlannedFileDialog(propertied(QtWidgets.QFileDialog)):  # type: ignore[misc]
    """`qt.QFileDialog`: gives the path a test planned, as PythonQt gives it; else nothing. A plan for a
    dialog that is made may be something to do, too: it gets the dialog and says whether it is accepted."""

    planned: ClassVar[list[Any]] = []

    def exec_(self) -> Any:
        plan = self._answer("")
        self.setOption(QtWidgets.QFileDialog.DontUseNativeDialog, True)
        if isinstance(plan, str):
            self.selectFile(plan)
            return QtWidgets.QDialog.Accepted if plan else QtWidgets.QDialog.Rejected
        self.show()
        accepted = plan(self)
        self.hide()
        return QtWidgets.QDialog.Accepted if accepted else QtWidgets.QDialog.Rejected

    @classmethod
    def _answer(cls, otherwise: Any) -> Any:
        return cls.planned.pop(0) if cls.planned else otherwise

    @classmethod
    def getOpenFileNames(cls, *arguments: Any) -> Any:
        return cls._answer([])

    @classmethod
    def getSaveFileName(cls, *arguments: Any) -> Any:
        return cls._answer("")

    @classmethod
    def getExistingDirectory(cls, *arguments: Any) -> Any:
        return cls._answer("")


class QtModule(types.ModuleType):
    QFileDialog = PlannedFileDialog

    def __getattr__(self, name: str) -> Any:
        if name == "Signal":
            raise AttributeError("PythonQt has no qt.Signal with PySide's meaning")
        for source in (QtWidgets, QtGui, QtCore):
            found = getattr(source, name, None)
            if found is not None:
                value = propertied(found) if isinstance(found, type) else found
                setattr(self, name, value)
                return value
        raise AttributeError(f"qt has no {name}")
