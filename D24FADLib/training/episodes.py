"""Episodes: a batch of queries and K other normals of the same task as their supports."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from D24FADLib.errors import InputError
from D24FADLib.training.features import FeatureSet


@dataclass(frozen=True)
class Episode:
    """Teacher features (B, C, h, w) x 3 and embedding of the queries, embedding (K, E, h, w) of supports."""

    task: str
    query_features: list[Tensor]
    query_embedding: Tensor
    support_embedding: Tensor


def split(sets: Sequence[FeatureSet], held_out: float, seed: int) -> list[tuple[list[int], list[int]]]:
    """Training and validation indices per set; sets of one task (other sizes, mirrored) share the split.

    Raises InputError where a task leaves fewer than two images, a query and a support, for training.
    """
    by_task: dict[str, tuple[list[int], list[int]]] = {}
    rng = np.random.default_rng(seed)
    for features in sets:
        if features.task not in by_task:
            order = [int(i) for i in rng.permutation(len(features))]
            kept = max(2, round(len(order) * held_out))
            if len(order) - kept < 2:
                raise InputError(
                    f"{features.task}: {len(order)} normals are too few; {kept} are held out for validation, "
                    "and at least two, a query and a support, must be left to train on"
                )
            by_task[features.task] = (sorted(order[kept:]), sorted(order[:kept]))
    return [by_task[features.task] for features in sets]


def episodes(
    sets: Sequence[FeatureSet],
    indices: Sequence[Sequence[int]],
    *,
    batch: int,
    shots: Sequence[int],
    rng: np.random.Generator,
) -> Iterator[Episode]:
    """Endless episodes. Tasks are drawn alike, so that a large data set does not outweigh a small one.

    The K supports are shared by the batch (B + K student passes instead of B (1 + K)) and never among
    its queries.
    """
    while True:
        chosen = int(rng.integers(len(sets)))
        features, pool = sets[chosen], indices[chosen]
        wanted = int(rng.choice(np.asarray(shots)))
        supports = min(wanted, len(pool) - 1)
        drawn = rng.permutation(np.asarray(pool))[: batch + supports]
        query, support = drawn[supports:].tolist(), drawn[:supports].tolist()
        yield Episode(
            features.task, features.features(query), features.embedding(query), features.embedding(support)
        )
