"""`d24fad train`: train student and learn-to-weight on folders of normals, write a model bundle."""

from __future__ import annotations

import argparse
import dataclasses
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from D24FADLib.commands.progress import Reporter
from D24FADLib.errors import Cancelled, InputError, ModelError, OutputError
from D24FADLib.training.cache import DEFAULT_CACHE
from D24FADLib.training.options import RECIPES, WEIGHTS, Engine, TrainingOptions

if TYPE_CHECKING:
    from D24FADLib.training.distillation import CurvePoint
    from D24FADLib.training.images import ImageSet

INTERRUPTED = 130
DATA_NOTE = "the normals of the tasks listed; no image is part of this bundle"
STATE = "training"  # in the output folder, until the model is complete


def add_parser(subparsers: Any) -> None:
    parser = subparsers.add_parser(
        "train",
        help="train a model on folders of normals",
        description="Train the student and learn-to-weight with the paper's loss on normals only: folders of "
        "pictures, or of volumes (NIfTI, NRRD, MetaImage, DICOM folders) of one protocol each. DATA is "
        "such a folder, or holds one a task; a task's normals lie in TASK/train_normal or in TASK itself.",
    )
    parser.add_argument("data", metavar="DATA", type=Path, nargs="+", help="folder of normals or of tasks")
    parser.add_argument("--output", "-o", required=True, type=Path, help="folder of the new model bundle")
    parser.add_argument(
        "--resume", action="store_true", help="go on with an interrupted training in --output"
    )
    parser.add_argument("--leave-out", action="append", default=[], metavar="TASK", help="do not train on it")
    parser.add_argument(
        "--recipe",
        choices=sorted(RECIPES),
        default="d24fad",
        help="where options not given come from (default: d24fad)",
    )
    parser.add_argument("--cache", type=Path, default=DEFAULT_CACHE, help="for features and prepared slices")
    parser.add_argument(
        "--data-note",
        default=DATA_NOTE,
        metavar="TEXT",
        help="source and licence of DATA",
    )
    parser.add_argument("--json", action="store_true", help="report as JSON lines")
    _add_model_options(parser.add_argument_group("model"))
    _add_volume_options(parser.add_argument_group("volumes"))
    _add_training_options(parser.add_argument_group("training (default: as the recipe says)"))
    _add_engine_options(parser.add_argument_group("where it runs"))
    parser.set_defaults(run=run)


def _add_model_options(group: Any) -> None:
    group.add_argument("--teacher", default="efficientnet_lite0", metavar="NAME")
    group.add_argument("--teacher-weights", type=Path, metavar="FILE", help="local ImageNet weights")
    group.add_argument("--weights", choices=sorted(WEIGHTS), help="logits of learn-to-weight (paper: sum)")
    group.add_argument(
        "--size", type=int, nargs="+", help="input sizes in pixels, multiples of 32 (volumes: longer side)"
    )


def _add_volume_options(group: Any) -> None:
    group.add_argument("--plane", choices=["axial", "coronal", "sagittal"], help="default: as acquired")
    group.add_argument(
        "--align",
        choices=["none", "position", "rigid", "affine", "off"],
        help="how volumes of a folder are brought onto the first (default: affine); off: supports are random "
        "slices of the plane",
    )
    group.add_argument("--slices", type=int, default=32, metavar="N", help="at most N a volume (default: 32)")


def _add_training_options(group: Any) -> None:
    flag = argparse.BooleanOptionalAction
    group.add_argument("--steps", type=int, help="optimiser steps")
    group.add_argument("--epochs", type=int, help="passes over all normals, where --steps is not given")
    group.add_argument("--batch", type=int, help="queries in an episode")
    group.add_argument("--shots", type=int, nargs="+", help="numbers of supports to draw from")
    group.add_argument("--learning-rate", type=float)
    group.add_argument("--tsd-weight", type=float, help="the paper's lambda")
    group.add_argument("--seed", type=int)
    group.add_argument("--mirrored", action=flag, default=None, help="also left and right exchanged")
    group.add_argument(
        "--augment", action=flag, default=None, help="random changes; teacher runs in the loop"
    )
    group.add_argument("--bad-support-probability", type=float, metavar="P", help="a support is not normal")
    group.add_argument("--bad-support-penalty", type=float, metavar="W", help="loss on its weight")
    group.add_argument("--validate-every", type=int, metavar="STEPS")
    group.add_argument("--validation-episodes", type=int, metavar="N")
    group.add_argument("--patience", type=int, help="validations without a better score before it stops")
    group.add_argument("--keep", choices=["best", "last"], help="which step's weights")


def _add_engine_options(group: Any) -> None:
    group.add_argument("--accelerator", default="auto", help="auto, cpu, gpu or mps")
    group.add_argument("--devices", type=int, default=1, help="processes or GPUs on this node")
    group.add_argument("--nodes", type=int, default=1, help="computers; start by torchrun on each")
    group.add_argument("--workers", type=int, default=0, help="processes that load data, a device")
    group.add_argument("--threads", type=int, help="processor threads to use")


