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
    """The path to write to, "" where it was cancelled. It ends as the chosen filter says, or as it was typed
    where none was chosen."""
    # PythonQt's static dialog does not tell the chosen filter.
    dialog = qt.QFileDialog(parent, title, _lastFolder(), filters)
    dialog.setAcceptMode(qt.QFileDialog.AcceptSave)
    dialog.selectFile(name)
    chosen = []

    def follow(filterText):
        chosen.append(filterText)
        shown = str((list(dialog.selectedFiles()) or [""])[0])
        # Qt's own dialog exchanges what is behind the last dot only; a system's does not tell what is typed.
        if shown.endswith("." + _suffixes(filterText)[0].rpartition(".")[2]):
            dialog.selectFile(_ending(shown, filterText, filters))

    dialog.connect("filterSelected(QString)", follow)
    accepted = dialog.exec_() == qt.QDialog.Accepted
    typed = str((list(dialog.selectedFiles()) or [""])[0]) if accepted else ""
    dialog.deleteLater()
    if not typed:
        return ""
    typedKnown = not chosen and typed.lower().endswith(_suffixes(filters))
    path = typed if typedKnown else _ending(typed, (chosen or [filters])[-1], filters)
    # The dialog has asked about what was typed.
    if path != typed and os.path.exists(path):
        text = _("{name} is there already. Replace it?").format(name=os.path.basename(path))
        if not confirm(text, title):
            return ""
    return _remember([path])[0]


def _suffixes(filters):
    return tuple(re.findall(r"\*(\.[\w.]+)", filters))


def _ending(path, wanted, filters):
    """The path with the ending of the `wanted` filter in place of whatever is of one of the filters'."""
    parts = "|".join(part for known in _suffixes(filters) for part in known.split(".") if part)
    return re.sub(rf"(\.({parts}))+$", "", path, flags=re.IGNORECASE) + _suffixes(wanted)[0]


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
