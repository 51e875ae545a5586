"""Opening whatever holds DICOM files: a folder, a DICOMDIR, or Slicer's database."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

from ..errors import InputError
from ..imaging.reading import read_volume
from ..imaging.volume import Volume
from .catalog import Catalog, SeriesEntry
from .index import index_files, index_folder
from .scan import Progress
from .slicer_database import is_slicer_database, listed_files


def open_library(
    path: str | os.PathLike[str],
    index: str | os.PathLike[str] | None = None,
    progress: Progress | None = None,
) -> Catalog:
    """The catalog of a folder, a DICOMDIR or a ctkDICOM.sql; raises InputError."""
    source = Path(path)
    if is_slicer_database(source):
        return index_files(listed_files(source), source, index, progress)
    if source.is_file() and source.suffix.lower() in (".sql", ".db", ".sqlite"):
        raise InputError(
            f"{source.name}: not Slicer's DICOM database. Give ctkDICOM.sql from its database folder."
        )
    return index_folder(source, index, progress)


def open_volume(
    path: str | os.PathLike[str], series_uid: str | None = None, stack: int | None = None
) -> tuple[Volume, tuple[str, ...], tuple[str, ...]]:
    """Any input as a volume: (volume, notes, its DICOM files, () for another format).

    Folders, DICOMDIRs, databases and DICOM files go through the DICOM room; every other file through
    `read_volume`. A DICOM file stands for the series that it belongs to, an image without a position for
    itself.
    """
    source = Path(path)
    if source.is_dir() or source.name.upper() == "DICOMDIR" or is_slicer_database(source):
        reading = open_library(source, ":memory:").read(series_uid, stack)
    elif _is_dicom(source):
        reading = _series_of(source).read(stack)
    else:
        return read_volume(source, series_uid), (), ()
    files = tuple(dict.fromkeys(frame.path for frame in reading.frames))
    return reading.volume, reading.notes, files


def _is_dicom(path: Path) -> bool:
    """True for a file with the preamble of PS3.10 section 7.1."""
    try:
        with path.open("rb") as stream:
            return stream.read(132)[128:] == b"DICM"
    except OSError:
        return False


def _series_of(file: Path) -> SeriesEntry:
    """The entry of the series that a file belongs to, among the files beside it."""
    beside = sorted(other for other in file.absolute().parent.iterdir() if other.is_file())
    catalog = index_files(beside, file.parent, ":memory:")
    for entry in catalog.series:
        own = [frame for frame in entry.frames if frame.path == str(file.absolute())]
        if own and own[0].position is None:
            return dataclasses.replace(entry, frames=tuple(own), files=(own[0].path,))
        if str(file.absolute()) in entry.files:
            return entry
    return index_files([file], file.parent, ":memory:").only()
