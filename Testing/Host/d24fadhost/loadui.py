"""`slicer.util.loadUI` for the host: a QUiLoader that makes PythonQt-like, ctk and qMRML widgets."""

from __future__ import annotations

import re
from typing import Any

from PySide6 import QtCore, QtUiTools, QtWidgets

from d24fadhost import ctkwidgets, mrmlwidgets
from d24fadhost.properties import propertied

CUSTOM = {**ctkwidgets.WIDGETS, **mrmlwidgets.WIDGETS}


class Loader(QtUiTools.QUiLoader):
    def createWidget(self, className: str, parent: Any = None, name: str = "") -> Any:
        cls = CUSTOM.get(className)
        if cls is None:
            base = getattr(QtWidgets, className, None)
            if base is None:
                raise RuntimeError(f"the test host knows no widget class {className}")
            cls = propertied(base)
        widget = cls(parent)
        widget.setObjectName(name)
        self.made.append(widget)
        return widget


def loadUI(path: str) -> Any:
    file = QtCore.QFile(str(path))
    if not file.open(QtCore.QFile.ReadOnly):
        raise RuntimeError(f"Could not load UI file: {path}")
    # What the file connects are signals of qMRMLWidget; the host's does that itself (see mrmlwidgets).
    text = re.sub(rb"<connections>.*?</connections>", b"", bytes(file.readAll().data()), flags=re.DOTALL)
    file.close()
    loader = Loader()
    loader.made = []
    data = QtCore.QByteArray(text)
    buffer = QtCore.QBuffer(data)
    buffer.open(QtCore.QIODevice.ReadOnly)
    widget = loader.load(buffer)
    buffer.close()
    # Python objects of the children must outlive this call, or they come back as plain PySide6 classes.
    widget.__dict__["_made"] = loader.made
    return widget


def childWidgetVariables(widget: Any) -> Any:
    variables = type("", (), {})()
    for child in widget.__dict__.get("_made", []):
        name = child.property("objectName")
        if name:
            setattr(variables, name, child)
    return variables
