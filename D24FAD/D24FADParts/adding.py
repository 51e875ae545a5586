"""References added without holding the application up: one a turn of its event loop, and folders of DICOM
files with the help of a process."""

import logging
import os
import re

import slicer
from slicer.i18n import tr as _

from D24FADLib.errors import D24FADError, InputError
from D24FADLib.references.sets import Entry

from . import references
from .folderscan import FolderScan
from .steps import Steps

_NAMES_A_TURN = 50
_MOST_NAMED, _MOST_SAID = 3, 8
# Slicer's own rule for what it takes for a label map (qSlicerVolumesIOOptionsWidget).
_LABELS = re.compile(r"(\b|_)([Ll]abels?|[Ss]eg)(\b|_)")


def ofPaths(paths):
    """What `Adding` takes: files, and folders with one DICOM series each."""
    return (Entry("path", path) for path in paths)


def ofFolder(folder):
    """Each image file of a folder but segmentations, or itself where it has none: it may hold DICOM files."""
    files, labels = [], []
    try:
        with os.scandir(folder) as listed:
            for number, item in enumerate(listed):
                if number % _NAMES_A_TURN == 0:
                    yield None
                if item.name.lower().endswith(references.IMAGE_SUFFIXES):
                    stem = item.name.lower().removesuffix(".gz").rpartition(".")[0]
                    (labels if _LABELS.search(stem) else files).append(item.name)
    except OSError as error:
        raise InputError(_("{name} cannot be read.").format(name=os.path.basename(folder))) from error
    if labels:
        text = _("Left out as segmentations, by their names: {names}.")
        yield text.format(names=_some(sorted(labels)))
    if files or labels:
        yield from ofPaths(os.path.join(folder, name) for name in sorted(files))
    else:
        yield Entry("path", folder)


def ofDicomSelection():
    """The series selected in the DICOM browser."""
    selected = references.dicomSelection()
    if not selected:
        yield _("Select series in the DICOM browser first (DICOM module), then come back here.")
    for uid in selected:
        yield Entry("series", uid)


def _some(names):
    more = len(names) - _MOST_NAMED
    said = ", ".join(names[:_MOST_NAMED])
    return _("{names} and {count} more").format(names=said, count=more) if more > 0 else said


class Adding:
    """Starts at once. `onAdding(name, done, total)`, counted in references or in the files of a folder, with
    total 0 where it is not known; then once `onAdded(problems)`, sentences about what could not be added.

    `things` gives `Entry`s, sentences for `problems`, and None to give way. `isSet`: they are a saved set's,
    and what cannot be added is listed as missing.
    """

    def __init__(self, referenceList, things, callbacks, isSet=False, problems=()):
        self._list, self._things, self._callbacks, self._isSet = referenceList, things, callbacks, isSet
        self._problems = list(problems)
        self._scan = None
        self.active = True
        scene = slicer.mrmlScene
        self._closing = scene.AddObserver(scene.StartCloseEvent, self._sceneCloses)
        self._steps = Steps(self._work(), self._end, self._failed)

    @property
    def problems(self):
        more = len(self._problems) - _MOST_SAID
        said = self._problems[:_MOST_SAID]
        return [*said, _("... and {count} more.").format(count=more)] if more > 0 else said

    @property
    def pids(self):
        """The process ids of the scan that is under way, as far as known."""
        return self._scan.pids if self._scan is not None else set()

    def stop(self, why):
        """End it; what has been added stays."""
        if self.active:
            self._problems.insert(0, why)
            if self._scan is not None:
                self._scan.cancel()
            self._end()

    def abandon(self):
        """The module is going away: end everything at once, tell nobody."""
        if self.active:
            if self._scan is not None:
                self._scan.abandon()
            self._callbacks = None
            self._end()

    def _work(self):
        entries = []
        for thing in self._things:
            if isinstance(thing, Entry):
                entries.append(thing)
            elif thing is not None:
                self._problems.append(thing)
            yield
        for done, entry in enumerate(entries):
            if len(entries) > 1:
                self._callbacks.onAdding(_nameOf(entry), done, len(entries))
                yield
            try:
                yield from self._add(entry)
            except D24FADError as error:
                self._miss(entry, str(error))
            except Exception as error:
                # Of Slicer's loaders; its text may name a patient's file.
                logging.error("D24FAD: a reference failed with %s", type(error).__name__)
                text = _("{name} could not be loaded ({kind}).")
                self._miss(entry, text.format(name=_nameOf(entry), kind=type(error).__name__))
            yield

    def _miss(self, entry, problem):
        self._problems.append(problem)
        if self._isSet and self.active:
            self._list.addMissing(entry)

    def _add(self, entry):
        if entry.kind == "series":
            self._addSeries(entry)
        elif not entry.is_there():
            name = entry.value if self._isSet else os.path.basename(entry.value)
            raise InputError(_("{name} is gone.").format(name=name))
        elif os.path.isdir(entry.value):
            yield from self._addFolder(entry)
        else:
            self._list.addPath(entry.value, entry.label, entry.modality)

    def _addFolder(self, entry):
        path = self._list.newPath(entry.value)
        name = os.path.basename(path)
        self._callbacks.onAdding(name, 0, 0)
        self._scan = FolderScan(
            path, lambda done, total: self._callbacks.onAdding(name, done, total), self._steps.resume
        )
        while not self._scan.over:
            self._steps.pause()
            yield
        scan, self._scan = self._scan, None
        self._list.addPath(path, entry.label, entry.modality, scan.plainTraits())

    def _addSeries(self, entry):
        """Slicer's loader turns the event loop, in which all may be stopped."""
        if self._isSet and not _isInDatabase(entry.value):
            name = entry.label or "?"
            raise InputError(_("{name}: its series is not in the DICOM database.").format(name=name))
        nodes = references.loadSeries(entry.value)
        if self.active and not nodes:
            raise InputError(_("A selected series holds no volume that can be compared."))
        for node in nodes[:1] if self._isSet else nodes:
            if self.active:
                try:
                    self._list.addNode(node)
                except InputError as error:
                    self._problems.append(str(error))

    def _sceneCloses(self, _caller=None, _event=None):
        self.stop(_("The scene was closed before all references were added."))

    def _failed(self, error):
        if not isinstance(error, D24FADError):
            logging.error("D24FAD: adding references failed with %s", type(error).__name__)
            error = _("The references could not be added ({kind}).").format(kind=type(error).__name__)
        self._problems.append(str(error))
        self._end()

    def _end(self):
        """Once, and lets go of the list and whoever is told."""
        if self.active:
            self.active = False
            self._steps.stop()
            slicer.mrmlScene.RemoveObserver(self._closing)
            callbacks, self._callbacks = self._callbacks, None
            self._list = self._things = self._scan = None
            if callbacks is not None:
                callbacks.onAdded(self.problems)


def _nameOf(entry):
    return entry.label or (os.path.basename(entry.value) if entry.kind == "path" else _("DICOM series"))


def _isInDatabase(uid):
    database = getattr(slicer, "dicomDatabase", None)
    return database is not None and bool(database.filesForSeries(uid))
