"""The shipped configuration: the library's own comparison, calibration and score on cached features.

`ShippedMethod._judge` is the one place that knows what the detector does with features.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from D24FADLib.benchmark.features import Features
from D24FADLib.benchmark.judgement import GRID, Judgement, for_each_shot, size_of
from D24FADLib.inference.calibration import (
    calibrate,
    depth_below_surface,
    robust_maximum,
    smooth,
    threshold_for,
)
from D24FADLib.inference.comparison import Comparer, Evidence
from D24FADLib.inference.findings import neighbourhood
from D24FADLib.inference.runtimes import choose_encoder
from D24FADLib.network.model import D24FADModel, upsampled_sum

_BATCH = 16
_SIGMA = (0.0, 1.0, 1.0)  # as the detector smooths a picture


class ShippedEncoder:
    """The model's own encoder at its own input size."""

    def __init__(self, model: D24FADModel, weights: str, size: int, runtime: str) -> None:
        self.size = size
        self.key = f"detector {weights}"
        self._run = choose_encoder(runtime, model, torch.device("cpu"), weights)
        self.name = self._run.name

    @torch.inference_mode()
    def __call__(self, images: torch.Tensor) -> Features:
        return self._run(images)


class ShippedMethod:
    """A bundle's model and metadata ("d24fad"), as `detect` uses them on one picture.

    `detect` also matches intensities and masks the body; here all methods see the same pictures.
    """

    name = "shipped"

    def __init__(
        self, model: D24FADModel, about: dict[str, Any], weights: str, runtime: str = "auto"
    ) -> None:
        self.encoder = ShippedEncoder(model, weights, int(about.get("input_size", 256)), runtime)
        self._model = model
        self._comparer = Comparer(
            model, Evidence(**about.get("evidence", {})), torch.device("cpu"), self.encoder
        )

    def judge(self, query: Features, supports: Features, shots: Sequence[int]) -> dict[int, Judgement]:
        def against(chosen: Features) -> Judgement:
            parts = [
                self._judge([f[i : i + _BATCH] for f in query], chosen)
                for i in range(0, len(query[0]), _BATCH)
            ]
            maps, weights, scores = (np.concatenate([p[i] for p in parts]) for i in range(3))
            return Judgement(maps, weights, scores, threshold=parts[0][3])

        return for_each_shot(shots, supports, against)

    def _judge(self, query: Features, supports: Features) -> tuple[Any, Any, Any, float | None]:
        """Maps, weights and scores of a batch, and the threshold."""
        count = len(query[0])
        together = [
            torch.cat([q[None], s[:, None].expand(-1, count, -1, -1, -1)])
            for q, s in zip(query, supports, strict=True)
        ]
        grid = (together[0].shape[-2], together[0].shape[-1])
        everywhere = torch.ones(len(supports[0]), count, *grid, dtype=torch.bool)
        full, reduced, left_out, weights = self._comparer.compare_features(together, everywhere)
        threshold = None
        if reduced is None or left_out is None:
            scores = smooth(full.numpy(), _SIGMA)
        else:
            # The supports judge each other alike for every query.
            pitch = (1.0, self.encoder.size / grid[0], self.encoder.size / grid[1])
            fitted = calibrate(np.stack([smooth(one[:1].numpy(), _SIGMA) for one in left_out]), pitch)
            body = np.ones((1, *grid), bool)
            scores = fitted.scores(smooth(reduced.numpy(), _SIGMA), depth_below_surface(body, pitch))
            threshold = threshold_for(fitted.support_scores, 1.0, 2, neighbourhood(body.shape))
        maps = upsampled_sum([torch.from_numpy(scores)], (GRID, GRID)).numpy()
        return maps, weights.mean(1).numpy(), np.array([robust_maximum(s) for s in scores]), threshold

    def state_bytes(self, supports: Features) -> int:
        return size_of([*self._model.student.state_dict().values(), *supports])
