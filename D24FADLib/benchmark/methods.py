"""The methods that stand side by side, by the names that --methods takes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from D24FADLib.benchmark.datasets import Task, without_organ
from D24FADLib.benchmark.distillation import StudentMethod, TeacherStudentMethod
from D24FADLib.benchmark.features import TeacherBlocks
from D24FADLib.benchmark.judgement import Method
from D24FADLib.benchmark.padim import PaDiM
from D24FADLib.benchmark.patchcore import PatchCore
from D24FADLib.benchmark.shipped import ShippedMethod
from D24FADLib.benchmark.students import PAPER_SIZE, Recipe, Students, Trained, ablation, of_bundle, paper
from D24FADLib.errors import ModelError
from D24FADLib.inference.models import load_model

SHIPPED, D24FAD, UNIFORM, L2W_MEAN = (
    "shipped",
    "d24fad (paper)",
    "d24fad, uniform weights",
    "d24fad, mean logits",
)
SSD_ALONE, TSD_ALONE, RD4AD = "ssd loss alone", "tsd loss alone", "rd4ad"
# What --methods takes. probe is no Method: it needs no supports.
FAMILIES = (
    "shipped",
    "d24fad",
    "uniform",
    "mean-logits",
    "ssd",
    "tsd",
    "rd4ad",
    "patchcore",
    "padim",
    "probe",
)
QUICK_FAMILIES = ("shipped", "d24fad", "uniform", "patchcore", "padim", "probe")
TRAINING_FREE = ("patchcore", "padim")  # how their names begin


@dataclass(frozen=True)
class Plan:
    """Which methods, and how they are made. model may hold "{task}": one bundle a left-out task."""

    families: tuple[str, ...]
    sizes: tuple[int, ...]
    model: str
    train_steps: int | None
    paper_steps: int
    shots: tuple[int, ...]
    seed: int
    runtime: str = "auto"  # of the shipped configuration


class Workshop:
    """Makes the methods for one tested task after another, training what has to be trained."""

    def __init__(
        self, plan: Plan, tasks: Sequence[Task], students: Students,
        progress: Callable[[str, int, int], None],
    ) -> None:  # fmt: skip
        self.plan = plan
        self.tasks = tasks
        self.students = students
        self._progress = progress
        self.seen: dict[str, dict[str, tuple[Path, ...]]] = {}  # by tested task and recipe
        self.warnings: list[str] = []

    def encoder(self, size: int) -> TeacherBlocks:
        return TeacherBlocks(self.students.teacher, self.students.teacher_sha256, size)

    def methods(self, tested: Task) -> list[Method]:
        """All methods of the plan, none of which has seen an image of the tested organ."""
        wanted = self.plan.families
        made: list[Method] = []
        if "shipped" in wanted:
            made.append(self._shipped(tested))
        small = self.encoder(PAPER_SIZE)
        steps = self.plan.train_steps or self.plan.paper_steps
        recipe = paper(steps, self.plan.seed, self.plan.shots, own_supports=False)
        if {"d24fad", "uniform"} & set(wanted):
            model = self._train(recipe, tested).model
            if "d24fad" in wanted:
                made.append(StudentMethod(D24FAD, small, model))
            if "uniform" in wanted:
                made.append(StudentMethod(UNIFORM, small, model, "uniform"))
        if "mean-logits" in wanted:
            _, metadata = load_model(self._bundle(tested))
            mean = of_bundle({**metadata["d24fad"], "per_position_weights": True, "cosine_weights": False})
            model = self._train(mean.changed(steps=self.plan.train_steps), tested).model
            made.append(StudentMethod(L2W_MEAN, small, model))
        if "ssd" in wanted:
            model = self._train(ablation(recipe, "ssd"), tested).model
            made.append(StudentMethod(SSD_ALONE, small, model, "uniform"))
        if {"tsd", "rd4ad"} & set(wanted):
            model = self._train(ablation(recipe, "tsd"), tested).model
            if "tsd" in wanted:
                made.append(StudentMethod(TSD_ALONE, small, model, "uniform"))
            if "rd4ad" in wanted:
                made.append(TeacherStudentMethod(RD4AD, small, model))
        for size in self.plan.sizes:
            blocks = self.encoder(size)
            if "patchcore" in wanted:
                made.append(PatchCore(blocks, (8, 16), "last"))
                made += [PatchCore(blocks, (stride,), "all") for stride in (8, 16, 32)]
            if "padim" in wanted:
                made.append(PaDiM(blocks))
        return made

    def _bundle(self, tested: Task) -> str:
        return self.plan.model.replace("{task}", tested.name)

    def _shipped(self, tested: Task) -> ShippedMethod:
        """The bundle of the tested task where --model names one each, else its recipe trained anew."""
        model, metadata = load_model(self._bundle(tested))
        about: dict[str, Any] = metadata["d24fad"]
        weights = "".join(about["sha256"].values())
        if "{task}" in self.plan.model:
            self._check_unseen(tested, about)
        elif _uses_student(about):
            trained = self._train(of_bundle(about).changed(steps=self.plan.train_steps), tested)
            model, weights = trained.model, trained.weights
        return ShippedMethod(model, about, weights, self.plan.runtime)

    def _check_unseen(self, tested: Task, about: dict[str, Any]) -> None:
        trained_on = about.get("training", {}).get("normal_images", {})
        if tested.name in trained_on:
            raise ModelError(
                f"{Path(self._bundle(tested)).name}: was trained on {tested.name}, on which it is to be "
                f"tested; train it with --leave-out {tested.name}"
            )
        if same := [t.name for t in self.tasks if t.organ == tested.organ and t.name in trained_on]:
            self.warnings.append(
                f"the model tested on {tested.name} has seen {', '.join(same)}, of the same organ"
            )

    def _train(self, recipe: Recipe, tested: Task) -> Trained:
        trained = self.students.train(
            recipe,
            without_organ(self.tasks, tested),
            lambda step, steps: self._progress(
                f"training without {tested.organ}: {recipe.name}", step, steps
            ),
        )
        self.seen.setdefault(tested.name, {})[recipe.name] = trained.seen
        return trained


def _uses_student(about: dict[str, Any]) -> bool:
    """Whether anything that was trained enters a picture's map."""
    return not about.get("pictures") and bool(about.get("evidence", {"student": 1.0}).get("student", 0.0))
