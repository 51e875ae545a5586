"""`d24fad benchmark`: methods side by side on data that the models have not seen; a table and figures."""

from __future__ import annotations

import argparse
import os
import platform
import sys
import time
from importlib import metadata as packages
from pathlib import Path
from typing import TYPE_CHECKING, Any

from D24FADLib import __version__
from D24FADLib.commands.progress import Reporter
from D24FADLib.errors import InputError
from D24FADLib.inference.cache import cache_folder
from D24FADLib.inference.options import DEFAULT_MODEL

if TYPE_CHECKING:
    from D24FADLib.benchmark.students import Students
    from D24FADLib.benchmark.volumes import VolumeResults

DEFAULT_CACHE = cache_folder() / "benchmark"
IMAGES, DRAWS, PAPER_STEPS, SIZES = 60, 5, 200, (128, 256)
QUICK_IMAGES, QUICK_DRAWS, QUICK_STEPS, QUICK_SIZES = 20, 2, 30, (128,)


def add_parser(subparsers: Any) -> None:
    parser = subparsers.add_parser(
        "benchmark",
        help="compare methods on labelled test images and implanted lesions",
        description="Every method on the same support draws and the same teacher, no image of the tested "
        "organ in training. DATA holds one folder a task: TASK/train_normal, test_normal, test_abnormal and, "
        "where there are any, masks. Writes benchmark.md, .csv, .json and figures.",
    )
    parser.add_argument("data", nargs="?", metavar="DATA", type=Path, help="folder of tasks")
    parser.add_argument("--data", dest="root", metavar="ROOT", type=Path, help="the same, as an option")
    parser.add_argument("--output", "-o", required=True, type=Path, metavar="DIR")
    parser.add_argument(
        "--protocol",
        choices=("leave-one-out", "paper"),
        default="leave-one-out",
        help="paper: the five data sets in the official layout (HIS, LAG, APTOS, RSNA, Brain_Tumor, each "
        "with train/good, test/good and test/bad), train on four, test on the fifth",
    )
    parser.add_argument("--tasks", nargs="+", metavar="TASK", help="default: the published six")
    parser.add_argument("--shots", nargs="+", type=int, metavar="K", help="default: 2 4 8")
    parser.add_argument("--draws", type=int, metavar="N", help=f"support draws (default {DRAWS})")
    parser.add_argument(
        "--images", type=int, metavar="N", help=f"test images a class at most (default {IMAGES}; 0: all)"
    )
    parser.add_argument(
        "--methods", nargs="+", metavar="NAME",
        help="shipped, d24fad, uniform, mean-logits, ssd, tsd, rd4ad, patchcore, padim, probe (default: all)",
    )  # fmt: skip
    parser.add_argument(
        "--sizes", nargs="+", type=int, metavar="PX", help="input sizes of PatchCore and PaDiM: 128 256"
    )
    parser.add_argument(
        "--model", default=DEFAULT_MODEL,
        help="embedded model or bundle folder; its recipe is trained anew without each organ. A folder name "
        "with {task} in it names one bundle a left-out task instead",
    )  # fmt: skip
    parser.add_argument(
        "--train-steps", type=int, metavar="N",
        help=f"of every student (default: {PAPER_STEPS} for the paper's recipe, the bundle's own for the "
        "shipped one; with --protocol paper 70 epochs)",
    )  # fmt: skip
    parser.add_argument("--contaminate", action="store_true", help="also with one abnormal among 4 supports")
    parser.add_argument("--volumes", type=Path, metavar="DIR", help="normal volumes to implant lesions in")
    parser.add_argument(
        "--volume-align", default="none", choices=("none", "position", "rigid", "affine"),
        help="alignment of volumes (default none: they share a grid)",
    )  # fmt: skip
    parser.add_argument("--volume-repeats", type=int, default=1, metavar="N", help="lesions of each sort")
    parser.add_argument(
        "--cache", type=Path, default=DEFAULT_CACHE, help="features and students are kept here"
    )
    parser.add_argument("--quick", action="store_true", help="a small run, to see that all works")
    parser.add_argument("--seed", type=int, default=111)
    parser.add_argument(
        "--runtime",
        default="auto",
        choices=("auto", "torch", "openvino"),
        help="what runs the networks of the shipped configuration",
    )
    parser.add_argument(
        "--accelerator", default="auto", help="what trains the students: auto, cpu, gpu or mps"
    )
    parser.add_argument("--threads", type=int, help="processor threads to use")
    parser.add_argument("--json", action="store_true", help="progress and result as JSON lines")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace, reporter: Reporter) -> int:
    import torch

    from D24FADLib.benchmark.report import write_csv, write_json
    from D24FADLib.inference.outputs import check_output_folder
    from D24FADLib.training.options import Engine

    start = time.perf_counter()
    data = args.data or args.root
    if data is None and args.volumes is None:
        raise InputError("give DATA, a folder of tasks, or --volumes, a folder of normal volumes")
    if args.shots and min(args.shots) < 1:
        raise InputError("--shots: at least one support is needed")
    Engine(args.accelerator).require()
    check_output_folder(args.output, overwrite=True)
    if args.threads:
        torch.set_num_threads(args.threads)
    content: dict[str, Any] = {"command": _command(), "seed": args.seed, "environment": environment()}
    lines: list[str] = []
    table: list[dict[str, Any]] = []
    if data is not None and args.protocol == "paper":
        lines, table = _paper(args, data, content, reporter)
    elif data is not None:
        lines, table = _images(args, data, content, reporter)
    if args.volumes is not None:
        volume_lines, volume_results = _volumes(args, reporter)
        lines += volume_lines
        content["volumes"] = {
            "cases": volume_results.cases,
            "summary": volume_results.summary,
            "threshold": volume_results.threshold,
        }
        args.output.mkdir(parents=True, exist_ok=True)
        write_csv(args.output / "volumes.csv", volume_results.cases)
    content["minutes"] = round((time.perf_counter() - start) / 60, 1)
    head = [
        f"`{content['command']}`",
        "",
        f"Seed {args.seed}; d24fad {__version__}, torch {torch.__version__.split('+')[0]}, "
        f"{content['environment']['processors']} processors, {content['minutes']} minutes. "
        "Research use only, not a diagnosis.",
        "",
    ]
    args.output.mkdir(parents=True, exist_ok=True)
    (args.output / "benchmark.md").write_text("\n".join([*head, *lines]).rstrip() + "\n", encoding="utf-8")
    if table:
        write_csv(args.output / "benchmark.csv", table)
    write_json(args.output / "benchmark.json", content)
    reporter.result(
        {"output": str(args.output), "text": "\n".join([*head, *lines]) + f"\nwritten to {args.output}"}
    )
    return 0


