"""The few questions that need a dialog."""

import os
import re

import qt
import slicer
from slicer.i18n import tr as _

_FOLDER_SETTING = "D24FAD/LastFolder"


def openFiles(parent, title, filters):
    found = qt.QFileDialog.getOpenFileNames(parent, title, _lastFolder(), filters)
    return _remember([str(path) for path in _names(found)])


def openFolder(parent, title):
    found = qt.QFileDialog.getExistingDirectory(parent, title, _lastFolder())
    return (_remember([str(found)]) or [""])[0] if found else ""


def savePath(parent, title, name, filters):
    found = qt.QFileDialog.getSaveFileName(parent, title, os.path.join(_lastFolder(), name), filters)
    path = str(found[0] if isinstance(found, tuple) else found)
    if not path:
        return ""
    # Not every system's dialog adds what the filter says.
    suffixes = re.findall(r"\*(\.[\w.]+)", filters)
    if not path.lower().endswith(tuple(suffixes)):
        path += suffixes[0]
    return _remember([path])[0]


def askName(parent, title, caption, text=""):
    """A name typed into a small dialog, "" where it was cancelled."""
    dialog = qt.QDialog(parent)
    dialog.setWindowTitle(title)
    dialog.setObjectName("D24FADNameDialog")
    layout = qt.QVBoxLayout(dialog)
    label = qt.QLabel(caption)
    label.setWordWrap(True)
    layout.addWidget(label)
    edit = qt.QLineEdit(text)
    edit.setObjectName("D24FADNameEdit")
    edit.setMinimumWidth(280)
    layout.addWidget(edit)
    buttons = qt.QDialogButtonBox()
    buttons.setStandardButtons(qt.QDialogButtonBox.Ok | qt.QDialogButtonBox.Cancel)
    buttons.connect("accepted()", dialog.accept)
    buttons.connect("rejected()", dialog.reject)
    layout.addWidget(buttons)
    accepted = dialog.exec_() == qt.QDialog.Accepted
    name = edit.text.strip() if accepted else ""
    dialog.deleteLater()
    return name


def confirm(text, title):
    return bool(slicer.util.confirmOkCancelDisplay(text, windowTitle=title))


def confirmInstall(parent, text):
    """Install or Cancel. Under Slicer's own tests nobody is there to answer, and nothing is installed."""
    if slicer.app.testingEnabled():
        return False
    box = qt.QMessageBox(parent)
    box.setWindowTitle(_("D24FAD"))
    box.setIcon(qt.QMessageBox.Question)
    box.setText(text)
    box.setStandardButtons(qt.QMessageBox.Ok | qt.QMessageBox.Cancel)
    box.button(qt.QMessageBox.Ok).setText(_("Install"))
    accepted = box.exec_() == qt.QMessageBox.Ok
    box.deleteLater()
    return accepted


def _names(found):
    """PythonQt gives the names alone, other bindings the chosen filter with them."""
    if isinstance(found, tuple) and len(found) == 2 and isinstance(found[0], (list, tuple)):
        return found[0]
    return found or []


def _lastFolder():
    return str(slicer.app.userSettings().value(_FOLDER_SETTING, "") or "")


def _remember(paths):
    if paths:
        last = paths[0] if os.path.isdir(paths[0]) else os.path.dirname(paths[0])
        slicer.app.userSettings().setValue(_FOLDER_SETTING, last)
    return paths


def nameFor(what, suffix):
    """A file name to offer, without the study's own name: that may be a patient's."""
    return f"{_('d24fad')}-{what}{suffix}"
