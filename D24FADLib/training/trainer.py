"""Training of student and learn-to-weight by the paper's recipe on cached teacher features."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from typing import Any

import numpy as np
import torch

from D24FADLib.network.model import D24FADModel, weighted_supports
from D24FADLib.training.episodes import Episode, episodes, split
from D24FADLib.training.features import FeatureSet
from D24FADLib.training.losses import distillation_loss


@dataclass(frozen=True)
class TrainingOptions:
    """The paper's values (section 4.1) except `steps`, `shots` and `held_out`, which are ours."""

    steps: int = 600
    batch: int = 16
    shots: tuple[int, ...] = (2, 4, 8)
    learning_rate: float = 1e-4
    betas: tuple[float, float] = (0.5, 0.999)
    tsd_weight: float = 0.1
    seed: int = 111
    held_out: float = 0.15
    validate_every: int = 50
    validation_episodes: int = 28


@dataclass(frozen=True)
class CurvePoint:
    """Losses at a step: means over the episodes since the last point, and on held-out normals."""

    step: int
    train_ssd: float
    train_tsd: float
    held_out_ssd: float
    held_out_tsd: float
    held_out_top_weight: float  # mean largest support weight times K: 1 is uniform, K is one-takes-all


def _losses(model: D24FADModel, episode: Episode) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    query = model.student(episode.query_embedding)
    supports = model.student(episode.support_embedding)
    weights = model.weighting(query, supports)
    ssd = distillation_loss(query, weighted_supports(supports, weights))
    return ssd, distillation_loss(episode.query_features, query), weights


def _validate(model: D24FADModel, held_out: Sequence[Episode]) -> tuple[float, float, float]:
    model.eval()
    rows = []
    with torch.inference_mode():
        for episode in held_out:
            ssd, tsd, weights = _losses(model, episode)
            rows.append((ssd.item(), tsd.item(), (weights.amax(-1).mean() * weights.shape[-1]).item()))
    model.train()
    ssd_mean, tsd_mean, top = np.mean(rows, axis=0)
    return float(ssd_mean), float(tsd_mean), float(top)


def train(
    model: D24FADModel,
    sets: Sequence[FeatureSet],
    options: TrainingOptions,
    progress: Callable[[CurvePoint], Any] | None = None,
) -> list[CurvePoint]:
    """Train student and learn-to-weight in place; the loss curve, from step 0 on.

    Deterministic for a seed on one machine. The validation episodes are drawn once, from normals that
    training never sees.
    """
    torch.manual_seed(options.seed)
    parts = split(sets, options.held_out, options.seed)
    training = episodes(
        sets, [p[0] for p in parts], batch=options.batch, shots=options.shots,
        rng=np.random.default_rng(options.seed),
    )  # fmt: skip
    held_out = list(
        islice(
            episodes(
                sets, [p[1] for p in parts], batch=options.batch, shots=(4,),
                rng=np.random.default_rng(options.seed + 1),
            ),
            options.validation_episodes,
        )
    )  # fmt: skip
    parameters = [*model.student.parameters(), *model.weighting.parameters()]
    optimizer = torch.optim.Adam(parameters, lr=options.learning_rate, betas=options.betas)
    model.train()
    curve: list[CurvePoint] = []
    recent: list[tuple[float, float]] = []
    for step in range(options.steps + 1):
        ssd, tsd, _ = _losses(model, next(training))
        recent.append((ssd.item(), tsd.item()))
        if step % options.validate_every == 0 or step == options.steps:
            train_ssd, train_tsd = np.mean(recent, axis=0)
            point = CurvePoint(step, float(train_ssd), float(train_tsd), *_validate(model, held_out))
            curve.append(point)
            recent = []
            if progress:
                progress(point)
        if step < options.steps:
            optimizer.zero_grad(set_to_none=True)
            (ssd + options.tsd_weight * tsd).backward()
            optimizer.step()
    model.eval()
    return curve


def describe(options: TrainingOptions) -> dict[str, Any]:
    """The options as metadata."""
    return asdict(options)
