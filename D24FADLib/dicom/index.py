"""An index of the DICOM files below a folder, in a small SQLite file that only its user can read.

A file is read again only when its size or its time of change differs from what the index knows, so a
second look at an unchanged folder opens no DICOM file. The index holds technical attributes and UIDs, no
patient's name, number or date of birth (see records.py).
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import sqlite3
from collections.abc import Iterable
from contextlib import closing, suppress
from itertools import count
from pathlib import Path
from typing import Any

from ..errors import Cancelled, InputError, OutputError
from ..inference.cache import cache_folder
from . import headers
from .catalog import Catalog, Problem, SeriesEntry, collapse
from .frames import Frame
from .privacy import shown_path
from .records import Row
from .scan import Progress, scan

_SCHEMA_VERSION = 2
_APPLICATION = 0x44324641  # marks the SQLite file as ours (PRAGMA application_id)
_SCHEMA = f"""
PRAGMA application_id = {_APPLICATION};
CREATE TABLE about (version INTEGER, salt BLOB);
CREATE TABLE shared (number INTEGER PRIMARY KEY, content TEXT UNIQUE);
CREATE TABLE files (
  path BLOB PRIMARY KEY, size INTEGER, changed INTEGER,
  problem TEXT, study TEXT, series TEXT, patient TEXT, shared INTEGER, own TEXT
);
"""
_BATCH = 500
_Member = tuple[str, dict[str, Any], list[dict[str, Any]]]  # path, what its series shares, its frames


def default_index(source: Path) -> Path:
    """Where an index lies: in the user's cache, under a name that says nothing of the folder."""
    digest = hashlib.sha256(os.fsencode(source.resolve())).hexdigest()[:24]
    return cache_folder() / "dicom" / f"{digest}.sqlite"


def index_folder(
    folder: str | os.PathLike[str],
    index: str | os.PathLike[str] | None = None,
    progress: Progress | None = None,
    workers: int | None = None,
) -> Catalog:
    """Bring the index of a folder (or of a DICOMDIR's folder) up to date and return what it lists.

    `progress(done, total)` is called while files are read and may return False to stop, which raises
    Cancelled and keeps what was read. `index=":memory:"` leaves nothing on disk.
    """
    root = _root(Path(folder))
    return _index(headers.states_under(root), root, index, progress, workers)


def index_files(
    files: Iterable[Path],
    root: Path,
    index: str | os.PathLike[str] | None = None,
    progress: Progress | None = None,
    workers: int | None = None,
) -> Catalog:
    """The same for a list of files; `root` names the list and its index."""
    found: dict[str, tuple[int, int]] = {}
    for file in files:
        with suppress(OSError):
            state = file.stat()
            found[str(file.absolute())] = (state.st_size, state.st_mtime_ns)
    return _index(found.items(), root, index, progress, workers)


def _index(
    files: Iterable[tuple[str, tuple[int, int]]],
    root: Path,
    index: str | os.PathLike[str] | None,
    progress: Progress | None,
    workers: int | None,
) -> Catalog:
    listed = list(files)
    if index is not None:
        return _indexed(listed, root, str(index), progress, workers)
    with suppress(OutputError):  # only a cache: without one that can be written, or free, all is read again
        return _indexed(listed, root, str(default_index(root)), progress, workers)
    return _indexed(listed, root, ":memory:", progress, workers)


def _indexed(
    listed: list[tuple[str, tuple[int, int]]],
    root: Path,
    where: str,
    progress: Progress | None,
    workers: int | None,
) -> Catalog:
    base = root if root.is_dir() else root.parent
    for attempt in (1, 2):
        try:
            with closing(_opened(where)) as database:
                read, known = _update(database, listed, progress, workers)
                return _catalog(database, base, read, known)
        except sqlite3.Error as error:
            # An index is only a cache: a damaged one is made anew, once, but not one that another run holds.
            if attempt == 2 or where == ":memory:" or isinstance(error, sqlite3.OperationalError):
                raise OutputError(
                    f"{Path(where).name}: the index cannot be used ({type(error).__name__}). Wait for "
                    "another "
                    "run that uses it, delete it, or choose another place for it."
                ) from error
            Path(where).write_bytes(b"")
    raise AssertionError("unreachable")


