"""The DICOM side of `d24fad detect`: its options, its inputs and its output.

The command calls `add_arguments`, then `read_inputs` when `args.dicom` is given, and `write_output`
after the detection when `args.dicom_output` is.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..errors import InputError
from ..imaging.volume import Volume
from ..inference.detection import Detection
from ..inference.inputs import require_suitable
from .scan import Progress

DEFAULT_KINDS = "seg,map,fractional,report,overview"


@dataclass(frozen=True)
class DicomInputs:
    """Query and references read from DICOM, `notes` for the reader, and the query's own files."""

    query: Volume
    supports: tuple[Volume, ...]
    query_files: tuple[str, ...]
    notes: tuple[str, ...]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """--dicom, --query-series, --support-series, --dicom-output, --dicom-objects."""
    group = parser.add_argument_group("DICOM")
    group.add_argument(
        "--dicom", type=Path, metavar="FOLDER", help="folder, DICOMDIR or ctkDICOM.sql that holds the series"
    )
    group.add_argument("--query-series", metavar="UID", help="SeriesInstanceUID of the study to look at")
    group.add_argument(
        "--support-series",
        metavar="UID",
        nargs="+",
        action="extend",
        default=[],
        help="SeriesInstanceUIDs of the normal references",
    )
    group.add_argument(
        "--dicom-output",
        type=Path,
        metavar="FOLDER",
        help="write the results as DICOM objects of the query's study",
    )
    group.add_argument(
        "--dicom-objects",
        default=DEFAULT_KINDS,
        metavar="KINDS",
        help=f"which of seg, map, fractional, report, overview, pdf (default {DEFAULT_KINDS})",
    )


def read_inputs(args: argparse.Namespace, progress: Progress | None = None) -> DicomInputs:
    """Read and check what the options name; raises InputError, also for references that do not suit."""
    from .library import open_library

    if not args.query_series or not args.support_series:
        raise InputError(
            "--dicom needs --query-series UID and --support-series UID ...; `d24fad series FOLDER` lists "
            "them."
        )
    catalog = open_library(args.dicom, ":memory:" if args.no_cache else None, progress)
    entries = [catalog.find(uid) for uid in (args.query_series, *args.support_series)]
    names = ["query", *(f"reference {n}" for n in range(1, len(entries)))]
    # The detector judges voxels too; what the headers refuse is said before any pixel is read.
    query_traits, *support_traits = (entry.traits() for entry in entries)
    require_suitable(
        names[0], query_traits, list(zip(names[1:], support_traits, strict=True)), args.unsuitable_anyway
    )
    readings = [entry.read() for entry in entries]
    notes = [*catalog.notes()]
    notes += [f"series {e.uid}: {note}" for e, r in zip(entries, readings, strict=True) for note in r.notes]
    volumes = [Volume(r.volume.image, n, r.volume.info) for r, n in zip(readings, names, strict=True)]
    files = tuple(dict.fromkeys(frame.path for frame in readings[0].frames))
    return DicomInputs(volumes[0], tuple(volumes[1:]), files, tuple(notes))


def check_options(args: argparse.Namespace) -> None:
    """Raise before the work what speaks against the options; raises InputError and OutputError."""
    if not args.dicom and (args.query_series or args.support_series):
        raise InputError("--query-series and --support-series choose from a folder: give --dicom FOLDER, too")
    if args.dicom and args.series:
        raise InputError("--series goes with QUERY; with --dicom give --query-series")
    if args.dicom_output:
        from .export import check_export

        check_export(args.dicom_output, kinds_of(args), args.overwrite)


def kinds_of(args: argparse.Namespace) -> list[str]:
    return [kind.strip() for kind in args.dicom_objects.split(",") if kind.strip()]


def require_exportable(query_files: Sequence[str]) -> None:
    """Raise InputError for --dicom-output with a query that is no DICOM, or that none can refer to."""
    from .source import load_source

    if not query_files:
        raise InputError(
            "--dicom-output needs a query that was read from DICOM; give --dicom or a DICOM folder."
        )
    load_source(query_files)


def write_output(
    args: argparse.Namespace,
    detection: Detection,
    query_files: Sequence[str],
    supports: Sequence[Volume] = (),
) -> tuple[str, ...]:
    """Write the DICOM objects that the options ask for; sentences about it for the reader."""
    from .export import export_detection

    digests = [support.content_hash() for support in supports]
    exported = export_detection(detection, query_files, args.dicom_output, kinds_of(args), digests)
    return (*exported.notes, f"{len(exported.files)} DICOM objects written")
