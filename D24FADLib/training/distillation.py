"""The training step and its bookkeeping as a Lightning module."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytorch_lightning as lightning
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from D24FADLib.inference.comparison import Evidence
from D24FADLib.network.model import D24FADModel, weighted_supports
from D24FADLib.training.dataset import Episode, Episodes, ImageEpisode
from D24FADLib.training.losses import bad_support_loss, distillation_loss
from D24FADLib.training.options import TrainingOptions
from D24FADLib.training.validation import Case, validate


@dataclass(frozen=True)
class CurvePoint:
    """A step: mean losses of the episodes since the last point (None before the first step), then
    `validation.Scores`. bad_weight: mean weight times K of the planted bad supports, None without any."""

    step: int
    train_ssd: float | None
    train_tsd: float | None
    bad_weight: float | None
    held_out_ssd: float
    held_out_tsd: float
    held_out_top_weight: float
    image_auroc: float
    pixel_auroc: float
    score: float


@dataclass(frozen=True)
class StepLosses:
    """The two losses of the paper, and the weights (B, scales, K)."""

    ssd: Tensor
    tsd: Tensor
    weights: Tensor


def episode_losses(model: D24FADModel, episode: Episode) -> StepLosses:
    query = model.student(episode.query_embedding)
    supports = episode.supports_of(model.student(episode.support_embedding))
    weights = model.weighting(query, supports)
    ssd = distillation_loss(query, weighted_supports(supports, weights))
    return StepLosses(ssd, distillation_loss(episode.query_features, query), weights)


class Distillation(lightning.LightningModule):
    """Trains student and learn-to-weight; a Lightning epoch is the steps between two validations.

    Device r of n takes the episodes r, r + n, ... of the numbered ones, so each step sees new ones on every
    device, and a resumed training goes on with those that an uninterrupted one would have had.
    """

    def __init__(
        self,
        model: D24FADModel,
        options: TrainingOptions,
        steps: int,
        episodes: Episodes,
        cases: Sequence[Case],
        evidence: Evidence,
        workers: int = 0,
        on_point: Callable[[CurvePoint], Any] | None = None,
    ) -> None:
        super().__init__()
        self.model = model
        self.options = options
        self.steps = steps
        self.curve: list[CurvePoint] = []
        self.strict_loading = False  # checkpoints leave out the frozen teacher
        self._episodes, self._cases, self._evidence, self._workers = episodes, cases, evidence, workers
        self._on_point = on_point
        self._recent: list[tuple[float, float]] = []
        self._recent_bad: list[float] = []

    def configure_optimizers(self) -> torch.optim.Optimizer:
        parameters = [p for p in self.model.parameters() if p.requires_grad]
        return torch.optim.Adam(parameters, lr=self.options.learning_rate, betas=self.options.betas)

    def train_dataloader(self) -> DataLoader[Episode | ImageEpisode]:
        """The episodes up to the next validation."""
        start = self.trainer.current_epoch * self.options.validate_every
        end = min(start + self.options.validate_every, self.steps)
        rank, devices = self.trainer.global_rank, self.trainer.world_size
        numbers = range(start * devices + rank, end * devices, devices)
        return DataLoader(self._episodes, batch_size=None, sampler=numbers, num_workers=self._workers)

    def training_step(self, episode: Episode | ImageEpisode, number: int) -> Tensor:
        if isinstance(episode, ImageEpisode):
            episode = episode.encoded(self.model.teacher)
        losses = episode_losses(self.model, episode)
        total = losses.ssd + self.options.tsd_weight * losses.tsd
        if episode.bad is not None:
            if self.options.bad_support_penalty:
                penalty = bad_support_loss(losses.weights, episode.bad)
                total = total + self.options.bad_support_penalty * penalty
            self._recent_bad.append(losses.weights[..., episode.bad].mean().item() * losses.weights.shape[-1])
        self._recent.append((losses.ssd.item(), losses.tsd.item()))
        return total

    def on_train_start(self) -> None:
        if not self.curve:
            self._add_point()

    def on_train_epoch_end(self) -> None:
        point = self._add_point()
        self.log("score", point.score, sync_dist=True)

    def _add_point(self) -> CurvePoint:
        scores = validate(self.model, self._cases, self._evidence)
        ssd, tsd = np.mean(self._recent, axis=0).tolist() if self._recent else (None, None)
        bad = float(np.mean(self._recent_bad)) if self._recent_bad else None
        point = CurvePoint(
            self.global_step, ssd, tsd, bad,
            scores.ssd, scores.tsd, scores.top_weight, scores.image_auroc, scores.pixel_auroc, scores.total,
        )  # fmt: skip
        self._recent, self._recent_bad = [], []
        self.curve.append(point)
        if self._on_point and self.trainer.is_global_zero:
            self._on_point(point)
        return point

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        state = checkpoint["state_dict"]
        checkpoint["state_dict"] = {k: v for k, v in state.items() if not k.startswith("model.teacher.")}
        checkpoint["curve"] = [vars(point) for point in self.curve]

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.curve = [CurvePoint(**row) for row in checkpoint["curve"]]