def scan_folder(folder: str | os.PathLike[str], progress: Progress | None = None) -> Catalog:
    """The same without an index on disk."""
    return index_folder(folder, ":memory:", progress)


def _root(folder: Path) -> Path:
    if folder.is_file():
        if folder.name.upper() == "DICOMDIR":
            return folder.parent
        raise InputError(f"{folder.name}: not a folder. Give a folder of DICOM files, or a DICOMDIR.")
    if not folder.is_dir():
        raise InputError(f"{folder.name or folder}: no such folder. Check the path.")
    try:
        os.scandir(folder).close()
    except PermissionError as error:
        raise InputError(
            f"{folder.name}: no permission to read it. Ask for read access, or copy it."
        ) from error
    return folder


def _opened(where: str) -> sqlite3.Connection:
    """The index's database, made where there is none; never one over another program's file."""
    if where != ":memory:":
        _prepare(Path(where))
    database = sqlite3.connect(where, timeout=30)
    try:
        if where != ":memory:":
            # A journal in memory: no second file that would need permissions of its own.
            database.execute("PRAGMA journal_mode=MEMORY")
            database.execute("PRAGMA synchronous=OFF")
        about = _about(database)
        if about is None or about[0] != _SCHEMA_VERSION:
            for table in ("about", "files", "shared"):
                database.execute(f"DROP TABLE IF EXISTS {table}")
            database.executescript(_SCHEMA)
            database.execute("INSERT INTO about VALUES (?, ?)", (_SCHEMA_VERSION, secrets.token_bytes(32)))
            database.commit()
    except BaseException:
        database.close()
        raise
    return database


def _prepare(path: Path) -> None:
    """Make the index file with its permissions before anything is in it; raises OutputError."""
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with os.fdopen(os.open(path, os.O_CREAT | os.O_RDWR, 0o600), "rb") as stream:
            head = stream.read(72)
        if head and not (
            head[:16] == b"SQLite format 3\0" and head[68:72] == _APPLICATION.to_bytes(4, "big")
        ):
            raise OutputError(
                f"{path.name}: is there already and is no index. Choose another place for the index."
            )
        path.chmod(0o600)
    except OSError as error:
        raise OutputError(f"{path.name}: the index cannot be written ({error.strerror}).") from error


def _about(database: sqlite3.Connection) -> tuple[int, bytes] | None:
    exists = database.execute("SELECT 1 FROM sqlite_master WHERE name = 'about'").fetchone()
    return database.execute("SELECT version, salt FROM about").fetchone() if exists else None


def _update(
    database: sqlite3.Connection,
    files: Iterable[tuple[str, tuple[int, int]]],
    progress: Progress | None,
    workers: int | None,
) -> tuple[int, int]:
    """Read what is new or changed, forget what is gone; how many files were read and are known."""
    known = {
        os.fsdecode(row[0]): (row[1], row[2])
        for row in database.execute("SELECT path, size, changed FROM files")
    }
    present = dict(files)
    new = [path for path, state in present.items() if known.get(path) != state]
    database.executemany(
        "DELETE FROM files WHERE path = ?", [(os.fsencode(path),) for path in known if path not in present]
    )
    about = _about(database)
    assert about is not None
    store = _Store(database)
    for done, (path, row) in enumerate(scan(new, about[1], workers), start=1):
        store.put(path, present[path], row)
        if (
            progress is not None
            and (done % 50 == 0 or done == len(new))
            and progress(done, len(new)) is False
        ):
            store.finish()
            raise Cancelled("Indexing was stopped.")
    store.finish()
    return len(new), len(present)


