"""The module `qt`: every class of QtCore, QtGui and QtWidgets under one name, as PythonQt gives it."""

from __future__ import annotations

import types
from typing import Any, ClassVar

from PySide6 import QtCore, QtGui, QtWidgets

from d24fadhost.properties import propertied


class PlannedFileDialog:
    """`qt.QFileDialog`: gives the path a test planned, as PythonQt gives it; else nothing."""

    planned: ClassVar[list[Any]] = []

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
