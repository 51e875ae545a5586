"""Episodes: a batch of queries and K other normals of the same task as their supports."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from D24FADLib.errors import InputError
from D24FADLib.training.options import TrainingOptions

# A bad support among two leaves one good one: nothing tells which of the two it is.
_FEWEST_WITH_BAD = 3


class Studies(Protocol):
    """What drawing needs to know of a data set: ImageSet and FeatureSet have it."""

    @property
    def task(self) -> str: ...

    @property
    def studies(self) -> NDArray[np.int64]: ...

    @property
    def places(self) -> NDArray[np.int64] | None: ...

    def __len__(self) -> int: ...


@dataclass(frozen=True, eq=False)
class Draw:
    """Which images make an episode: numbers within data set `chosen`.

    query: (B,). support: (M,) without repeats. rows: (K, B), which of `support` query b is compared with as
    its k-th, or None where all queries share the M = K supports. bad: number k of the support to be replaced
    by something abnormal, or None.
    """

    chosen: int
    query: NDArray[np.int64]
    support: NDArray[np.int64]
    rows: NDArray[np.int64] | None = None
    bad: int | None = None

    @property
    def bad_rows(self) -> NDArray[np.int64]:
        """Which of `support` to replace."""
        if self.bad is None:
            return np.empty(0, np.int64)
        return np.array([self.bad]) if self.rows is None else np.unique(self.rows[self.bad])


def split(sets: Sequence[Studies], held_out: float, seed: int) -> list[tuple[list[int], list[int]]]:
    """Training and validation indices per set; sets of one task (other sizes, mirrored) share the split.

    Whole studies are held out. Raises InputError where a task leaves fewer than two, a query and a support,
    for training.
    """
    by_task: dict[str, tuple[NDArray[np.int64], NDArray[np.int64]]] = {}
    rng = np.random.default_rng(seed)
    for data in sets:
        if data.task not in by_task:
            order = rng.permutation(np.unique(data.studies))
            kept = max(2, round(len(order) * held_out))
            if len(order) - kept < 2:
                raise InputError(
                    f"{data.task}: {len(order)} normals are too few; {kept} are held out for validation, "
                    "and at least two, a query and a support, must be left to train on"
                )
            by_task[data.task] = (order[kept:], order[:kept])
    return [
        (
            np.flatnonzero(np.isin(data.studies, by_task[data.task][0])).tolist(),
            np.flatnonzero(np.isin(data.studies, by_task[data.task][1])).tolist(),
        )
        for data in sets
    ]


def draw(
    sets: Sequence[Studies],
    pools: Sequence[Sequence[int]],
    options: TrainingOptions,
    rng: np.random.Generator,
) -> Draw:
    """One episode from the images of `pools`; no study is both query and support of one comparison.

    Tasks are drawn alike, so that a large data set does not outweigh a small one, or by their size
    (options.by_size). Supports are shared by the batch (B + K student passes instead of B (1 + K)), unless
    options.own_supports or the images are slices of aligned volumes: those are compared with the supports'
    slices at their own place.
    """
    if options.by_size:
        sizes = np.array([len(pool) for pool in pools], dtype=float)
        chosen = int(rng.choice(len(sets), p=sizes / sizes.sum()))
    else:
        chosen = int(rng.integers(len(sets)))
    data, pool = sets[chosen], np.asarray(pools[chosen])
    wanted = int(rng.choice(np.asarray(options.shots)))
    if data.places is not None:
        made = _aligned(chosen, data.studies, data.places, pool, options.batch, wanted, rng)
    elif options.own_supports:
        made = _own_supports(chosen, data.studies, pool, options.batch, wanted, rng)
    else:
        made = _shared(chosen, data.studies, pool, options.batch, wanted, rng)
    shots = len(made.support) if made.rows is None else len(made.rows)
    # Drawn in every episode, so that the probability does not change which images follow.
    lot, bad = rng.random(), int(rng.integers(shots))
    if shots >= _FEWEST_WITH_BAD and lot < options.bad_support_probability:
        return Draw(made.chosen, made.query, made.support, made.rows, bad)
    return made


def _one_each(
    studies: NDArray[np.int64], pool: NDArray[np.int64], wanted: Sequence[int], rng: np.random.Generator
) -> list[int]:
    """A random image of each of these studies."""
    return [int(rng.choice(pool[studies[pool] == study])) for study in wanted]


def _shared(
    chosen: int,
    studies: NDArray[np.int64],
    pool: NDArray[np.int64],
    batch: int,
    wanted: int,
    rng: np.random.Generator,
) -> Draw:
    order = rng.permutation(np.unique(studies[pool]))
    shots = min(wanted, len(order) - 1)
    others = pool[np.isin(studies[pool], order[shots:])]
    support = _one_each(studies, pool, order[:shots].tolist(), rng)
    return Draw(chosen, rng.permutation(others)[:batch], np.array(support))


def _own_supports(
    chosen: int,
    studies: NDArray[np.int64],
    pool: NDArray[np.int64],
    batch: int,
    wanted: int,
    rng: np.random.Generator,
) -> Draw:
    query = rng.permutation(pool)[:batch]
    everyone = np.unique(studies[pool])
    shots = min(wanted, len(everyone) - 1)
    columns = []
    for number in query:
        others = rng.permutation(everyone[everyone != studies[number]])[:shots]
        columns.append(_one_each(studies, pool, others.tolist(), rng))
    support, rows = np.unique(np.array(columns).T, return_inverse=True)
    return Draw(chosen, query, support, rows.reshape(shots, len(query)))


def _aligned(
    chosen: int,
    studies: NDArray[np.int64],
    places: NDArray[np.int64],
    pool: NDArray[np.int64],
    batch: int,
    wanted: int,
    rng: np.random.Generator,
) -> Draw:
    order = rng.permutation(np.unique(studies[pool]))
    shots = min(wanted, len(order) - 1)
    at = {(int(studies[i]), int(places[i])): int(i) for i in pool}
    query: list[int] = []
    columns: list[list[int]] = []
    for place in rng.permutation(np.unique(places[pool])):
        column = [at.get((int(study), int(place))) for study in order[:shots]]
        if None in column:  # one of the supports does not reach this place
            continue
        here = [at[study, place] for study in order[shots:].tolist() if (study, place) in at]
        query += here
        columns += [column] * len(here)  # type: ignore[list-item]
        if len(query) >= batch:
            break
    if not query:  # volumes that hardly overlap
        return _shared(chosen, studies, pool, batch, wanted, rng)
    support, rows = np.unique(np.array(columns[:batch]).T, return_inverse=True)
    return Draw(chosen, np.array(query[:batch]), support, rows.reshape(shots, len(query[:batch])))
