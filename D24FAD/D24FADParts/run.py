"""One run: volumes out, the worker, results in. No widgets; all in turns of the event loop."""

import logging
import os
import re
import time

import qt
import slicer
from slicer.i18n import tr as _

from D24FADLib.errors import D24FADError, InputError, OutputError
from D24FADLib.worker import protocol
from D24FADLib.worker.commandline import detect_arguments
from D24FADLib.worker.estimate import TimeLeft
from D24FADLib.worker.folder import RunFolder, remove_stale

from . import exchange, explain, settings
from .lifetimes import endLater
from .references import ADVISED_LEAST, ReferenceList, describe, isUnusable, requireVolume
from .results import Results
from .steps import Steps
from .workerprocess import WorkerProcess

# How much of the whole each step of the worker is; a step it does not know leaves the bar where it is.
SHARES = {
    "read": 3,
    "model": 2,
    "align": 30,
    "prepare": 5,
    "compare": 45,
    "calibrate": 5,
    "findings": 2,
    "write": 3,
}
_BEFORE, _AFTER = 3, 3  # percent for volumes out and results in
QUIET_SECONDS, SILENT_SECONDS = 60, 900
_FIRST_RETRY_BATCH = 2  # the detector has halved its own batch by itself before it gave up


class Run:
    """Starts with `start`; ends with exactly one of `onFinished()`, `onFailed(Problem)`, `onCancelled()`.

    `onProgress(fraction 0..1 or None, step, done, total, text, seconds left or None)`; `onWarning(text)`;
    `onResults(results)` when new results begin to enter the scene, `onShow()` when they all have.
    """

    def __init__(
        self, parameterNode, options, callbacks, keepPrevious=False, workerArguments=None, tempFolder=None
    ):
        self._parameters, self._options, self._keep = parameterNode, options, keepPrevious
        self._callbacks = callbacks
        self._arguments = workerArguments or detect_arguments
        self._temp = tempFolder or _temporaryFolder()
        self._folder = self._steps = self._worker = self._summary = self._failure = None
        self._watched, self._used = [], []
        self._query = None
        self._names = {}
        self._over = False
        self._cancelled = False
        self._timeLeft = TimeLeft(SHARES)
        self._reached = 0.0
        self._heard = time.monotonic()
        self._quietSaid = False
        self._watch = qt.QTimer()
        self._watch.setInterval(500)
        self._watch.connect("timeout()", self._lookAfterWorker)
        self.quietSeconds, self.silentSeconds = QUIET_SECONDS, SILENT_SECONDS
        self.warnings = []
        self.seconds = 0.0

    @property
    def active(self):
        return not self._over

    @property
    def folder(self):
        return self._folder.path if self._folder is not None else None

    @property
    def pids(self):
        return self._worker.pids if self._worker is not None else set()

    def start(self):
        """Raises D24FADError where the run cannot even begin; nothing is left behind then."""
        try:
            self._begin()
        except Exception as error:
            self._over = True
            self._cleanUp()
            if isinstance(error, OSError):
                raise OutputError(_cannotUseTemporary(error)) from error
            raise

    def _begin(self):
        self._query, self._used = check(self._parameters)
        self._started = time.monotonic()
        remove_stale(self._temp)
        self._folder = RunFolder(self._temp)
        references = ReferenceList(self._parameters)
        work, self._supports = [(self._query, str(self._folder.query))], []
        for number, row in enumerate(self._used, 1):
            node = references.nodeOf(row)
            path = str(self._folder.support(number)) if node is not None else row.path
            if node is not None:
                work.append((node, path))
                self._names[f"support_{number:02d}.nrrd"] = row.name
            self._supports.append(path)
        self._names["query.nrrd"] = self._query.GetName()
        exchange.requireSpace(self._folder, [node for node, _path in work], len(self._supports))
        self._observe([node for node, _path in work])
        logging.info("D24FAD: run started with %d references", len(self._supports))
        self._steps = Steps(
            exchange.writeVolumes(work),
            self._startWorker,
            self._stepFailed,
            lambda step: self._written(*step),
        )

    def cancel(self):
        """End the run; the worker's whole tree is gone within a second."""
        if self._over or self._cancelled:
            return
        self._cancelled = True
        self._stopSteps()
        if self._worker is not None:
            self._worker.cancel()
        else:
            self._end(self._callbacks.onCancelled)

    def abandon(self):
        """The module is going away: end everything at once, tell nobody."""
        if not self._over:
            self._over = True
            if self._worker is not None:
                self._worker.abandon()
            self._cleanUp()

    # The worker

    def _startWorker(self):
        arguments = self._arguments(
            str(self._folder.query), self._supports, str(self._folder.output), self._options
        )
        self._summary = self._failure = None
        self._heard = time.monotonic()
        self._worker = WorkerProcess(self._onEvent, self._onEnded)
        self._watch.start()
        self._worker.start(arguments, folder=str(self._folder.path))

    def _onEvent(self, event):
        if not isinstance(event, protocol.Noise):
            self._heard, self._quietSaid = time.monotonic(), False
        if isinstance(event, protocol.Progress):
            self._progress(event)
        elif isinstance(event, protocol.Warned):
            self._warn(event.text)
        elif isinstance(event, protocol.Finished):
            self._summary = event.summary
        elif isinstance(event, protocol.Failed):
            self._failure = event

    def _progress(self, event):
        left = self._timeLeft.update(event.step, event.done, event.total, time.monotonic())
        names = list(SHARES)
        whole = sum(SHARES.values())
        if event.step in SHARES:
            before = sum(SHARES[name] for name in names[: names.index(event.step)])
            part = event.done / event.total if event.total else 0.0
            fraction = (before + SHARES[event.step] * part) / whole
            self._reached = max(self._reached, (_BEFORE + fraction * (100 - _BEFORE - _AFTER)) / 100)
        self._callbacks.onProgress(self._reached, event.step, event.done, event.total, event.text, left)

    def _warn(self, text):
        text = self._named(text)
        if text and text not in self.warnings:
            self.warnings.append(text)
            self._callbacks.onWarning(text)

    def _named(self, text):
        """The worker knows neutral file names only; the reader knows the volumes' own."""
        for file, name in self._names.items():
            text = text.replace(file, name)
            if file.startswith("support_"):
                text = text.replace(file.removesuffix(".nrrd"), name)
        # As a name "query" begins a sentence or ends a clause; elsewhere it may be a word.
        return re.sub(r"^query\b|\bquery(?=[.:])", lambda _found: self._names["query.nrrd"], text)

    def _lookAfterWorker(self):
        silent = time.monotonic() - self._heard
        if silent > self.silentSeconds:
            self._failure = protocol.Failed("silent", "")
            self._worker.cancel()
        elif silent > self.quietSeconds and not self._quietSaid:
            self._quietSaid = True
            text = _("Nothing heard from the detector for a while. It may still be working; Cancel ends it.")
            self._callbacks.onProgress(None, "quiet", 0, 0, text, None)

    def _onEnded(self, exitCode, crashed):
        self._watch.stop()
        details = self._worker.tail
        self._worker = None
        if self._cancelled:
            self._end(self._callbacks.onCancelled)
        elif self._failure is not None and self._failure.kind == "gone":
            self._fail(explain.gone(self._failure.text))
        elif self._failure is not None and self._failure.kind == "silent":
            self._fail(explain.silent(max(1, round(self.silentSeconds / 60)), details))
        elif self._failure is not None and self._failure.kind == "memory" and self._retrySmaller():
            return
        elif self._failure is not None:
            self._fail(explain.failure(self._failure.kind, self._named(self._failure.text), details))
        elif self._summary is None or exitCode != 0 or crashed:
            self._fail(explain.ended(exitCode, crashed, details))
        else:
            self._readOutcome()

    def _retrySmaller(self):
        """Whether memory may suffice with half the batch; the worker is then started again."""
        from dataclasses import replace

        batch = self._options.batch // 2 if self._options.batch else _FIRST_RETRY_BATCH
        if batch < 1:
            return False
        self._options = replace(self._options, batch=batch)
        self._warn(_("Memory ran out; trying again with a batch of {batch}.").format(batch=batch))
        self._startWorker()
        return True

    # Results

    def _readOutcome(self):
        references = [(row.name, row.key) for row in self._used]
        output, named = self._folder.output, self._named
        reader = exchange.OutcomeReader(output, self._summary, self._query, references, named)
        self._steps = Steps(
            reader.read(),
            lambda: self._show(reader.outcome, reader.record.references(named)),
            self._stepFailed,
            lambda step: self._wasRead(*step),
        )

    def _show(self, outcome, references):
        self.warnings += [text for text in map(self._named, outcome.warnings) if text not in self.warnings]
        outcome.warnings = self.warnings
        self._forgetObservers()
        results = Results(self._parameters)
        self._callbacks.onResults(results)
        work = self._intoScene(results, outcome, references)
        self._steps = Steps(work, lambda: self._end(self._callbacks.onFinished), self._stepFailed)

    def _intoScene(self, results, outcome, references):
        yield from results.replace(self._query, outcome, self._keep)
        yield
        fared = {row.key: told for row, told in zip(self._used, references, strict=False)}
        ReferenceList(self._parameters).setOutcome(fared)
        yield
        self._callbacks.onShow()
        yield
        yield from self._folder.empty()

    def _written(self, done, total):
        fraction = _BEFORE / 100 * done / max(1, total)
        self._callbacks.onProgress(fraction, "send", 0, 0, "", None)

    def _wasRead(self, done, total):
        fraction = (100 - _AFTER + _AFTER * done / max(1, total)) / 100
        self._callbacks.onProgress(fraction, "load", 0, 0, "", None)

    # Volumes that go away meanwhile

    def _observe(self, nodes):
        scene = slicer.mrmlScene
        self._needed = {node.GetID() for node in nodes}
        removed = scene.AddObserver(scene.NodeRemovedEvent, self._lookForVolumes)
        closing = scene.AddObserver(scene.StartCloseEvent, self._sceneCloses)
        self._watched = [(scene, removed), (scene, closing)]

    def _lookForVolumes(self, _caller=None, _event=None):
        if all(slicer.mrmlScene.GetNodeByID(nodeId) is not None for nodeId in self._needed):
            return
        query = slicer.mrmlScene.GetNodeByID(self._query.GetID() or "")
        self._lose(_("The study was deleted") if query is None else _("A reference was deleted"))

    def _sceneCloses(self, _caller=None, _event=None):
        self._lose(_("The scene was closed"))

    def _lose(self, what):
        if self._over or self._cancelled:
            return
        self._forgetObservers()
        self._stopSteps()
        if self._worker is not None:
            self._failure = protocol.Failed("gone", what)
            self._worker.cancel()
        else:
            self._fail(explain.gone(what))

    def _forgetObservers(self):
        for caller, tag in self._watched:
            caller.RemoveObserver(tag)
        self._watched = []

    # The end

    def _stepFailed(self, error):
        if isinstance(error, InputError):
            self._fail(explain.unreadable(error))
        elif isinstance(error, (OSError, D24FADError, MemoryError)):
            self._fail(explain.failure("output", str(error)))
        else:
            # A fault of ours: its type helps, its text may name a patient's file.
            logging.error("D24FAD: a run failed with %s", type(error).__name__)
            self._fail(explain.failure("internal", "", repr(error)))

    def _fail(self, problem):
        logging.info("D24FAD: run ended (%s)", problem.kind)
        self._end(lambda: self._callbacks.onFailed(problem))

    def _end(self, tell):
        if self._over:
            return
        self._over = True
        self.seconds = time.monotonic() - self._started
        self._cleanUp()
        tell()

    def _stopSteps(self):
        if self._steps is not None:
            self._steps.stop()
            self._steps = None

    def _cleanUp(self):
        self._stopSteps()
        self._watch.stop()
        endLater(self._watch)
        self._forgetObservers()
        self._query = None  # whoever keeps the run does not keep a volume
        if self._folder is not None and not self._folder.remove():
            # A dying worker may hold a file for a moment longer (Windows).
            folder = self._folder
            qt.QTimer.singleShot(2000, folder.remove)


