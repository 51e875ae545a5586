"""`d24fad calibrate`: learn from normals of many organs how much normal studies differ."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from D24FADLib.commands.benchmark import DEFAULT_CACHE
from D24FADLib.commands.progress import Reporter
from D24FADLib.errors import InputError
from D24FADLib.inference.options import DEFAULT_MODEL


def add_parser(subparsers: Any) -> None:
    parser = subparsers.add_parser(
        "calibrate",
        help="learn from normals of many organs what a score means; writes into the model's bundle",
        description="Draws references from each task's training normals and judges others with them. Needed "
        "once after a model was trained. DATA holds one folder a task: TASK/train_normal.",
    )
    parser.add_argument("data", metavar="DATA", type=Path, help="folder of tasks, three organs or more")
    parser.add_argument(
        "--model", default=DEFAULT_MODEL, metavar="NAME|PATH", help="embedded model or bundle"
    )
    parser.add_argument("--images", type=int, default=48, metavar="N", help="normals a task (default 48)")
    parser.add_argument("--draws", type=int, default=40, metavar="N", help="of four references (default 40)")
    parser.add_argument("--cache", type=Path, default=DEFAULT_CACHE, help="features and draws are kept here")
    parser.add_argument("--seed", type=int, default=111)
    parser.add_argument("--json", action="store_true", help="progress and result as JSON lines")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace, reporter: Reporter) -> int:
    from dataclasses import replace

    from D24FADLib.benchmark.calibration_data import Workbench
    from D24FADLib.benchmark.calibration_fit import fit
    from D24FADLib.benchmark.datasets import read_tasks
    from D24FADLib.inference.models import find_model
    from D24FADLib.inference.priors import write_priors

    tasks = read_tasks(args.data)
    if len({task.organ for task in tasks}) < 3:
        raise InputError(f"{args.data.name}: needs tasks of at least three organs")
    if args.images < 20 or args.draws < 4:
        raise InputError("--images: give 20 or more; --draws: 4 or more")
    bench = Workbench(args.model, args.cache, args.images, args.draws, args.seed, reporter.progress)
    organs = {task.name: bench.normals(task) for task in tasks}
    about = {"tasks": sorted(organs), "images": args.images, "draws": args.draws, "seed": args.seed}
    priors = replace(fit(organs, bench.splits), about=about)
    path = write_priors(find_model(args.model), priors, bench.metadata)
    text = f"{path.name}: calibrated with {len(organs)} tasks of {len({t.organ for t in tasks})} organs"
    reporter.result({"file": str(path), "tasks": sorted(organs), "text": text})
    return 0
