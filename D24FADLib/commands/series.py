"""d24fad series: what a folder or DICOM database holds, and what of it suits as query or reference."""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..wording import counted
from .progress import Reporter

if TYPE_CHECKING:
    from ..dicom.catalog import Catalog, SeriesEntry
    from ..references.suitability import Check

_STACKS = 20  # of a series that are listed: one of time points may hold hundreds
_MOST_TOLD = 100  # series of a result event: an application offers no more to choose from


def add_parser(subparsers: Any) -> None:
    parser = subparsers.add_parser(
        "series",
        help="list the DICOM series in a folder",
        description="List the DICOM series below a folder, in a DICOMDIR, or in Slicer's database "
        "(ctkDICOM.sql), and whether each suits as query or reference. Patients are numbered, never named.",
    )
    parser.add_argument("folder", type=Path, help="folder, DICOMDIR or ctkDICOM.sql")
    parser.add_argument("--json", action="store_true", help="print the list as JSON")
    parser.add_argument(
        "--events",
        dest="json",
        action="store_const",
        const="events",
        help="for applications: progress, then the series with images, as events of detect's --json",
    )
    parser.add_argument("--query", metavar="UID", help="also judge each series as a reference for this one")
    parser.add_argument("--index", metavar="FILE", help="keep the index here (default: the user's cache)")
    parser.add_argument("--no-index", action="store_true", help="leave no index on disk")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace, reporter: Reporter) -> int:
    from ..dicom.library import open_library

    where = ":memory:" if args.no_index else args.index
    if args.json == "events":
        reporter.result(
            _told(open_library(args.folder, where, lambda *count: reporter.progress("index", *count)))
        )
        return 0
    catalog = open_library(args.folder, where, _progress if sys.stderr.isatty() else None)
    pairs = _pairs(catalog, args.query)
    if args.json:
        print(json.dumps(as_plain(catalog, pairs), indent=1, ensure_ascii=False))
    else:
        _print(catalog, pairs)
    return 0


def _progress(done: int, total: int) -> bool:
    print(f"\rreading {done} of {total} files", end="" if done < total else "\n", file=sys.stderr, flush=True)
    return True


def _told(catalog: Catalog) -> dict[str, Any]:
    """How many series hold images, and of the first ones the UID and the traits by name."""
    fit = [entry for entry in catalog.series if entry.frames]
    first = [
        {"series_uid": entry.uid, "traits": dataclasses.asdict(entry.traits())} for entry in fit[:_MOST_TOLD]
    ]
    return {"count": len(fit), "series": first}


def _pairs(catalog: Catalog, query_uid: str | None) -> dict[int, Check]:
    """For each entry (by its place) the verdict on it as a reference for the query."""
    from ..references.suitability import check_pair

    if query_uid is None:
        return {}
    query = catalog.find(query_uid).traits()
    return {n: entry.check + check_pair(query, entry.traits()) for n, entry in enumerate(catalog.series)}


def as_plain(catalog: Catalog, pairs: dict[int, Check]) -> dict[str, Any]:
    """The list as JSON; no field identifies a patient."""
    return {
        "patients": catalog.patients,
        "studies": catalog.studies,
        "files": {"known": catalog.files_known, "read": catalog.files_read},
        "series": [_series(entry, pairs.get(n)) for n, entry in enumerate(catalog.series)],
        "problems": [{"file": p.shown, "files": p.files, "reason": p.reason} for p in catalog.problems],
    }


def _series(entry: SeriesEntry, pair: Check | None) -> dict[str, Any]:
    traits = entry.traits()
    plain: dict[str, Any] = {
        "patient": entry.patient,
        "study_uid": entry.study_uid,
        "series_uid": entry.uid,
        "modality": entry.modality,
        "body_part": entry.body_part,
        "description": entry.description,
        "sequence": traits.sequence or traits.said_sequence,
        "contrast": traits.contrast,
        "kernel": traits.kernel,
        "plane": traits.plane,
        "slices": entry.slices,
        "spacing_mm": [round(value, 4) for value in traits.spacing] if traits.spacing else None,
        "files": len(entry.files),
        "stacks": [{"label": stack.label, "slices": len(stack)} for stack in entry.stacks],
        "suitable": entry.check.level.value,
        "reasons": [str(reason) for reason in entry.check.reasons],
    }
    if pair is not None:
        plain["as_reference"] = {
            "suitable": pair.level.value,
            "reasons": [str(reason) for reason in pair.reasons],
        }
    return plain


def _print(catalog: Catalog, pairs: dict[int, Check]) -> None:
    study = None
    for n, entry in enumerate(catalog.series):
        if entry.study_uid != study:
            study = entry.study_uid
            print(f"patient {entry.patient}, study {study or '(no UID)'}")
        traits = entry.traits()
        grid = " x ".join(f"{value:.3g}" for value in traits.spacing) + " mm" if traits.spacing else ""
        contrast = {True: "contrast", False: "no contrast", None: ""}[traits.contrast]
        facts = [
            entry.modality or "no modality",
            entry.body_part,
            traits.sequence or traits.said_sequence or traits.kernel,
            contrast,
            traits.plane,
            counted(entry.slices, "slice"),
            grid,
            entry.description,
        ]
        print(f"  {entry.uid}\n    {', '.join(fact for fact in facts if fact)}")
        print(f"    {pairs.get(n, entry.check)}")
        if len(entry.stacks) > 1 and entry.slices > 1:  # else they are loose images
            for number, stack in enumerate(entry.stacks[:_STACKS], start=1):
                print(f"    stack {number}: {stack.label} ({counted(len(stack), 'image')})")
            if len(entry.stacks) > _STACKS:
                print(f"    and {counted(len(entry.stacks) - _STACKS, 'more stack')}")
    print(
        f"{counted(catalog.patients, 'patient')}, {counted(catalog.studies, 'study', 'studies')}, "
        f"{len(catalog.series)} series, {counted(catalog.files_known, 'file')} "
        f"({catalog.files_read} read now)"
    )
    for problem in catalog.problems:
        print(problem.note, file=sys.stderr)
