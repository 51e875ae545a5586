"""Opening whatever holds DICOM files: a folder, a DICOMDIR, or Slicer's database."""

from __future__ import annotations

import os
from pathlib import Path

from ..errors import InputError
from .catalog import Catalog
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
