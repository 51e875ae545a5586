"""`d24fad demo`: the detector on simulated brains, with the answer known."""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

from D24FADLib.commands.detect import add_options, findings_text, options_from, summarise
from D24FADLib.commands.progress import Reporter

SUPPORT_SEEDS = (1, 2, 3, 4)
QUERY_SEED = 10
FOUND, MISSED = 0, 1


def add_parser(subparsers: Any) -> None:
    parser = subparsers.add_parser(
        "demo",
        help="find an implanted lesion in a simulated brain",
        description="Makes four normal subjects and a query with an implanted lesion from the MNI152 "
        "template and runs the same detection as `d24fad detect`. Simulated data, real method.",
    )
    parser.add_argument("--output", "-o", type=Path, default=Path("demo-output"), metavar="DIR")
    parser.add_argument("--spacing", type=float, default=2.0, metavar="MM", help="voxel size of the subjects")
    add_options(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace, reporter: Reporter) -> int:
    """0 where the top finding is the lesion, else 1."""
    import numpy as np

    from D24FADLib.imaging.writing import write_volume
    from D24FADLib.inference.detector import detect
    from D24FADLib.inference.outputs import check_output_folder, write_outputs
    from D24FADLib.simulation import Lesion, load_template, make_subject

    options = options_from(args)
    results = args.output / "results"
    check_output_folder(results, overwrite=True)
    start = time.perf_counter()
    template = load_template()
    lesion = Lesion(center_ras=(28.0, -30.0, 26.0), diameter_mm=16.0, kind="dark")
    subjects = []
    for number, seed in enumerate((QUERY_SEED, *SUPPORT_SEEDS)):
        reporter.progress("simulate", number, 5)
        subjects.append(
            make_subject(seed, spacing_mm=args.spacing, template=template, lesion=None if number else lesion)
        )
    (query, truth), *references = subjects
    supports = [volume for volume, _ in references]
    simulated = time.perf_counter() - start

    detection = detect(query, supports, options, progress=reporter.progress)

    start = time.perf_counter()
    (args.output / "subjects").mkdir(parents=True, exist_ok=True)
    write_volume(query, args.output / "subjects" / "query.nrrd")
    write_volume(truth, args.output / "subjects" / "query_lesion.nrrd")
    for number, support in enumerate(supports, start=1):
        write_volume(support, args.output / "subjects" / f"normal_{number:02d}.nrrd")
    files = write_outputs(
        detection,
        results,
        overwrite=True,
        progress=lambda done, total: reporter.progress("write", done, total),
        complete=lambda: reporter.written.append(str(results)),
    )
    written = time.perf_counter() - start
    for warning in detection.warnings:
        reporter.warning(warning)

    lesion_voxels = np.asarray(truth.array()) > 0
    first = detection.labels == 1
    hit = bool((first & lesion_voxels).any())
    dice = 2.0 * float((first & lesion_voxels).sum()) / float(first.sum() + lesion_voxels.sum())
    seconds = {"simulate": round(simulated, 1), **detection.record["seconds"], "write": round(written, 1)}
    lines = [
        findings_text(detection, results),
        "",
        f"Simulated study: a {lesion.diameter_mm:g} mm {lesion.kind} lesion was implanted at R, A, S = "
        + ", ".join(f"{c:g}" for c in lesion.center_ras)
        + " mm.",
        f"Top finding: {'HIT, it is the implanted lesion' if hit else 'MISSED the implanted lesion'}; "
        f"Dice {dice:.2f}",
        "Seconds: " + ", ".join(f"{stage} {value:.1f}" for stage, value in seconds.items()),
        f"Open {files['overview']} for a picture, {args.output / 'subjects'} for the made subjects.",
    ]
    summary = summarise(detection, results, files)
    summary.update(hit=hit, dice=dice, seconds=seconds, text="\n".join(lines))
    reporter.result(summary)
    return FOUND if hit else MISSED
