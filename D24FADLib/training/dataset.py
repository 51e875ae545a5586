"""Drawn episodes as tensors. Episode n depends on the seed and n alone, so that training can be resumed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from D24FADLib.training.augmentation import augment
from D24FADLib.training.episodes import Draw, draw
from D24FADLib.training.features import FeatureSet
from D24FADLib.training.images import ImageSet
from D24FADLib.training.options import TrainingOptions
from D24FADLib.training.synthetic import implant


@dataclass(frozen=True, eq=False)
class Episode:
    """Teacher features (B, C, h, w) x 3 and embedding (B, E, h, w) of the queries, embedding (M, E, h, w) of
    the supports. rows (K, B) and bad as in `Draw`."""

    task: str
    query_features: list[Tensor]
    query_embedding: Tensor
    support_embedding: Tensor
    rows: Tensor | None = None
    bad: int | None = None

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Episode:
        return Episode(
            self.task,
            [feature.to(device, non_blocking=non_blocking) for feature in self.query_features],
            self.query_embedding.to(device, non_blocking=non_blocking),
            self.support_embedding.to(device, non_blocking=non_blocking),
            None if self.rows is None else self.rows.to(device, non_blocking=non_blocking),
            self.bad,
        )

    def supports_of(self, encoded: Sequence[Tensor]) -> list[Tensor]:
        """Student features (M, C, h, w) per scale as learn-to-weight takes them: (K, ...) or (K, B, ...)."""
        return list(encoded) if self.rows is None else [feature[self.rows] for feature in encoded]


@dataclass(frozen=True, eq=False)
class ImageEpisode:
    """Images (B, 3, H, W) of the queries and (M, 3, H, W) of the supports, for a teacher in the loop."""

    task: str
    query: Tensor
    support: Tensor
    rows: Tensor | None = None
    bad: int | None = None

    def to(self, device: torch.device | str, non_blocking: bool = False) -> ImageEpisode:
        rows = None if self.rows is None else self.rows.to(device, non_blocking=non_blocking)
        query, support = (
            images.to(device, non_blocking=non_blocking) for images in (self.query, self.support)
        )
        return ImageEpisode(self.task, query, support, rows, self.bad)

    def encoded(self, teacher: nn.Module) -> Episode:
        with torch.no_grad():
            features, embedding = teacher(torch.cat([self.query, self.support]))
        count = len(self.query)
        return Episode(
            self.task,
            [f[:count] for f in features],
            embedding[:count],
            embedding[count:],
            self.rows,
            self.bad,
        )


def implanted(images: ImageSet, seed: int) -> tuple[ImageSet, Tensor]:
    """Every image of the set with a synthetic anomaly, and where it is: (N, H, W) bool."""
    rng = np.random.default_rng(seed)
    changed, masks = torch.empty(len(images), 3, *images.shape, dtype=torch.float16), []
    for number in range(len(images)):
        image, other = images.images([number, int(rng.integers(len(images)))]).numpy()
        made = implant(image, other, rng)
        changed[number] = torch.from_numpy(made.image)
        masks.append(torch.from_numpy(made.mask))
    return replace(images, pixels=changed), torch.stack(masks)


class Episodes(Dataset[Episode | ImageEpisode]):
    """The episodes of a training, by number.

    sets: FeatureSets (kept features) or, with options.augment, ImageSets. anomalous: FeatureSets of the same
    images with synthetic anomalies, needed for bad supports among kept features only.
    """

    def __init__(
        self,
        sets: Sequence[FeatureSet | ImageSet],
        pools: Sequence[Sequence[int]],
        options: TrainingOptions,
        anomalous: Sequence[FeatureSet] | None = None,
    ) -> None:
        self.sets, self.pools, self.options, self.anomalous = sets, pools, options, anomalous

    def __getitem__(self, number: int) -> Episode | ImageEpisode:
        rng = np.random.default_rng([self.options.seed, number])
        drawn = draw(self.sets, self.pools, self.options, rng)
        data = self.sets[drawn.chosen]
        rows = None if drawn.rows is None else torch.from_numpy(drawn.rows)
        if isinstance(data, FeatureSet):
            query, support = drawn.query.tolist(), data.embedding(drawn.support.tolist())
            if drawn.bad is not None:
                support[drawn.bad_rows] = self._bad_embedding(drawn, rng)
            return Episode(data.task, data.features(query), data.embedding(query), support, rows, drawn.bad)
        supports = data.images(drawn.support.tolist()).clone()
        if drawn.bad is not None:
            supports[drawn.bad_rows] = self._bad_images(drawn, supports, rng)
        images = torch.cat([data.images(drawn.query.tolist()), supports])
        if self.options.augment:
            images = augment(images, rng)
        count = len(drawn.query)
        return ImageEpisode(data.task, images[:count], images[count:], rows, drawn.bad)

    def _foreign(self, drawn: Draw, rng: np.random.Generator) -> tuple[int, int] | None:
        """Set and number of a training image of another task, in half of the cases where there is one."""
        own = self.sets[drawn.chosen]
        others = [i for i, s in enumerate(self.sets) if s.task != own.task and s.shape == own.shape]
        if not others or rng.random() < 0.5:
            return None
        chosen = others[int(rng.integers(len(others)))]
        return chosen, int(rng.choice(np.asarray(self.pools[chosen])))

    def _bad_embedding(self, drawn: Draw, rng: np.random.Generator) -> Tensor:
        if foreign := self._foreign(drawn, rng):
            other = self.sets[foreign[0]]
            assert isinstance(other, FeatureSet)
            return other.embedding([foreign[1]])
        assert self.anomalous is not None
        return self.anomalous[drawn.chosen].embedding(drawn.support[drawn.bad_rows].tolist())

    def _bad_images(self, drawn: Draw, supports: Tensor, rng: np.random.Generator) -> Tensor:
        if foreign := self._foreign(drawn, rng):
            other = self.sets[foreign[0]]
            assert isinstance(other, ImageSet)
            return other.images([foreign[1]])
        source = supports[int(rng.integers(len(supports)))].numpy()
        made = [implant(supports[row].numpy(), source, rng).image for row in drawn.bad_rows.tolist()]
        return torch.from_numpy(np.stack(made))
