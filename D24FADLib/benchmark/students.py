"""Students trained without the tested organ, kept on disk."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from D24FADLib.benchmark.datasets import Task
from D24FADLib.network.checkpoints import load_strictly
from D24FADLib.network.model import D24FADModel
from D24FADLib.training.features import cached_teacher_features
from D24FADLib.training.trainer import TrainingOptions, train

PAPER_SIZE = 128
_TSD_ALONE = 1e4  # Adam does not mind the loss's scale: what is left of L_SSD is noise


@dataclass(frozen=True)
class Recipe:
    """How a student is trained. per_position: learn-to-weight by mean logits instead of the paper's sums."""

    name: str
    options: TrainingOptions
    per_position: bool = False
    sizes: tuple[int, ...] = (PAPER_SIZE,)
    mirrored: bool = False

    def unjudged(self) -> Recipe:
        """The same training without its loss curve, which the benchmark has no use for."""
        options = dataclasses.replace(
            self.options, validate_every=max(1, self.options.steps), validation_episodes=1
        )
        return dataclasses.replace(self, options=options)

    def with_steps(self, steps: int | None) -> Recipe:
        return (
            self
            if steps is None
            else dataclasses.replace(self, options=dataclasses.replace(self.options, steps=steps))
        )


def paper(steps: int, seed: int, shots: Sequence[int]) -> Recipe:
    """The paper's losses, learning rate and weighting."""
    return Recipe("paper", TrainingOptions(steps=steps, seed=seed, shots=tuple(shots)))


def ablation(recipe: Recipe, loss: str) -> Recipe:
    """The recipe with one of its two losses ("ssd" or "tsd") alone."""
    options = dataclasses.replace(recipe.options, tsd_weight={"ssd": 0.0, "tsd": _TSD_ALONE}[loss])
    return dataclasses.replace(recipe, name=f"{recipe.name}, {loss} alone", options=options)


def of_bundle(about: dict[str, Any]) -> Recipe:
    """The recipe that a bundle's metadata ("d24fad") records."""
    recorded = about.get("training", {})
    known = {field.name for field in dataclasses.fields(TrainingOptions)}
    chosen: dict[str, Any] = {
        k: tuple(v) if isinstance(v, list) else v for k, v in recorded.items() if k in known
    }
    return Recipe(
        "bundle",
        TrainingOptions(**chosen),
        per_position=bool(about.get("per_position_weights", False)),
        sizes=tuple(recorded.get("sizes", (PAPER_SIZE,))),
        mirrored=bool(recorded.get("mirrored", False)),
    )


@dataclass(frozen=True, eq=False)
class Trained:
    """A student and what it has seen. weights: a checksum of teacher and training, for caches."""

    model: D24FADModel
    weights: str
    seen: tuple[Path, ...]


class Students:
    """Trains students around one teacher; the same recipe on the same files is trained once."""

    def __init__(self, teacher: nn.Module, teacher_sha256: str, cache: Path) -> None:
        self.teacher = teacher
        self.teacher_sha256 = teacher_sha256
        self._cache = cache
        self._digests: dict[Path, str] = {}

    def train(
        self, recipe: Recipe, tasks: Sequence[Task], progress: Callable[[int, int], None] | None = None
    ) -> Trained:
        """A student trained on the normals of these tasks and nothing else. `progress(step, steps)`."""
        from safetensors.torch import load_file, save_file

        recipe = recipe.unjudged()
        seen = tuple(image for task in tasks for image in task.train)
        key = hashlib.sha256(json.dumps([self.teacher_sha256, dataclasses.asdict(recipe)]).encode())
        for task in tasks:
            key.update(task.name.encode())
            for image in task.train:
                key.update(self._digest(image).encode())
        name = key.hexdigest()[:40]
        file = self._cache / "students" / f"{name}.safetensors"
        torch.manual_seed(recipe.options.seed)
        model = D24FADModel(self.teacher, per_position_weights=recipe.per_position)
        trained = nn.ModuleDict({"student": model.student, "weighting": model.weighting})
        if file.is_file():
            load_strictly(trained, load_file(file), "a cached student; delete the benchmark's cache")
            return Trained(model.eval(), name, seen)
        sets = [
            cached_teacher_features(
                self.teacher, self.teacher_sha256, task.train_folder, task.name, size,
                self._cache / "teacher-features", mirrored=mirrored,
            )
            for task in tasks
            for size in recipe.sizes
            for mirrored in ((False, True) if recipe.mirrored else (False,))
        ]  # fmt: skip
        steps = recipe.options.steps
        train(model, sets, recipe.options, (lambda p: progress(p.step, steps)) if progress else None)
        file.parent.mkdir(parents=True, exist_ok=True)
        partial = file.with_suffix(".partial")
        save_file({k: v.contiguous() for k, v in trained.state_dict().items()}, partial)
        partial.replace(file)
        return Trained(model.eval(), name, seen)

    def _digest(self, image: Path) -> str:
        if image not in self._digests:
            self._digests[image] = hashlib.sha256(image.read_bytes()).hexdigest()
        return self._digests[image]
