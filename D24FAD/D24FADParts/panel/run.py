"""Step 3: start, follow, cancel."""

import slicer
from slicer.i18n import tr as _

from D24FADLib.errors import D24FADError

from .. import dependencies, explain, settings
from . import dialogs, messages

_FOLDERS = 0x001  # ctkPathLineEdit::Dirs: it is of a type of flags, which not every PythonQt has names for

# What each step of a run is called here; the detector's own names are for machines.
STEPS = {
    "send": _("Handing the volumes over"),
    "read": _("Reading volumes"),
    "model": _("Loading the model"),
    "align": _("Aligning references"),
    "prepare": _("Preparing intensities"),
    "compare": _("Comparing slices"),
    "calibrate": _("Learning what varies between normals"),
    "findings": _("Collecting findings"),
    "write": _("Writing results"),
    "load": _("Loading results"),
}


class RunStep:
    """Also the receiver of what a run reports (see `run.Run`)."""

    def __init__(self, ui, logic, onChanged, onResults):
        self._ui, self._logic, self._onChanged, self._onResults = ui, logic, onChanged, onResults
        self._updating = False
        self._warnings = []
        self._fillSelectors()
        ui.applyButton.connect("clicked(bool)", self._onApply)
        for selector, name in ((ui.deviceSelector, "Device"), (ui.alignSelector, "Align")):
            selector.connect(
                "currentIndexChanged(int)", lambda _i, s=selector, n=name: self._set(n, s.currentData)
            )
        ui.batchSpinBox.connect("valueChanged(int)", lambda number: self._set("Batch", number))
        ui.budgetSpinBox.connect("valueChanged(double)", lambda number: self._set("FalseFindings", number))
        self._ticks = {
            "KeepPrevious": ui.keepPreviousCheckBox,
            "DropOutliers": ui.dropOutliersCheckBox,
            "UnsuitableAnyway": ui.anywayCheckBox,
        }
        for name, box in self._ticks.items():
            box.connect("toggled(bool)", lambda on, n=name: self._set(n, bool(on)))
        self._followFolder(ui.modelPathEdit, lambda path: self._set("Model", path))
        self._followFolder(ui.wheelFolderEdit, self._onWheelFolder)
        ui.wheelFolderEdit.currentPath = str(slicer.app.userSettings().value("D24FAD/WheelFolder", "") or "")
        messages.soften(ui.progressLabel)

    def _followFolder(self, edit, tell):
        edit.filters = _FOLDERS
        edit.connect("currentPathChanged(QString)", tell)
        # An empty path is no valid one to ctk, and is told by this signal alone.
        edit.connect("validInputChanged(bool)", lambda valid: None if valid else tell(""))

    def _fillSelectors(self):
        for text, value in (
            (_("Automatic"), "auto"),
            (_("CPU"), "cpu"),
            (_("NVIDIA GPU (CUDA)"), "cuda"),
            (_("Apple GPU (MPS)"), "mps"),
            (_("Intel GPU (OpenVINO)"), "intel-gpu"),
        ):
            self._ui.deviceSelector.addItem(text, value)
        for text, value in (
            (_("Automatic"), ""),
            (_("None: they lie on the same grid"), "none"),
            (_("By position"), "position"),
            (_("Rigid"), "rigid"),
            (_("Affine"), "affine"),
        ):
            self._ui.alignSelector.addItem(text, value)

    def refresh(self):
        parameters = self._logic.getParameterNode()
        self._updating = True
        for selector, name in ((self._ui.deviceSelector, "Device"), (self._ui.alignSelector, "Align")):
            selector.setCurrentIndex(max(0, selector.findData(settings.get(parameters, name))))
        for edit, name, value in (
            (self._ui.modelPathEdit, "currentPath", settings.get(parameters, "Model")),
            (self._ui.batchSpinBox, "value", int(settings.get(parameters, "Batch"))),
            (self._ui.budgetSpinBox, "value", float(settings.get(parameters, "FalseFindings"))),
        ):
            # Setting what is there already would disturb whoever is typing it.
            if getattr(edit, name) != value:
                setattr(edit, name, value)
        for name, box in self._ticks.items():
            box.setChecked(settings.isOn(parameters, name))
        self._updating = False
        running = self._logic.isRunning()
        why = "" if running else self._logic.whyNotReady()
        self._ui.applyButton.setText(_("Cancel") if running else _("Find anomalies"))
        self._ui.applyButton.setEnabled(running or not why)
        self._ui.applyButton.setToolTip(
            why or (_("End the run") if running else _("Compare with the references"))
        )
        self._ui.progressBar.setVisible(running)
        self._ui.progressLabel.setVisible(running or bool(why))
        if not running:
            self._ui.progressLabel.setText(why)

    def _set(self, name, value):
        if not self._updating and self._logic.setOption(name, value):
            self.refresh()

    def _onWheelFolder(self, path):
        slicer.app.userSettings().setValue("D24FAD/WheelFolder", path)

    # Starting and ending

    def _onApply(self, _on=False):
        if self._logic.isRunning():
            self._ui.applyButton.setEnabled(False)
            self._ui.progressLabel.setText(_("Cancelling..."))
            self._logic.cancelDetection()
            return
        messages.show(self._ui.runMessage, "")
        self._warnings = []
        if not self._installed():
            return
        try:
            self._logic.startDetection(self)
        except D24FADError as error:
            messages.show(self._ui.runMessage, str(error), "error")
        self._ui.progressBar.setRange(0, 1000)
        self._ui.progressBar.setValue(0)
        self._onChanged()

    def _installed(self):
        """Whether the packages that the detector needs are there, after asking and installing."""
        missing = self._logic.missingPackages()
        if not missing:
            return True
        wanted = [*missing, *self._logic.helpfulPackages()]
        if not dialogs.confirmInstall(self._ui.applyButton, dependencies.question(wanted)):
            text = _("Nothing was installed. The detector needs these packages to run.")
            messages.show(self._ui.runMessage, text, "warning")
            return False
        messages.show(self._ui.runMessage, _("Installing packages..."))
        slicer.app.processEvents()
        try:
            said = self._logic.installPackages(wanted, self._ui.wheelFolderEdit.currentPath)
        except RuntimeError as error:
            messages.show(self._ui.runMessage, str(error), "error")
            return False
        messages.show(self._ui.runMessage, "")
        if said:
            self.onWarning(said)
        return True

    # What a run reports

    def onProgress(self, fraction, step, done, total, text, left):
        if step == "quiet":
            self._ui.progressLabel.setText(text)
            return
        self._ui.progressBar.setValue(int(1000 * fraction))
        words = STEPS.get(step, text or step)
        if total > 1:
            words += " · " + _("{done} of {total}").format(done=done, total=total)
        if left is not None:
            words += " · " + _("{time} left").format(time=explain.duration(left))
        self._ui.progressLabel.setText(words)

    def onWarning(self, text):
        self._warnings.append(text)
        messages.show(self._ui.runMessage, "\n".join(self._warnings), "warning")

    def onResults(self, results):
        self._onResults(results)

    def onFinished(self):
        self._onChanged()
        seconds = self._logic.lastRunSeconds()
        if not self._warnings:
            messages.show(self._ui.runMessage, _("Done in {time}.").format(time=f"{seconds:.0f} s"))
        else:
            messages.show(self._ui.runMessage, "\n".join(self._warnings), "warning")

    def onFailed(self, problem):
        self._onChanged()
        messages.show(self._ui.runMessage, problem.text, "error", problem.details)

    def onCancelled(self):
        self._onChanged()
        messages.show(self._ui.runMessage, _("Cancelled. Nothing was changed."))
