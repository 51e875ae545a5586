"""What a folder of DICOM files holds, found out by a process of its own: thousands of headers take long."""

import os

from slicer.i18n import tr as _

from D24FADLib.errors import InputError
from D24FADLib.worker import protocol
from D24FADLib.worker.commandline import series_arguments

from .workerprocess import WorkerProcess

_ending = set()  # scans whose process has not ended yet: it needs them until then


class FolderScan:
    """`onProgress(done, total)` in files, then once `onOver()`, and `plainTraits` tells; neither after
    `cancel` or `abandon`."""

    def __init__(self, folder, onProgress, onOver):
        self.over = False
        self._name = os.path.basename(folder)
        self._onProgress, self._onOver = onProgress, onOver
        self._found = self._problem = None
        self._process = WorkerProcess(self._onEvent, self._onEnded)
        _ending.add(self)
        self._process.start(series_arguments(folder))

    @property
    def pids(self):
        return self._process.pids if self._process is not None else set()

    def plainTraits(self):
        """The traits of the folder's one series, as JSON has them; raises InputError where it is not one."""
        if self._problem is not None:
            raise InputError(self._problem)
        if not self._found["count"]:
            raise InputError(_("{name} holds no images that can be read.").format(name=self._name))
        if self._found["count"] > 1:
            text = _(
                "{name} holds {count} DICOM series. Import it into the DICOM database and choose one there."
            )
            raise InputError(text.format(name=self._name, count=self._found["count"]))
        return self._found["series"][0]["traits"]

    def cancel(self):
        """End the process without waiting for it, and say nothing more."""
        self._onProgress = self._onOver = lambda *_said: None
        if self._process is not None:
            self._process.cancel()

    def abandon(self):
        """End it now: the module is going away."""
        if self._process is not None:
            self._process.abandon()
            self._process = None
        _ending.discard(self)

    def _onEvent(self, event):
        if isinstance(event, protocol.Progress):
            self._onProgress(event.done, event.total)
        elif isinstance(event, protocol.Finished):
            self._found = event.summary
        elif isinstance(event, protocol.Failed):
            self._problem = event.text or self._unexpected()

    def _unexpected(self):
        if "could not be started" in self._process.tail:
            text = _("{name} cannot be read: Slicer's Python could not be started. Restart Slicer.")
        else:
            text = _("{name} could not be read: what reads it ended unexpectedly. Add it again.")
        return text.format(name=self._name)

    def _onEnded(self, _exitCode, _crashed):
        if self._found is None and self._problem is None:
            self._problem = self._unexpected()
        self._process, self.over = None, True
        _ending.discard(self)
        self._onOver()
        self._onProgress = self._onOver = None
