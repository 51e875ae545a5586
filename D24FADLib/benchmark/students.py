"""Students trained without the tested organ, kept on disk."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from D24FADLib.benchmark.datasets import Task
from D24FADLib.inference.comparison import Evidence
from D24FADLib.network.checkpoints import load_strictly
from D24FADLib.network.model import D24FADModel
from D24FADLib.training.images import load_pictures
from D24FADLib.training.options import RECIPES, WEIGHTS, Engine, TrainingOptions
from D24FADLib.training.trainer import train

PAPER_SIZE = 128
_TSD_ALONE = 1e4  # Adam does not mind the loss's scale: what is left of L_SSD is noise


@dataclass(frozen=True)
class Recipe:
    """How a student is trained. weights: the kind of learn-to-weight, a key of training.options.WEIGHTS."""

    name: str
    options: TrainingOptions
    sizes: tuple[int, ...] = (PAPER_SIZE,)
    weights: str = "sum"

    def changed(self, **options: Any) -> Recipe:
        """With other options where they are not None."""
        chosen = {name: value for name, value in options.items() if value is not None}
        return dataclasses.replace(self, options=dataclasses.replace(self.options, **chosen))

    def unjudged(self) -> Recipe:
        """Without its loss curve on held-out normals, unless that chooses the weights that are kept."""
        if self.options.keep == "best" or self.options.patience is not None:
            return self
        steps = self.options.steps or self.options.validate_every
        return self.changed(validate_every=max(1, steps), validation_episodes=1)


def paper(steps: int, seed: int, shots: Sequence[int], *, own_supports: bool = True) -> Recipe:
    """The paper's recipe, for this many steps. own_supports: False lets a batch share its supports, which
    takes about a quarter of the time."""
    recipe = RECIPES["paper"]
    options = dataclasses.replace(
        recipe.options, steps=steps, seed=seed, shots=tuple(shots), own_supports=own_supports
    )
    return Recipe("paper", options, recipe.sizes, recipe.weights)


def ablation(recipe: Recipe, loss: str) -> Recipe:
    """The recipe with one of its two losses ("ssd" or "tsd") alone."""
    changed = recipe.changed(tsd_weight={"ssd": 0.0, "tsd": _TSD_ALONE}[loss])
    return dataclasses.replace(changed, name=f"{recipe.name}, {loss} alone")


def of_bundle(about: dict[str, Any]) -> Recipe:
    """The recipe that a bundle's metadata ("d24fad") records."""
    recorded = about.get("training", {})
    known = {field.name for field in dataclasses.fields(TrainingOptions)}
    chosen: dict[str, Any] = {
        k: tuple(v) if isinstance(v, list) else v for k, v in recorded.items() if k in known
    }
    flags = {"per_position_weights": "mean", "cosine_weights": "cosine"}
    weights = next((kind for flag, kind in flags.items() if about.get(flag)), "sum")
    return Recipe("bundle", TrainingOptions(**chosen), tuple(recorded.get("sizes", (PAPER_SIZE,))), weights)


@dataclass(frozen=True, eq=False)
class Trained:
    """A student and what it has seen. weights: a checksum of teacher and training, for caches."""

    model: D24FADModel
    weights: str
    seen: tuple[Path, ...]


class Students:
    """Trains students around one teacher; the same recipe on the same files is trained once.

    accelerator: what trains, as Lightning names it. Teacher and students are on the CPU before and after.
    """

    def __init__(
        self, teacher: nn.Module, teacher_sha256: str, cache: Path, accelerator: str = "auto"
    ) -> None:
        self.teacher = teacher
        self.teacher_sha256 = teacher_sha256
        self._cache = cache
        self._accelerator = accelerator
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
        model = D24FADModel(self.teacher, **WEIGHTS[recipe.weights])
        trained = nn.ModuleDict({"student": model.student, "weighting": model.weighting})
        if file.is_file():
            load_strictly(trained, load_file(file), "a cached student; delete the benchmark's cache")
            return Trained(model.eval(), name, seen)
        sets = [load_pictures(t.train_folder, t.name, size) for t in tasks for size in recipe.sizes]

        def told(step: str, done: int, total: int) -> None:
            if progress and step == "train":
                progress(done, total)

        with tempfile.TemporaryDirectory() as state:
            train(
                model, sets, recipe.options, Path(state), teacher_sha256=self.teacher_sha256,
                engine=Engine(self._accelerator), evidence=Evidence(student=1.0),
                cache=self._cache / "training", progress=told,
            )  # fmt: skip
        model.cpu()
        file.parent.mkdir(parents=True, exist_ok=True)
        partial = file.with_suffix(".partial")
        save_file({k: v.contiguous() for k, v in trained.state_dict().items()}, partial)
        partial.replace(file)
        return Trained(model.eval(), name, seen)

    def _digest(self, image: Path) -> str:
        if image not in self._digests:
            self._digests[image] = hashlib.sha256(image.read_bytes()).hexdigest()
        return self._digests[image]
