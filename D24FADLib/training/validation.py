"""How good a model is, told from held-out normals and synthetic anomalies implanted in them.

Never from abnormal images: neither labels nor images of a test set take part in any choice.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from D24FADLib.inference.comparison import Evidence, nearest_residuals
from D24FADLib.network.model import D24FADModel, residual, upsampled_sum, weighted_supports
from D24FADLib.training.dataset import Episode, ImageEpisode, implanted
from D24FADLib.training.episodes import draw
from D24FADLib.training.images import ImageSet
from D24FADLib.training.losses import distillation_loss
from D24FADLib.training.options import TrainingOptions

_SHOTS = (4,)
_TOP = 0.02  # an image's score is the mean of its highest residuals


@dataclass(frozen=True, eq=False)
class Case:
    """An episode of held-out normals, and the same queries with an anomaly each.

    masks: (B, h, w) bool on the finest feature grid. teacher: the distances of the teacher's features to the
    supports', (2 B, h, w), normals first; it does not change while the student learns.
    """

    episode: Episode
    anomalous_embedding: Tensor
    masks: Tensor
    teacher: Tensor

    def to(self, device: torch.device | str) -> Case:
        return Case(
            self.episode.to(device),
            self.anomalous_embedding.to(device),
            self.masks.to(device),
            self.teacher.to(device),
        )


@dataclass(frozen=True)
class Scores:
    """Losses on normals; AUROC of normal against implanted images and pixels, the mean over tasks.

    top_weight: mean largest support weight times K: 1 is uniform, K is one-takes-all.
    """

    ssd: float
    tsd: float
    top_weight: float
    image_auroc: float
    pixel_auroc: float

    @property
    def total(self) -> float:
        """What the best step is chosen by."""
        return (self.image_auroc + self.pixel_auroc) / 2


@torch.no_grad()
def make_cases(
    teacher: nn.Module,
    sets: Sequence[ImageSet],
    held_out: Sequence[Sequence[int]],
    options: TrainingOptions,
    evidence: Evidence,
    device: torch.device | str = "cpu",
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[Case]:
    """The validation cases of a training: drawn once, as many of each set."""
    rng = np.random.default_rng([options.seed, 1 << 32])  # apart from the training's episodes
    plain = replace(options, shots=_SHOTS, own_supports=False, by_size=False, bad_support_probability=0.0)
    teacher = teacher.to(device)
    cases = []
    for number in range(options.validation_episodes):
        progress(number, options.validation_episodes)
        chosen = number % len(sets)
        drawn = draw([sets[chosen]], [held_out[chosen]], plain, rng)
        normal = replace(sets[chosen], pixels=sets[chosen].pixels[torch.from_numpy(drawn.query)])
        anomalous, masks = implanted(normal, int(rng.integers(2**31)))
        rows = None if drawn.rows is None else torch.from_numpy(drawn.rows)
        images = ImageEpisode(
            normal.task, normal.images(slice(None)), sets[chosen].images(drawn.support.tolist()), rows
        ).to(device)
        episode = images.encoded(teacher)
        features, embedding = teacher(anomalous.images(slice(None)).to(device))
        distance = torch.zeros(())
        if evidence.teacher:
            supports, _ = teacher(images.support)
            both = [torch.cat(pair) for pair in zip(episode.query_features, features, strict=True)]
            distance = evidence.teacher * _teacher_distance(both, supports, episode.rows)
        grid = episode.query_features[0].shape[-2:]
        small = F.interpolate(masks[:, None].float(), grid, mode="area")[:, 0] >= 0.5
        cases.append(Case(episode, embedding, small, distance).to("cpu"))
    progress(options.validation_episodes, options.validation_episodes)
    return cases


def _teacher_distance(queries: Sequence[Tensor], supports: Sequence[Tensor], rows: Tensor | None) -> Tensor:
    """(2 B, h, w): as detection adds it to the map, the sum over scales, from the nearest support."""
    scales = []
    for query, support in zip(queries, supports, strict=True):
        shared = support[:, None].expand(-1, len(query), -1, -1, -1)
        shown = shared if rows is None else support[rows.repeat(1, 2)]
        scales.append(nearest_residuals(torch.cat([query[None], shown]))[0])  # (K, 2 B, h, w)
    size = (scales[0].shape[-2], scales[0].shape[-1])
    total = upsampled_sum([distances.flatten(0, 1) for distances in scales], size)
    return total.unflatten(0, scales[0].shape[:2]).amin(0)


@torch.no_grad()
def validate(model: D24FADModel, cases: Sequence[Case], evidence: Evidence) -> Scores:
    """Scores of the model as it stands; its mode and its batch statistics are left as they were."""
    from torchmetrics.functional.classification import binary_auroc

    training = model.training
    model.eval()
    rows: dict[str, list[tuple[float, ...]]] = {}
    device = next(model.student.parameters()).device
    for stored in cases:
        case = stored.to(device)
        episode = case.episode
        supports = episode.supports_of(model.student(episode.support_embedding))
        grid = (case.masks.shape[-2], case.masks.shape[-1])
        maps, weights = [], []
        for embedding in (episode.query_embedding, case.anomalous_embedding):
            query = model.student(embedding)
            weights.append(model.weighting(query, supports))
            blended = weighted_supports(supports, weights[-1])
            maps.append(upsampled_sum(residual(query, blended), grid))
            if embedding is episode.query_embedding:
                ssd = distillation_loss(query, blended).item()
                tsd = distillation_loss(episode.query_features, query).item()
        # The masks are of what is added to the normal: the normal's own map has none.
        joint = evidence.student * torch.cat(maps) + case.teacher
        truth = torch.cat([torch.zeros_like(case.masks), case.masks])
        highest = joint.flatten(1).topk(max(1, round(_TOP * joint[0].numel()))).values.mean(1)
        labels = torch.arange(len(joint), device=joint.device) >= len(case.masks)
        pixel = binary_auroc(_unit(joint).flatten(), truth.flatten().int()).item() if truth.any() else np.nan
        image = binary_auroc(_unit(highest), labels.int()).item()
        top = (weights[0].amax(-1).mean() * weights[0].shape[-1]).item()
        rows.setdefault(episode.task, []).append((ssd, tsd, top, image, pixel))
    model.train(training)
    by_task = [np.nanmean(values, axis=0) for values in rows.values()]
    return Scores(*(float(value) for value in np.mean(by_task, axis=0)))


def _unit(values: Tensor) -> Tensor:
    """Into [0, 1], in order: torchmetrics would take values outside for logits and lose digits."""
    low, high = values.min(), values.max()
    return (values - low) / (high - low).clamp_min(1e-12)
