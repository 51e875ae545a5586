"""Slicer's own DICOM database (ctkDICOM.sql), opened read-only.

The files that it lists are read where they lie; nothing is written to it, not even a lock file. Patient
columns are not asked for.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

from ..errors import InputError


def is_slicer_database(path: Path) -> bool:
    """True for an SQLite file with the tables of ctkDICOMDatabase."""
    if not path.is_file():
        return False
    try:
        with path.open("rb") as stream:
            if stream.read(16) != b"SQLite format 3\0":
                return False
        with closing(_open(path)) as database:
            names = {
                row[0] for row in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
            }
    except (OSError, sqlite3.Error):
        return False
    return {"Series", "Images", "Studies"} <= names


def listed_files(path: Path, series_uid: str | None = None) -> Iterator[Path]:
    """The files of the database, or of one series; raises InputError where it cannot be read.

    Newer databases keep paths relative to their own folder, older ones absolute (ctkDICOMDatabase schema
    0.6 to 0.8).
    """
    query = "SELECT Filename FROM Images"
    try:
        with closing(_open(path)) as database:
            if series_uid is None:
                rows = database.execute(query + " ORDER BY Filename").fetchall()
            else:
                rows = database.execute(
                    query + " WHERE SeriesInstanceUID = ? ORDER BY Filename", (series_uid,)
                ).fetchall()
    except sqlite3.Error as error:
        raise InputError(
            f"{path.name}: cannot be read as Slicer's DICOM database. Open it in Slicer once, or give the "
            "folder "
            "of the files."
        ) from error
    for (name,) in rows:
        if name:
            file = Path(str(name))
            yield file if file.is_absolute() else path.parent / file


def _open(path: Path) -> sqlite3.Connection:
    # A database in Slicer's hands may be in write-ahead mode; immutable reads it as it stands without a lock,
    # and is the fallback where read-only mode would have to create files beside it.
    uri = path.resolve().as_uri()
    try:
        database = sqlite3.connect(f"{uri}?mode=ro", uri=True, timeout=5)
        database.execute("SELECT 1 FROM sqlite_master LIMIT 1")
    except sqlite3.Error:
        database = sqlite3.connect(f"{uri}?mode=ro&immutable=1", uri=True)
    return database
