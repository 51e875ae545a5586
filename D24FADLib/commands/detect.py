"""`d24fad detect`: find anomalies in one study."""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from D24FADLib.commands.progress import Reporter
from D24FADLib.dicom import detect_options
from D24FADLib.errors import InputError

if TYPE_CHECKING:
    from D24FADLib.imaging.volume import Volume
    from D24FADLib.inference.detection import Detection
    from D24FADLib.inference.options import DetectionOptions


def add_parser(subparsers: Any) -> None:
    parser = subparsers.add_parser(
        "detect",
        help="find anomalies in one study",
        description="Compare a study, slice by slice, with a few normal references of the same protocol. "
        "Reads NIfTI, NRRD, MetaImage, DICOM folders and pictures. Research use only; not a diagnosis.",
    )
    parser.add_argument("query", nargs="?", metavar="QUERY", help="the study: a file or a DICOM folder")
    parser.add_argument(
        "--support",
        action="append",
        default=[],
        metavar="PATH",
        help="a normal reference; 2 to 8 are advised",
    )
    parser.add_argument(
        "--output", "-o", required=True, type=Path, metavar="DIR", help="folder of the results"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace an earlier run's results in DIR")
    parser.add_argument(
        "--uncompressed", action="store_true", help="write volumes uncompressed: larger, but sooner"
    )
    parser.add_argument("--series", metavar="UID", help="the series of QUERY, where its folder holds several")
    add_options(parser)
    detect_options.add_arguments(parser)
    parser.set_defaults(run=run)


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of a detection, shared with the demo."""
    parser.add_argument("--plane", choices=["axial", "coronal", "sagittal"], help="default: as acquired")
    parser.add_argument(
        "--align",
        choices=["none", "position", "rigid", "affine"],
        help="how references are brought onto the study (default: affine for volumes, none for pictures)",
    )
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, mps or intel-gpu")
    parser.add_argument("--runtime", choices=["auto", "torch", "openvino"], default="auto")
    parser.add_argument(
        "--precision",
        choices=["auto", "f32", "bf16", "f16"],
        default="auto",
        help="what the networks compute in (default: f32 on a CPU, f16 on a CUDA card)",
    )
    parser.add_argument("--model", default=None, metavar="NAME|PATH", help="embedded model or bundle folder")
    parser.add_argument(
        "--force-model",
        action="store_true",
        help="use the model although its weights are not those that its metadata names",
    )
    parser.add_argument(
        "--threshold", type=float, metavar="X", help="on the map; default from the references"
    )
    parser.add_argument(
        "--false-positives-per-study",
        type=float,
        default=1.0,
        metavar="N",
        help="sets the default threshold: findings that a normal study may have on average",
    )
    parser.add_argument(
        "--drop-outliers",
        action="store_true",
        help="leave out references that stand out against the others, as long as two are left",
    )
    parser.add_argument(
        "--ct-window", default="auto", choices=["auto", "brain", "soft", "lung", "bone"], help="for CT"
    )
    parser.add_argument("--batch", type=int, metavar="N", help="slices compared at a time")
    parser.add_argument(
        "--reference-cache",
        action="store_true",
        help="compare on the references' own grid and keep them prepared for the next study, in your cache "
        "folder and readable by you alone (see d24fad info)",
    )
    parser.add_argument("--no-cache", action="store_true", help="keep nothing and use nothing kept")
    parser.add_argument(
        "--unsuitable-anyway",
        action="store_true",
        help="go on with references that the suitability check refuses",
    )
    parser.add_argument("--json", action="store_true", help="progress and result as JSON lines")


def options_from(args: argparse.Namespace) -> DetectionOptions:
    """The parsed options; InputError for values out of range."""
    from D24FADLib.imaging.alignment import Alignment
    from D24FADLib.imaging.planes import Plane
    from D24FADLib.inference.options import DEFAULT_MODEL, DetectionOptions

    if args.batch is not None and args.batch < 1:
        raise InputError("--batch: give 1 or more slices")
    if args.no_cache and args.reference_cache:
        raise InputError("give either --reference-cache or --no-cache, not both")
    if not 0 < args.false_positives_per_study < math.inf:
        raise InputError("--false-positives-per-study: give a number above 0")
    if args.threshold is not None and not 0 <= args.threshold < math.inf:
        raise InputError("--threshold: give a number, 0 or more")  # the map is 0 where nothing is judged
    return DetectionOptions(
        plane=Plane(args.plane) if args.plane else None,
        align=Alignment(args.align) if args.align else None,
        model=args.model or DEFAULT_MODEL,
        device=args.device,
        runtime=args.runtime,
        precision=args.precision,
        threshold=args.threshold,
        false_positives_per_study=args.false_positives_per_study,
        ct_window=args.ct_window,
        batch=args.batch,
        cache=not args.no_cache,
        reference_cache=args.reference_cache,
        force_model=args.force_model,
        drop_outliers=args.drop_outliers,
        unsuitable_anyway=args.unsuitable_anyway,
    )


def run(args: argparse.Namespace, reporter: Reporter) -> int:
    from D24FADLib.inference.detector import detect
    from D24FADLib.inference.outputs import check_output_folder, write_outputs

    options = options_from(args)
    check_output_folder(args.output, args.overwrite)
    detect_options.check_options(args)
    query, supports, query_files = read_inputs(args, reporter)
    if args.dicom_output:
        detect_options.require_exportable(query_files)
    detection = detect(query, supports, options, progress=reporter.progress)
    files = write_outputs(
        detection,
        args.output,
        overwrite=args.overwrite,
        compress=not args.uncompressed,
        progress=lambda done, total: reporter.progress("write", done, total),
        complete=lambda: reporter.written.append(str(args.output)),
    )
    for warning in detection.warnings:
        reporter.warning(warning)
    if args.dicom_output:
        *notes, written = detect_options.write_output(args, detection, query_files, supports)
        for note in notes:
            reporter.warning(note)
        reporter.note(written)
    reporter.result(summarise(detection, args.output, files))
    return 0


def read_inputs(args: argparse.Namespace, reporter: Reporter) -> tuple[Volume, list[Volume], tuple[str, ...]]:
    """Query, supports and, where it is known, the DICOM files of the query."""
    from D24FADLib.reading import read_study

    if args.dicom:
        if args.query or args.support:
            raise InputError("give either --dicom with series UIDs or QUERY and --support paths, not both")
        inputs = detect_options.read_inputs(args, lambda done, total: reporter.progress("read", done, total))
        for note in inputs.notes:
            reporter.warning(note)
        return inputs.query, list(inputs.supports), inputs.query_files
    if not args.query:
        raise InputError("no study was given: d24fad detect QUERY --support PATH ... --output DIR")
    total = 1 + len(args.support)
    studies = []
    for number, path in enumerate([args.query, *args.support]):
        reporter.progress("read", number, total)
        studies.append(read_study(path, args.series if number == 0 else None))
        for note in studies[-1].notes:
            reporter.warning(f"{studies[-1].volume.name}: {note}.")
    query, *supports = studies
    return query.volume, [support.volume for support in supports], query.dicom_files


def summarise(detection: Detection, folder: Path, files: dict[str, Path]) -> dict[str, Any]:
    """The result event: numbers for machines, a text for people."""
    return {
        "output": str(folder),
        "files": {role: str(path) for role, path in files.items()},
        "score": detection.score,
        "threshold": detection.threshold,
        "calibrated": detection.calibrated,
        "min_volume_ml": detection.min_volume_ml,
        "p_value": detection.p_value,
        "suitable": detection.suitable,
        "checks": detection.record["checks"],
        "findings": detection.record["findings"],
        "supports": detection.record["supports"],
        "seconds": detection.record["seconds"],
        "text": findings_text(detection, folder),
    }


def findings_text(detection: Detection, folder: Path, most: int = 5) -> str:
    """The strongest findings as a small table."""
    from D24FADLib.inference.record import score_meaning

    count = len(detection.findings)
    lines = [
        f"{count} candidate finding{'s' * (count != 1)} above {detection.threshold:.2f} "
        f"(study score {detection.score:.2f}: {score_meaning(detection)})"
    ]
    if count:
        lines.append("rank   peak   volume ml    centre R, A, S mm        slice")
    for f in detection.findings[:most]:
        r, a, s = f.center_ras
        lines.append(
            f"{f.rank:4d} {f.peak:6.2f} {f.volume_ml:11.2f}   {r:7.1f} {a:7.1f} {s:7.1f}   {f.slice:6d}"
        )
    if count > most:
        lines.append(f"     and {count - most} more in findings.csv")
    lines.append(f"Results: {folder}  (research use only; not a diagnosis)")
    return "\n".join(lines)
