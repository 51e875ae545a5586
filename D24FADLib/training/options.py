"""The options of a training and the two recipes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from D24FADLib.errors import InputError
from D24FADLib.inference.devices import torch_devices


@dataclass(frozen=True)
class TrainingOptions:
    """What a training depends on besides model and data. The defaults are the paper's recipe (section 4.1).

    steps: optimiser steps; None: `epochs` passes over all training normals.
    shots: numbers of supports that episodes draw from.
    mirrored: every image also with left and right exchanged. augment: random changes of every image in
    every episode, the teacher running in the loop instead of its features being kept.
    own_supports: every query of a batch has supports of its own, as in the paper; else a batch shares them.
    by_size: data sets are drawn in proportion to their images, as in the paper; else alike.
    bad_support_probability: of episodes of three and more supports, the share in which one is not normal.
    bad_support_penalty: weight of the loss -log(1 - weight of the bad support).
    held_out: share of each task's normals that never train. keep: "best" by validation score, or "last".
    patience: validations without a better score after which training stops; None: never.
    """

    steps: int | None = None
    epochs: int = 70
    batch: int = 16
    shots: tuple[int, ...] = (4,)
    learning_rate: float = 1e-4
    betas: tuple[float, float] = (0.5, 0.999)
    tsd_weight: float = 0.1
    seed: int = 111
    mirrored: bool = False
    augment: bool = False
    own_supports: bool = True
    by_size: bool = True
    bad_support_probability: float = 0.0
    bad_support_penalty: float = 0.0
    held_out: float = 0.15
    validate_every: int = 50
    validation_episodes: int = 14
    keep: str = "last"
    patience: int | None = None

    def total_steps(self, images: int) -> int:
        """Optimiser steps for so many training normals."""
        return self.steps if self.steps is not None else self.epochs * max(1, images // self.batch)


@dataclass(frozen=True)
class Recipe:
    """Options, and what else has to be chosen: input sizes (pixels) and the kind of weights."""

    options: TrainingOptions
    sizes: tuple[int, ...]
    weights: str


# Kinds of learn-to-weight: keywords of D24FADModel.
WEIGHTS: dict[str, dict[str, Any]] = {
    "sum": {},
    "mean": {"per_position_weights": True},
    "cosine": {"cosine_weights": True},
}

RECIPES = {
    "paper": Recipe(TrainingOptions(), (128,), "sum"),
    "d24fad": Recipe(
        TrainingOptions(
            steps=700,
            shots=(2, 4, 8),
            learning_rate=2e-3,
            tsd_weight=1.0,
            mirrored=True,
            own_supports=False,
            by_size=False,
            keep="best",
            patience=8,
        ),
        (128,),
        "mean",
    ),
}


@dataclass(frozen=True)
class Engine:
    """Where a training runs: values of Lightning's Trainer, and processes that load data for each device."""

    accelerator: str = "auto"
    devices: int = 1
    nodes: int = 1
    workers: int = 0

    def require(self) -> None:
        """Raise InputError where this computer has not what is asked for."""
        found = torch_devices()
        named = {"cuda": ["gpu", "cuda"], "mps": ["gpu", "mps"], "cpu": ["cpu"]}
        usable = ["auto", *dict.fromkeys(name for device in found for name in named.get(device, ()))]
        if self.accelerator not in usable:
            raise InputError(
                f"--accelerator {self.accelerator}: not available here; usable: {', '.join(usable)}"
            )
        if self.devices < 1:
            raise InputError("--devices: give 1 or more")
        if self.accelerator in ("auto", "gpu", "cuda") and "cuda" in found:
            import torch

            if self.devices > torch.cuda.device_count():
                raise InputError(f"--devices {self.devices}: here are {torch.cuda.device_count()} GPUs")
