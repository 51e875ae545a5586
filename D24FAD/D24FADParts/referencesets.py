"""Named reference sets: saving the list as series and paths, and finding them again."""

import os

import slicer
from slicer.i18n import tr as _

from D24FADLib.errors import InputError
from D24FADLib.references import sets


def folder():
    """Where the user's sets are kept: beside Slicer's own settings."""
    base = getattr(slicer.app, "slicerUserSettingsFilePath", "") or ""
    parent = os.path.dirname(base) if base else slicer.app.temporaryPath
    return os.path.join(parent, "D24FAD-references")


def names(where=None):
    return [sets.load_set(path).name for path in sets.list_sets(where or folder()) if _loads(path)]


def _loads(path):
    try:
        sets.load_set(path)
    except InputError:
        return False
    return True


def save(referenceList, name, where=None):
    """Raises InputError where a reference can be found again by neither a series nor a path."""
    rows = referenceList.rows()
    if not rows:
        raise InputError(_("There are no references to save."))
    entries, homeless = [], []
    for row in rows:
        entry = _entryOf(row, referenceList.nodeOf(row))
        if entry is None:
            homeless.append(row.name)
        else:
            entries.append(entry)
    if homeless:
        text = _(
            "{names}: neither from DICOM nor saved as a file, so a set cannot find it again. Save it first."
        )
        raise InputError(text.format(names=", ".join(homeless)))
    return sets.save_set(where or folder(), sets.ReferenceSet(name, tuple(entries)))


def _entryOf(row, node):
    if row.kind == "path" and row.path:
        return sets.Entry("path", row.path, row.name, row.modality)
    if row.seriesUid:
        return sets.Entry("series", row.seriesUid, row.name, row.modality)
    storage = node.GetStorageNode() if node is not None else None
    path = storage.GetFullNameFromFileName() if storage is not None else ""
    return sets.Entry("path", path, row.name, row.modality) if path and os.path.exists(path) else None


def load(referenceList, name, where=None):
    """Empty the list for a saved set; its entries, for `adding.Adding`."""
    chosen = sets.load_set(sets.file_of(where or folder(), name))
    referenceList.remove([row.key for row in referenceList.rows()])
    return chosen.entries
