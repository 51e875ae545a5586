"""The DICOM side of `d24fad detect`: its options, its inputs with their suitability, and its output.

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
from .scan import Progress
from .suitability import Check, Level

DEFAULT_KINDS = "seg,map,fractional,report,overview"


@dataclass(frozen=True)
class DicomInputs:
    """Query and references read from DICOM, `notes` for the reader, and the query's own files."""

    query: Volume
    supports: tuple[Volume, ...]
    query_files: tuple[str, ...]
    checks: tuple[Check, ...]
    notes: tuple[str, ...]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """--dicom, --query-series, --support-series, --dicom-output, --dicom-objects, --unsuitable-anyway."""
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
    group.add_argument(
        "--unsuitable-anyway",
        action="store_true",
        help="go on with references that the suitability check refuses",
    )


def read_inputs(args: argparse.Namespace, progress: Progress | None = None) -> DicomInputs:
    """Read and check what the options name; raises InputError, also for references that do not suit."""
    from .library import open_library

    if not args.query_series or not args.support_series:
        raise InputError(
            "--dicom needs --query-series UID and --support-series UID ...; `d24fad series FOLDER` lists "
            "them."
        )
    catalog = open_library(args.dicom, None, progress)
    entries = [catalog.find(uid) for uid in (args.query_series, *args.support_series)]
    readings = [entry.read() for entry in entries]
    notes = [f"series {e.uid}: {note}" for e, r in zip(entries, readings, strict=True) for note in r.notes]
    query, *supports = (reading.volume for reading in readings)
    supports = [Volume(v.image, f"reference {n}", v.info) for n, v in enumerate(supports, start=1)]
    checks = check_inputs(query, supports, args.unsuitable_anyway)
    for number, check in enumerate(checks, start=1):
        notes += [f"reference {number}: {reason}" for reason in check.reasons]
    return DicomInputs(
        Volume(query.image, "query", query.info),
        tuple(supports),
        tuple(dict.fromkeys(frame.path for frame in readings[0].frames)),
        checks,
        tuple(notes),
    )


def check_inputs(query: Volume, supports: Sequence[Volume], anyway: bool = False) -> tuple[Check, ...]:
    """The suitability of each reference; raises InputError where one is refused, unless told to go on."""
    from .suitability import check_volumes

    checks = check_volumes(query, supports)
    refused = [
        f"  reference {number}: {'; '.join(check.refusals)}"
        for number, check in enumerate(checks, start=1)
        if check.level is Level.REFUSE
    ]
    if refused and not anyway:
        raise InputError(
            "\n".join(["These references do not suit the query; choose others:", *refused])
            + "\nTo use them all the same, add --unsuitable-anyway."
        )
    return checks


def write_output(
    args: argparse.Namespace,
    detection: Detection,
    query_files: Sequence[str],
    supports: Sequence[Volume] = (),
) -> tuple[str, ...]:
    """Write the DICOM objects that the options ask for; sentences about it for the reader."""
    from .export import export_detection

    if not query_files:
        raise InputError(
            "--dicom-output needs a query that was read from DICOM; give --dicom or a DICOM folder."
        )
    kinds = [kind.strip() for kind in args.dicom_objects.split(",") if kind.strip()]
    digests = [support.content_hash() for support in supports]
    exported = export_detection(detection, query_files, args.dicom_output, kinds, digests)
    return (*exported.notes, f"{len(exported.files)} DICOM objects written")