def run(args: argparse.Namespace, reporter: Reporter) -> int:
    try:
        import pytorch_lightning  # noqa: F401
    except ImportError:
        raise ModelError("training needs more packages: pip install 'd24fad[train]'") from None
    import torch

    from D24FADLib.inference.comparison import Evidence
    from D24FADLib.network.checkpoints import imagenet_teacher, save_bundle
    from D24FADLib.network.model import D24FADModel
    from D24FADLib.training.bundle import how_compared, metadata, write_companions, write_curve
    from D24FADLib.training.trainer import train

    options, sizes, weights = chosen_options(args)
    engine = Engine(args.accelerator, args.devices, args.nodes, args.workers)
    engine.require()
    state = args.output / STATE
    first_process = int(os.environ.get("RANK", os.environ.get("LOCAL_RANK", "0"))) == 0
    if first_process and not args.resume and args.output.exists() and any(args.output.iterdir()):
        raise OutputError(
            f"{args.output.name}: not empty; choose another folder for the model"
            + (", or --resume the training in it" if state.is_dir() else "")
        )
    if args.threads:
        torch.set_num_threads(args.threads)
    cache = args.cache.expanduser()
    sets = _load(args, sizes, cache, reporter)
    teacher, teacher_sha256 = imagenet_teacher(args.teacher, args.teacher_weights)
    torch.manual_seed(options.seed)
    model = D24FADModel(teacher, **WEIGHTS[weights])
    try:
        trained = train(
            model,
            sets,
            options,
            state,
            teacher_sha256=teacher_sha256,
            engine=engine,
            evidence=Evidence(**how_compared(args.recipe)["evidence"]),
            cache=cache,
            resume=args.resume,
            on_point=lambda point: reporter.note(_in_words(point)),
            progress=reporter.progress if first_process else lambda step, done, total: None,
        )
    except (Cancelled, KeyboardInterrupt):
        kept = (state / "last.ckpt").is_file()
        if not kept and first_process:
            shutil.rmtree(state, ignore_errors=True)
        hint = "go on with the same command and --resume" if kept else "nothing was written"
        reporter.error("cancelled", f"interrupted; {hint}")
        return INTERRUPTED
    if trained.writes:
        about = {
            **dataclasses.asdict(options),
            "recipe": args.recipe,
            "weights": weights,
            "sizes": list(sizes),
            "kept_step": trained.step,
            "normal_images": {data.task: len(data) for data in sets},
            "data_note": args.data_note,
        }
        save_bundle(model, args.output, metadata(about))
        write_curve(trained.curve, args.output)
        write_companions(args.output)
        shutil.rmtree(state)
        text = f"model written to {args.output.name}: step {trained.step} of {trained.curve[-1].step}"
        reporter.result({"text": text, "model": str(args.output), "step": trained.step})
    return 0


def chosen_options(args: argparse.Namespace) -> tuple[TrainingOptions, tuple[int, ...], str]:
    """Options, input sizes and kind of weights: the recipe's where the command line says nothing."""
    recipe = RECIPES[args.recipe]
    names = [field.name for field in dataclasses.fields(TrainingOptions)]
    given = {name: value for name in names if (value := getattr(args, name, None)) is not None}
    if "shots" in given:
        given["shots"] = tuple(given["shots"])
    if args.epochs is not None and args.steps is None:
        given["steps"] = None
    options = dataclasses.replace(recipe.options, **given)
    sizes = tuple(args.size or recipe.sizes)
    if any(size < 64 or size % 32 for size in sizes):  # below, batch statistics may have a single value
        raise InputError("--size: give multiples of 32, 64 at least")
    positive = ("steps", "epochs", "batch", "learning_rate", "validate_every", "validation_episodes")
    for name in positive:
        value = getattr(options, name)
        if value is not None and value <= 0:
            raise InputError(f"--{name.replace('_', '-')}: give a positive number")
    if any(shots < 1 for shots in options.shots):
        raise InputError("--shots: at least one support is needed")
    if not 0 <= options.bad_support_probability <= 1:
        raise InputError("--bad-support-probability: give a number from 0 to 1")
    return options, sizes, args.weights or recipe.weights


def _load(
    args: argparse.Namespace, sizes: tuple[int, ...], cache: Path, reporter: Reporter
) -> list[ImageSet]:
    from D24FADLib.imaging.alignment import Alignment
    from D24FADLib.imaging.planes import Plane
    from D24FADLib.training.sources import find_tasks, load_task
    from D24FADLib.training.volumes import VolumeOptions

    volumes = VolumeOptions(
        aligned=args.align != "off",
        align=Alignment(args.align) if args.align and args.align != "off" else None,
        plane=Plane(args.plane) if args.plane else None,
        slices=args.slices,
    )
    tasks = find_tasks(args.data, args.leave_out)
    sets = []
    for number, (task, folder) in enumerate(tasks.items()):
        reporter.progress("read", number, len(tasks))
        sets += [load_task(folder, task, size, volumes, cache, reporter.warning) for size in sizes]
    reporter.progress("read", len(tasks), len(tasks))
    return sets


def _in_words(point: CurvePoint) -> str:
    train = "" if point.train_ssd is None else f"train ssd {point.train_ssd:.3f} tsd {point.train_tsd:.3f}, "
    bad = "" if point.bad_weight is None else f", weight of bad supports {point.bad_weight:.2f} of uniform"
    return (
        f"step {point.step}: {train}held out ssd {point.held_out_ssd:.3f} tsd {point.held_out_tsd:.3f}, "
        f"implanted: image AUROC {point.image_auroc:.3f} pixel AUROC {point.pixel_auroc:.3f}, largest weight "
        f"{point.held_out_top_weight:.2f} of uniform{bad}"
    )
