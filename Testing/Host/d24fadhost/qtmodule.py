"""The module `qt`: every class of QtCore, QtGui and QtWidgets under one name, as PythonQt gives it."""

from __future__ import annotations

import types
from typing import Any

from PySide6 import QtCore, QtGui, QtWidgets

from d24fadhost.properties import propertied


class QtModule(types.ModuleType):
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