def check(parameterNode):
    """(query node, used references); raises InputError with what to do where a run cannot start."""
    query = parameterNode.GetNodeReference(settings.QUERY)
    if query is None:
        raise InputError(_("Choose the study to examine (step 1)."))
    requireVolume(query, _("The study"))
    references = ReferenceList(parameterNode)
    used = references.used()
    if not used:
        raise InputError(_("Add at least one normal reference and tick it (step 2)."))
    anyway = settings.isOn(parameterNode, "UnsuitableAnyway")
    for row in used:
        bad = [reason for reason in references.problems(row, query) if isUnusable(reason, anyway)]
        if bad:
            text = _("{name} cannot be used: {why}. Untick or remove it.")
            if not bad[0].impossible:
                text = _("{name} is not suitable: {why}. Untick it, or go on anyway (Advanced).")
            raise InputError(text.format(name=row.name, why=describe(bad[0]).rstrip(".")))
    return query, used


def _temporaryFolder():
    """Slicer's, which the user may have put on a large disk; None for the system's."""
    folder = slicer.app.temporaryPath
    return folder if folder and os.path.isdir(folder) else None


def _cannotUseTemporary(error):
    text = _(
        "The temporary folder cannot be used ({reason}). Choose another one under Edit / Application "
        "Settings / Modules, or make room in it."
    )
    return text.format(reason=error.strerror or type(error).__name__)


def advice(parameterNode):
    """A sentence on the number of references where it is not as advised, else ""."""
    count = len(ReferenceList(parameterNode).used())
    if count == 0:
        return _("Add normal studies of the same protocol: 2 to 8 are advised.")
    if count < ADVISED_LEAST:
        return _(
            "One reference works, but its own peculiarities will look like findings. 2 to 8 are advised."
        )
    if count > 8:
        return _("More than 8 references take longer and rarely help.")
    return ""