def _images(
    args: argparse.Namespace, data: Path, content: dict[str, Any], reporter: Reporter
) -> tuple[list[str], list[dict[str, Any]]]:
    from D24FADLib.benchmark import figures, images
    from D24FADLib.benchmark.datasets import read_tasks, select
    from D24FADLib.benchmark.draws import draw
    from D24FADLib.benchmark.features import FeatureStore
    from D24FADLib.benchmark.methods import FAMILIES, QUICK_FAMILIES, Plan, Workshop
    from D24FADLib.benchmark.report import image_sections
    from D24FADLib.benchmark.summary import contamination_summary, table

    quick = args.quick
    families = tuple(args.methods or (QUICK_FAMILIES if quick else FAMILIES))
    if unknown := set(families) - set(FAMILIES):
        raise InputError(f"--methods {', '.join(sorted(unknown))}: choose from {', '.join(FAMILIES)}")
    shots = tuple(sorted(set(args.shots or ((4,) if quick else (2, 4, 8)))))
    sizes = tuple(args.sizes or (QUICK_SIZES if quick else SIZES))
    if any(size < 64 or size % 32 for size in sizes):
        raise InputError("--sizes: give multiples of 32 from 64 on")
    tasks = read_tasks(data)
    tested = select(tasks, args.tasks)
    plan = Plan(
        families, sizes, args.model, args.train_steps or (QUICK_STEPS if quick else None), PAPER_STEPS,
        (2, 4, 8), args.seed, args.runtime,
    )  # fmt: skip
    limit = args.images if args.images is not None else (QUICK_IMAGES if quick else IMAGES)
    trials = [
        draw(
            task, shots=max(shots), draws=args.draws or (QUICK_DRAWS if quick else DRAWS),
            images=limit or None, seed=args.seed,
        )
        for task in tested
    ]  # fmt: skip
    cache = args.cache.expanduser()
    workshop = Workshop(
        plan,
        tasks,
        _students(args.model.replace("{task}", tested[0].name), cache, args.accelerator),
        reporter.progress,
    )
    results = images.run(
        trials, workshop, FeatureStore(cache / "features"), shots, contamination=args.contaminate,
        seed=args.seed, progress=reporter.progress,
    )  # fmt: skip
    for warning in workshop.warnings:
        reporter.warning(warning)
    example = images.example_shots(shots)
    drawn = figures.write_all(results, trials, example, args.output / "figures", args.seed)
    content["images"] = {
        "rows": results.rows,
        "pixels": results.pixels,
        "intervals_over_images": results.bootstrap,
        "probes": results.probes,
        "costs": results.costs,
        "contamination": results.contaminated,
        "contamination_summary": contamination_summary(results),
        "draws": {t.task.name: [[p.name for p in supports] for supports in t.supports] for t in trials},
        "trained_on": {
            task: {recipe: sorted({p.parent.parent.name for p in seen}) for recipe, seen in recipes.items()}
            for task, recipes in workshop.seen.items()
        },
        "warnings": workshop.warnings,
    }
    lines = image_sections(results, shots)
    lines += ["## Figures", "", *(f"![{p.stem.replace('_', ' ')}](figures/{p.name})\n" for p in drawn)]
    return lines, table(results)


