"""A model at work on the normals of a folder of tasks, its features and draws kept on disk."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from D24FADLib.benchmark.calibration_fit import SHOTS, OrganNormals
from D24FADLib.benchmark.datasets import Task
from D24FADLib.benchmark.features import FeatureStore
from D24FADLib.benchmark.normals import Draws, descriptors, fingerprint, judge_draws, kept
from D24FADLib.benchmark.shipped import Among, ShippedMethod
from D24FADLib.inference.models import load_model
from D24FADLib.inference.priors import belongs_to

Progress = Callable[[str, int, int], None]
QUERIES = 12  # a draw


class Workbench:
    """images: normals of a task, drawn by the seed; draws: of four supports."""

    def __init__(
        self, model: str, cache: Path, images: int, draws: int, seed: int, progress: Progress
    ) -> None:
        network, self.metadata = load_model(model)
        about = self.metadata["d24fad"]
        self.method = ShippedMethod(network, about, "".join(about["sha256"].values()))
        self.splits = self._splits()
        self._cache = cache.expanduser()
        self.store = FeatureStore(self._cache / "features")
        self._images, self._draws, self._seed, self._progress = images, draws, seed, progress
        self._last: tuple[object, Among] | None = None

    def _splits(self) -> tuple[int, ...]:
        teacher: Any = self.method.model.teacher
        return (teacher.channels[1], teacher.channels[2], teacher.embedding_channels)

    def sample(self, paths: Sequence[Path], stream: int, most: int | None = None) -> list[Path]:
        """At most so many of the paths; another stream, another choice."""
        rng = np.random.default_rng([self._seed, stream])
        return [paths[int(i)] for i in rng.permutation(len(paths))[: most or self._images]]

    def normals(self, task: Task) -> OrganNormals:
        """Supports and queries alike from the training normals."""
        pool = self.sample(task.train, 1)
        draws = {k: self.draws(task.name, pool, None, k) for k in SHOTS}
        return OrganNormals(task.organ, draws, self.descriptors(pool))

    def draws(
        self,
        name: str,
        pool: Sequence[Path],
        tested: Sequence[Path] | None,
        shots: int,
        queries: int = QUERIES,
        budget: float = 1.0,
    ) -> Draws:
        """See `normals.judge_draws`."""
        count = self._draws
        parts = (
            sorted(belongs_to(self.metadata).items(), key=str),
            [p.name for p in pool], [p.name for p in tested or ()],
            shots, count, queries, self._seed, *((round(budget, 3),) if budget != 1.0 else ()),
        )  # fmt: skip
        file = self._cache / "calibration" / f"{name}-{shots}-{fingerprint(*parts)}.npz"

        def tell(done: int, total: int) -> None:
            self._progress(f"{name}: {shots} references", done, total)

        return kept(
            file,
            lambda: judge_draws(
                self.method, self.among(pool, tested or ()), len(pool), len(tested) if tested else None,
                shots=shots, draws=count, queries=queries, seed=self._seed, budget=budget, progress=tell,
            ),
        )  # fmt: skip

    def among(self, pool: Sequence[Path], others: Sequence[Path] = ()) -> Among:
        """Comparisons among these pictures, the others behind the pool (see `ShippedMethod.among`); the last
        ones' distances are kept."""
        key = (tuple(pool), tuple(others))
        if self._last is None or self._last[0] != key:
            features = self.store.load(self.method.encoder, [*pool, *others])
            self._last = key, self.method.among(features, len(pool))
        return self._last[1]

    def descriptors(self, paths: Sequence[Path]) -> NDArray[np.float64]:
        return descriptors(self.method, paths)
