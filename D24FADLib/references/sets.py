"""Named sets of references: which series and files a protocol's normals are. Never a pixel, never a name.

A set is one JSON file in a folder of the user's. Saved whole or not at all.
"""

from __future__ import annotations

import json
import os
import re
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import InputError, OutputError

FORMAT = "d24fad-reference-set"
VERSION = 1
_SUFFIX = ".d24fad-references.json"


@dataclass(frozen=True)
class Entry:
    """One reference: a DICOM series by its UID, or a file or folder by its path."""

    kind: str  # "series" or "path"
    value: str
    label: str = ""  # what tables call it: a series description or file name
    modality: str = ""

    def is_there(self) -> bool:
        """Whether the file or folder exists; a series is looked up in the application's database instead."""
        return self.kind != "path" or os.path.exists(self.value)


@dataclass(frozen=True)
class ReferenceSet:
    name: str
    entries: tuple[Entry, ...]


def file_of(folder: str | os.PathLike[str], name: str) -> Path:
    """The file of the set of this name; raises InputError for a name that cannot be one."""
    stem = re.sub(r"[^\w\-. ]+", "_", name.strip()).strip(". ")
    if not re.search(r"[^\W_]", stem):
        raise InputError("A reference set needs a name with letters or digits.")
    return Path(folder) / f"{stem}{_SUFFIX}"


def save_set(folder: str | os.PathLike[str], chosen: ReferenceSet) -> Path:
    path = file_of(folder, chosen.name)
    document = {
        "format": FORMAT,
        "version": VERSION,
        "name": chosen.name.strip(),
        "references": [{k: v for k, v in vars(entry).items() if v} for entry in chosen.entries],
    }
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, suffix=".part")
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            json.dump(document, file, indent=1, ensure_ascii=False)
        os.replace(temporary, path)
    except OSError as error:
        raise OutputError(
            f"The reference set cannot be saved in {path.parent} ({error.strerror})."
        ) from error
    return path


def load_set(path: str | os.PathLike[str]) -> ReferenceSet:
    """Raises InputError where the file is gone, is no reference set, or is from a later version."""
    name = Path(path).name.removesuffix(_SUFFIX)
    try:
        document = json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"The reference set {name} is gone or cannot be read ({error.strerror}).") from error
    except ValueError as error:
        raise InputError(f"The reference set {name} is damaged: it is not JSON. Save it again.") from error
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        raise InputError(f"{name} is not a reference set.")
    if document.get("version") != VERSION:
        raise InputError(f"The reference set {name} was saved by another version of D24FAD. Save it again.")
    entries = tuple(_entry(item, name) for item in document.get("references") or [])
    return ReferenceSet(str(document.get("name") or name), entries)


def _entry(item: Any, name: str) -> Entry:
    if not isinstance(item, dict) or item.get("kind") not in ("series", "path") or not item.get("value"):
        raise InputError(f"The reference set {name} has an entry that is neither a series nor a path.")
    return Entry(*(str(item.get(key) or "") for key in ("kind", "value", "label", "modality")))


def list_sets(folder: str | os.PathLike[str]) -> list[Path]:
    """The sets in a folder, by name."""
    return sorted(Path(folder).glob(f"*{_SUFFIX}"), key=lambda path: path.name.lower())