def _volumes(args: argparse.Namespace, reporter: Reporter) -> tuple[list[str], VolumeResults]:
    from D24FADLib.benchmark import volumes
    from D24FADLib.benchmark.report import volume_sections

    model = args.model if "{task}" not in args.model else DEFAULT_MODEL
    results = volumes.run(
        args.volumes, model=model, align=args.volume_align,
        plan=volumes.lesion_plan(args.quick, args.volume_repeats), studies=4 if args.quick else None,
        seed=args.seed, progress=reporter.progress,
    )  # fmt: skip
    return volume_sections(results), results


def _paper(
    args: argparse.Namespace, data: Path, content: dict[str, Any], reporter: Reporter
) -> tuple[list[str], list[dict[str, Any]]]:
    from D24FADLib.benchmark import paper_protocol
    from D24FADLib.benchmark.datasets import read_official
    from D24FADLib.benchmark.features import FeatureStore
    from D24FADLib.benchmark.report import paper_sections

    cache = args.cache.expanduser()
    rows = paper_protocol.run(
        read_official(data), _students(args.model, cache, args.accelerator), FeatureStore(cache / "features"),
        tuple(args.shots or (2, 4, 8)), steps=args.train_steps, seed=args.seed, progress=reporter.progress,
    )  # fmt: skip
    content["paper"] = rows
    return paper_sections(rows), rows


def _students(model: str, cache: Path, accelerator: str) -> Students:
    """Every method shares the model's own teacher."""
    from D24FADLib.benchmark.students import Students
    from D24FADLib.inference.models import load_model
    from D24FADLib.network.checkpoints import TEACHER_WEIGHTS

    loaded, about = load_model(model)
    return Students(loaded.teacher, about["d24fad"]["sha256"][TEACHER_WEIGHTS.as_posix()], cache, accelerator)


def environment() -> dict[str, Any]:
    """What the figures were made with; no host or user name."""
    names = ("numpy", "scipy", "scikit-learn", "torch", "openvino", "SimpleITK")
    versions: dict[str, str | None] = {}
    for name in names:
        try:
            versions[name] = packages.version(name)
        except packages.PackageNotFoundError:
            versions[name] = None
    return {
        "d24fad": __version__,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "processors": os.cpu_count(),
        "packages": versions,
    }


def _command() -> str:
    return " ".join(["d24fad", *sys.argv[1:]])
