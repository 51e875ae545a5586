"""The shipped configuration: the library's own comparison, calibration and score on cached features.

`ShippedMethod.compare`, `_calibrated` and `_judge` alone know what the detector does with features.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from D24FADLib.benchmark.features import Features
from D24FADLib.benchmark.judgement import GRID, Judgement, for_each_shot, size_of
from D24FADLib.inference.calibration import (
    Calibration,
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
SIGMA = (0.0, 1.0, 1.0)  # as the detector smooths a picture


class ShippedEncoder:
    """The model's own encoder at its own input size."""

    def __init__(self, model: D24FADModel, weights: str, size: int, runtime: str) -> None:
        self.size = size
        self.key = f"detector {weights}"
        self.runtime = choose_encoder(runtime, model, torch.device("cpu"), weights)

    @torch.inference_mode()
    def __call__(self, images: torch.Tensor) -> Features:
        return self.runtime(images)


class ShippedMethod:
    """A bundle's model and metadata ("d24fad"), as `detect` uses them on one picture.

    `detect` also matches intensities and masks the body; here all methods see the same pictures.
    """

    name = "shipped"

    def __init__(
        self, model: D24FADModel, about: dict[str, Any], weights: str, runtime: str = "auto"
    ) -> None:
        self.encoder = ShippedEncoder(model, weights, int(about.get("input_size", 256)), runtime)
        self.model = model
        evidence = Evidence(**about.get("evidence", {}))
        self._comparer = Comparer(model, evidence, torch.device("cpu"), self.encoder.runtime)

    def judge(self, query: Features, supports: Features, shots: Sequence[int]) -> dict[int, Judgement]:
        def against(chosen: Features) -> Judgement:
            fitted = self._calibrated([f[:1] for f in query], chosen) if len(chosen[0]) > 1 else None
            parts = [
                self._judge([f[i : i + _BATCH] for f in query], chosen, fitted)
                for i in range(0, len(query[0]), _BATCH)
            ]
            maps, weights, scores = (np.concatenate(part) for part in zip(*parts, strict=True))
            threshold = None
            if fitted is not None:
                structure = neighbourhood(fitted.support_scores.shape[1:])
                threshold = threshold_for(fitted.support_scores, 1.0, 2, structure)
            return Judgement(maps, weights, scores, threshold)

        return for_each_shot(shots, supports, against)

    def compare(self, query: Features, supports: Features, query_only: bool) -> tuple[Any, Any, Any, Any]:
        """What `Comparer.compare_features` gives for these queries, all against the same supports."""
        count = len(query[0])
        together = [
            torch.cat([q[None], s[:, None].expand(-1, count, -1, -1, -1)])
            for q, s in zip(query, supports, strict=True)
        ]
        everywhere = torch.ones(len(supports[0]), count, *together[0].shape[-2:], dtype=torch.bool)
        return self._comparer.compare_features(together, everywhere, query_only)

    def pitch(self, features: Features) -> tuple[float, float, float]:
        """Pixels of one position along slice, row and column."""
        height, width = features[0].shape[-2:]
        return 1.0, self.encoder.size / height, self.encoder.size / width

    def _calibrated(self, query: Features, supports: Features) -> Calibration:
        """The supports judge each other alike for every query: any one does."""
        left_out = self.compare(query, supports, query_only=False)[2]
        return calibrate(np.stack([smooth(one.numpy(), SIGMA) for one in left_out]), self.pitch(query))

    def _judge(
        self, query: Features, supports: Features, fitted: Calibration | None
    ) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
        """Maps, weights and scores of a batch."""
        full, reduced, _, weights = self.compare(query, supports, query_only=True)
        if fitted is None:
            scores = smooth(full.numpy(), SIGMA)
        else:
            body = np.ones((1, *full.shape[1:]), bool)
            depth = depth_below_surface(body, self.pitch(query))
            scores = fitted.scores(smooth(reduced.numpy(), SIGMA), depth)
        maps = upsampled_sum([torch.from_numpy(scores)], (GRID, GRID)).numpy()
        own = np.array([robust_maximum(s) for s in scores], np.float32)
        return maps, weights.mean(1).numpy(), own

    def state_bytes(self, supports: Features) -> int:
        return size_of([*self.model.student.state_dict().values(), *supports])
