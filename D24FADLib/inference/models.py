"""Finding and loading models: the embedded ones by name, others by their bundle folder."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from D24FADLib.errors import ModelError

if TYPE_CHECKING:
    from D24FADLib.inference.priors import Priors
    from D24FADLib.network.model import D24FADModel


def models_folder() -> Path:
    """Where the embedded models lie: beside the library (checkout, extension) or inside it (wheel)."""
    library = Path(__file__).resolve().parent.parent
    candidates = [library.parent / "Resources" / "Models", library / "Resources" / "Models"]
    return next((folder for folder in candidates if folder.is_dir()), candidates[-1])


def embedded_models() -> list[str]:
    """Names of the models that come with the library."""
    folder = models_folder()
    return (
        sorted(p.parent.parent.name for p in folder.glob("*/configs/metadata.json"))
        if folder.is_dir()
        else []
    )


def find_model(name_or_path: str) -> Path:
    """The bundle folder of an embedded model's name or of a path; ModelError that lists the known names."""
    if name_or_path in embedded_models():
        return models_folder() / name_or_path
    path = Path(name_or_path)
    if path.is_dir():
        return path
    known = ", ".join(embedded_models()) or "none is installed"
    raise ModelError(f"no model {path.name!r}: give a bundle folder or an embedded model ({known})")


def load_model(name_or_path: str, force: bool = False) -> tuple[D24FADModel, dict[str, Any]]:
    """A model ready for inference and its metadata; `force` as `network.checkpoints.load_bundle` has it."""
    from D24FADLib.network.checkpoints import load_bundle

    return load_bundle(find_model(name_or_path), force)


def load_priors(name_or_path: str, metadata: dict[str, Any]) -> tuple[Priors, str]:
    """The calibration of a model's bundle and a note for the reader, "" where there is nothing to say."""
    from D24FADLib.inference.priors import read_priors

    return read_priors(find_model(name_or_path), metadata)
