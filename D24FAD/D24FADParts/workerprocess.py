"""The worker as a QProcess: started, listened to and ended without ever waiting for it."""

import os
import shutil
import sys

import qt

from D24FADLib.worker import processes
from D24FADLib.worker.protocol import HOLD, RUN_FOLDER, EventReader, Noise, Started

from .lifetimes import endLater

GENTLE_MS = 400  # from asking the worker to end to ending it
_TAIL = 4000  # characters of what the worker said last, for whoever looks for the cause


def pythonExecutable():
    """The Python that has the module's packages: in Slicer, PythonSlicer."""
    name = os.path.basename(sys.executable or "").lower()
    if "python" in name:
        return sys.executable
    return shutil.which("PythonSlicer") or sys.executable


def libraryFolder():
    """The folder that holds D24FADLib."""
    import D24FADLib

    return os.path.dirname(os.path.dirname(os.path.abspath(D24FADLib.__file__)))


class WorkerProcess:
    """`onEvent(event)` for each event, then `onEnded(exitCode, crashed)` exactly once.

    The worker may be started through a launcher (PythonSlicer is one), so it says its own process id;
    both ids are ended. Its input is held open: the worker ends itself when that closes.
    """

    def __init__(self, onEvent, onEnded):
        self._onEvent, self._onEnded = onEvent, onEnded
        self._reader = EventReader()
        self._process = None
        self._pids = set()
        self._tree = set()
        self._force = qt.QTimer()
        self._force.setSingleShot(True)
        self._force.setInterval(GENTLE_MS)
        self._force.connect("timeout()", self._endNow)
        self.tail = ""

    @property
    def pids(self):
        """The launcher's and the worker's process ids, as far as known."""
        return set(self._pids)

    def start(self, arguments, program=None, folder=""):
        """`folder`: the run's private folder, which the worker removes should the application die."""
        self._process = qt.QProcess()
        environment = qt.QProcessEnvironment.systemEnvironment()
        paths = [libraryFolder(), environment.value("PYTHONPATH", "")]
        environment.insert("PYTHONPATH", os.pathsep.join(path for path in paths if path))
        environment.insert("PYTHONUNBUFFERED", "1")
        environment.insert("PYTHONIOENCODING", "utf-8")
        environment.insert(RUN_FOLDER, folder)
        self._process.setProcessEnvironment(environment)
        self._process.connect("readyReadStandardOutput()", self._readOutput)
        self._process.connect("readyReadStandardError()", self._readError)
        self._process.connect("finished(int,QProcess::ExitStatus)", self._finished)
        self._process.connect("errorOccurred(QProcess::ProcessError)", self._errorOccurred)
        self._process.start(program or pythonExecutable(), list(arguments))
        if self._process is None:
            return  # it could not even be started, and said so
        self._process.write(f"{HOLD}\n".encode())
        self._note(int(self._process.processId()))

    def cancel(self):
        """Ask the worker to end; whatever is left after a moment is ended by force."""
        if self._process is None or self._force.isActive():
            return
        for pid in self._pids:
            self._tree.update(processes.descendants(pid))
        for pid in self._pids:
            processes.end_tree(pid, gently=True)
        self._force.start()

    def abandon(self):
        """End everything now and say nothing more: the module is going away."""
        self._onEvent = self._onEnded = lambda *_arguments: None
        if self._process is not None:
            for pid in self._pids:
                self._tree.update(processes.descendants(pid))
            self._endNow()
            self._process.kill()
            self._process.waitForFinished(200)
            self._end(-1, True)

    def _note(self, pid):
        if pid > 0:
            self._pids.add(pid)

    def _endNow(self):
        for pid in self._pids | self._tree:
            processes.end_tree(pid)

    def _readOutput(self):
        if self._process is not None:
            self._take(self._reader.feed(_bytes(self._process.readAllStandardOutput())))

    def _take(self, events):
        for event in events:
            if isinstance(event, Started):
                self._note(event.pid)
            elif isinstance(event, Noise):
                self._remember(event.text + "\n")
            self._onEvent(event)

    def _readError(self):
        if self._process is not None:
            self._remember(_bytes(self._process.readAllStandardError()).decode("utf-8", "replace"))

    def _remember(self, text):
        self.tail = (self.tail + text)[-_TAIL:]

    def _finished(self, exitCode, exitStatus):
        self._readOutput()
        self._readError()
        self._take(self._reader.close())
        self._end(int(exitCode), exitStatus != qt.QProcess.NormalExit)

    def _errorOccurred(self, error):
        # Every other error is followed by `finished`.
        if error == qt.QProcess.FailedToStart:
            self._remember("The worker's Python could not be started.\n")
            self._end(-1, True)

    def _end(self, exitCode, crashed):
        process, self._process = self._process, None
        if process is None:
            return
        self._force.stop()
        # The leader is gone; what it started must not outlive it.
        self._endNow()
        endLater(process)
        endLater(self._force)
        self._onEnded(exitCode, crashed)


def _bytes(value):
    """A QByteArray's bytes; PythonQt versions differ in what `data` gives."""
    data = value.data() if hasattr(value, "data") else value
    return data.encode("utf-8", "surrogateescape") if isinstance(data, str) else bytes(data)
