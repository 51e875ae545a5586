"""Any study, whatever its format: DICOM through the DICOM room, every other file through `imaging`."""

from __future__ import annotations

import dataclasses
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from .errors import InputError

if TYPE_CHECKING:
    from .dicom.catalog import SeriesEntry
    from .dicom.series import SeriesReading
    from .imaging.volume import Volume


@dataclass(frozen=True)
class Study:
    """A volume, notes on how it was read, and its DICOM files (() for other formats)."""

    volume: Volume
    notes: tuple[str, ...] = ()
    dicom_files: tuple[str, ...] = ()


def read_study(
    path: str | os.PathLike[str], series_uid: str | None = None, stack: int | None = None
) -> Study:
    """A file, a folder of DICOM files, a DICOMDIR or Slicer's DICOM database; raises InputError.

    `series_uid` chooses among several series, `stack` (from 1) among the stacks of one. A DICOM file stands
    for the series that it belongs to, an image without a position in the patient for itself.
    """
    from .dicom.library import open_library
    from .dicom.slicer_database import is_slicer_database
    from .imaging.reading import read_volume

    source = Path(path)
    name = source.name or source.resolve().name
    try:
        if source.is_dir() or source.name.upper() == "DICOMDIR" or is_slicer_database(source):
            catalog = open_library(source, ":memory:")
            reading, more = catalog.read(series_uid, stack), catalog.notes()
        elif is_dicom(source):
            reading, more = _series_of(source, series_uid).read(stack), ()
        elif series_uid is not None and source.exists():
            raise InputError(f"{name}: is no DICOM, so there is no series to choose. Leave the UID out.")
        else:
            return Study(read_volume(source))
    except PermissionError as error:
        raise InputError(f"{name}: no permission to read it. Ask for read access, or copy it.") from error
    files = tuple(dict.fromkeys(frame.path for frame in reading.frames))
    return Study(
        dataclasses.replace(reading.volume, name=_shown(name, reading)), (*more, *reading.notes), files
    )


def _shown(name: str, reading: SeriesReading) -> str:
    """What messages call the study: its file's or folder's name unless that repeats the patient's."""
    from .dicom.headers import quiet, read_header
    from .dicom.privacy import identity_words, withhold

    with quiet():
        words = identity_words(read_header(reading.frames[0].path)[0])
    return name if withhold(name, words) == name else f"series {reading.volume.info.series_uid}"


def is_dicom(path: str | os.PathLike[str]) -> bool:
    """True for a file with the preamble of PS3.10 section 7.1, or whose header can be read without it."""
    from .dicom.headers import Unreadable, quiet, read_header
    from .imaging.reading import is_image_name

    if not os.path.isfile(path):  # opening a pipe would wait for ever
        return False
    try:
        with open(path, "rb") as stream:
            if stream.read(132)[128:] == b"DICM":
                return True
        if is_image_name(path):
            return False
        with quiet():
            return bool(read_header(path)[0])
    except (OSError, Unreadable):
        return False


def _series_of(file: Path, series_uid: str | None) -> SeriesEntry:
    """The entry of the series that a file belongs to, among the files beside it."""
    from .dicom.index import index_files

    file = file.absolute()
    own = index_files([file], file.parent, ":memory:")
    if not any(entry.frames for entry in own.series):
        why = own.problems[0].reason if own.problems else f"holds {own.series[0].content or 'no image'}"
        shown = own.problems[0].shown if own.problems else f"series {own.series[0].uid}"
        raise InputError(f"{shown}: not a DICOM image that can be used ({why}). Give another file or folder.")
    entry = own.only()
    if series_uid is not None and entry.uid != series_uid:
        raise InputError(
            f"{file.name}: belongs to series {entry.uid}, not to {series_uid}. Give that series' folder."
        )
    if entry.frames[0].position is None:
        return entry
    beside = sorted(other for other in file.parent.iterdir() if other.is_file())
    catalog = index_files(beside, file.parent, ":memory:")
    return next(entry for entry in catalog.series if str(file) in entry.files)