class _Store:
    """Writes rows in batches; what many files share is kept once."""

    def __init__(self, database: sqlite3.Connection) -> None:
        self._database = database
        self._numbers: dict[str, int] = {
            content: number for number, content in database.execute("SELECT number, content FROM shared")
        }
        self._free = count(1 + max(self._numbers.values(), default=0))
        self._rows: list[tuple[Any, ...]] = []

    def put(self, path: str, state: tuple[int, int], row: Row) -> None:
        number = self._numbers.get(row.shared)
        if number is None:
            number = self._numbers[row.shared] = next(self._free)
            self._database.execute("INSERT INTO shared VALUES (?, ?)", (number, row.shared))
        self._rows.append((os.fsencode(path), *state, *row[:4], number, row.own))
        if len(self._rows) >= _BATCH:
            self._write()

    def _write(self) -> None:
        statement = "INSERT OR REPLACE INTO files VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)"
        self._database.executemany(statement, self._rows)
        self._rows.clear()

    def finish(self) -> None:
        self._write()
        self._database.execute("DELETE FROM shared WHERE number NOT IN (SELECT shared FROM files)")
        self._database.commit()


def _catalog(database: sqlite3.Connection, root: Path, read: int, known: int) -> Catalog:
    base = str(root.absolute())
    problems: list[tuple[str, str]] = []
    groups: dict[tuple[str, str, str], list[_Member]] = {}
    shared = {n: json.loads(text) for n, text in database.execute("SELECT number, content FROM shared")}
    query = "SELECT path, problem, study, series, patient, shared, own FROM files ORDER BY path"
    words: set[str] = set()
    for about_file in shared.values():
        words.update(about_file.get("words", ()))
    for stored_path, problem, study, series, patient, number, own in database.execute(query):
        path, common = os.fsdecode(stored_path), shared[number]
        if problem is not None:
            problems.append((path, problem))
        elif "dicomdir" in common:
            problems.extend(_absent(Path(path), json.loads(own)))
        else:
            # A series cannot span studies or patients; one that seems to is two with the same UID.
            groups.setdefault((patient, study, series), []).append((path, common, json.loads(own)))
    patients: dict[str, int] = {}
    entries = [
        _entry(key, members, patients.setdefault(key[0], len(patients) + 1))
        for key, members in groups.items()
    ]
    entries.sort(key=lambda e: (e.patient, e.study_uid, e.number, e.uid))
    about = _about(database)
    assert about is not None
    shown = [(shown_path(os.path.relpath(path, base), words, about[1]), reason) for path, reason in problems]
    found = (*collapse(shown), *_shared_uids(entries), *_local(entries))
    name = shown_path(root.name, words, about[1]) or "folder"
    return Catalog(name, tuple(entries), found, read, known)


def _absent(dicomdir: Path, listed: list[list[str]]) -> list[tuple[str, str]]:
    gone = sum(not dicomdir.parent.joinpath(*parts).is_file() for parts in listed)
    return [(str(dicomdir), f"lists {gone} files that are not there")] if gone else []


def _entry(key: tuple[str, str, str], members: list[_Member], patient: int) -> SeriesEntry:
    _, study, series = key
    first = next((common for _, common, own in members if own), members[0][1])
    frames = [Frame.from_plain(path, plain) for path, _, own in members for plain in own]
    local = not series
    if local:  # a number of its own, always the same for the same images, so that it can be asked for
        images = "\0".join(sorted(frame.sop_instance_uid or frame.path for frame in frames))
        series = (
            f"2.25.{int.from_bytes(hashlib.sha256(images.encode('utf-8', 'replace')).digest()[:15], 'big')}"
        )
    return SeriesEntry(
        uid=series,
        study_uid=study,
        patient=patient,
        modality=first["modality"],
        body_part=first["body_part"],
        description=first["description"],
        date=first["date"],
        number=first["number"],
        syntax=first["syntax"],
        tags=first["tags"],
        content="" if frames else first["content"],
        files=tuple(path for path, _, _ in members),
        frames=tuple(frames),
        local=local,
    )


def _shared_uids(entries: list[SeriesEntry]) -> list[Problem]:
    seen: dict[str, int] = {}
    for entry in entries:
        seen[entry.uid] = seen.get(entry.uid, 0) + 1
    return [
        Problem(
            f"series {uid}",
            f"is claimed by {count} patients or studies; each is listed on its own",
            used=True,
        )
        for uid, count in seen.items()
        if count > 1
    ]


def _local(entries: list[SeriesEntry]) -> list[Problem]:
    return [
        Problem(
            f"series {entry.uid}",
            f"{len(entry.files)} files without a SeriesInstanceUID; this one is made up",
            used=True,
        )
        for entry in entries
        if entry.local
    ]
