"""The shipped configuration: the library's own comparison, calibration and score on cached features.

`ShippedMethod.compare` and `_judge` alone know what the detector does with features.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
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
    smooth,
    threshold_for,
)
from D24FADLib.inference.comparison import Comparer, Evidence
from D24FADLib.inference.findings import neighbourhood
from D24FADLib.inference.pictures import PictureComparer, PictureComparison, PictureEvidence
from D24FADLib.inference.runtimes import choose_encoder
from D24FADLib.inference.study_score import PICTURE, study_score
from D24FADLib.network.model import D24FADModel, upsampled_sum

_BATCH = 16
SIGMA = (0.0, 1.0, 1.0)  # as the detector smooths a picture
_CPU = torch.device("cpu")
Positions = NDArray[np.intp]
Among = Callable[[Positions, Positions], PictureComparison]
Compare = Callable[[Features, Features], PictureComparison]


class ShippedEncoder:
    """The model's own encoder at its own input size: of pictures with the mirrored ones' features behind."""

    def __init__(
        self, model: D24FADModel, weights: str, size: int, runtime: str, pictures: PictureComparer | None
    ) -> None:
        self.size = pictures.evidence.size if pictures else size
        self.key = f"detector {weights} {pictures.evidence.levels if pictures else ''}"
        self._pictures = pictures
        self._runtime = choose_encoder(runtime, model, _CPU, weights) if pictures is None else None

    @torch.inference_mode()
    def __call__(self, images: torch.Tensor) -> Features:
        if self._pictures is not None:
            return self._pictures.encode_supports(images)
        assert self._runtime is not None
        return self._runtime(images)


class ShippedMethod:
    """A bundle's model and metadata ("d24fad"), as `detect` uses them on one picture.

    `detect` also masks the body; here all methods see the same pictures.
    """

    name = "shipped"

    def __init__(
        self, model: D24FADModel, about: dict[str, Any], weights: str, runtime: str = "auto"
    ) -> None:
        evidence = PictureEvidence.of(about.get("pictures"))
        self._pictures = PictureComparer(model.eval(), evidence, _CPU) if evidence else None
        size = int(about.get("input_size", 256))
        self.encoder = ShippedEncoder(model, weights, size, runtime, self._pictures)
        self.model = model
        self._comparer = Comparer(model, Evidence(**about.get("evidence", {})), _CPU)

    def judge(self, query: Features, supports: Features, shots: Sequence[int]) -> dict[int, Judgement]:
        if self._pictures is None:
            return for_each_shot(shots, supports, lambda chosen: self._against(query, chosen, self.compare))
        # Distances to a support are the same whoever else is one.
        pictures, most = self._pictures, [f[: max(shots)] for f in supports]
        far, own = pictures.distances(query, most), pictures.distances(most, most)

        def compare(some: Features, chosen: Features) -> PictureComparison:
            k = len(chosen[0])
            return pictures.judge([d[:, :k] for d in some], [d[:k, :k] for d in own])

        return for_each_shot(shots, supports, lambda chosen: self._against(far, chosen, compare))

    def _against(self, query: Features, chosen: Features, compare: Compare) -> Judgement:
        """`query`: what `compare` takes of the queries, features or distances."""
        fitted = self._calibrated(compare([f[:1] for f in query], chosen))
        parts = [
            self._judge(compare([f[i : i + _BATCH] for f in query], chosen), fitted)
            for i in range(0, len(query[0]), _BATCH)
        ]
        maps, weights, scores = (np.concatenate(part) for part in zip(*parts, strict=True))
        threshold = None
        if fitted is not None:
            structure = neighbourhood(fitted.support_scores.shape[1:])
            threshold = threshold_for(fitted.support_scores, 1.0, 2, structure)
        return Judgement(maps, weights, scores, threshold)

    def compare(self, query: Features, supports: Features) -> PictureComparison:
        """The detector's comparison of these queries, all against the same supports."""
        if self._pictures is not None:
            return self._pictures.compare(query, supports)
        count = len(query[0])
        together = [
            torch.cat([q[None], s[:, None].expand(-1, count, -1, -1, -1)])
            for q, s in zip(query, supports, strict=True)
        ]
        everywhere = torch.ones(len(supports[0]), count, *together[0].shape[-2:], dtype=torch.bool)
        full, reduced, _, weights = self._comparer.compare_features(together, everywhere, True)
        if reduced is None:
            return PictureComparison(full, None, None, (full, None), weights.mean(1), [])
        # The supports judge each other alike for every query: any one does.
        first = [f[:, :1] for f in together]
        left_out = self._comparer.compare_features(first, everywhere[:, :1])[2]
        assert left_out is not None
        own = left_out[:, 0]
        return PictureComparison(full, reduced, own, (reduced, own), weights.mean(1), [])

    def among(self, pictures: Features, pool: int) -> Among:
        """The comparison of some of the pictures with some of the first `pool` as supports, both by position:
        for many draws of the same pictures, whose distances do not depend on who else is a support."""
        if self._pictures is None:
            return lambda asked, chosen: self.compare(_of(pictures, asked), _of(pictures, chosen))
        comparer = self._pictures
        far = comparer.distances(pictures, [f[:pool] for f in pictures])

        def compare(asked: Positions, chosen: Positions) -> PictureComparison:
            rows, columns = torch.from_numpy(asked), torch.from_numpy(chosen)
            parts = [d[:, columns] for d in far]
            return comparer.judge([d[rows] for d in parts], [d[columns] for d in parts])

        return compare

    def pitch(self, shape: Sequence[int]) -> tuple[float, float, float]:
        """Pixels of one position of a map along slice, row and column."""
        height, width = shape[-2:]
        return 1.0, self.encoder.size / height, self.encoder.size / width

    def _calibrated(self, found: PictureComparison) -> Calibration | None:
        left_out = found.left_out
        if left_out is None:
            return None
        return calibrate(smooth(left_out.numpy(), SIGMA)[:, None], self.pitch(left_out.shape))

    def _judge(
        self, found: PictureComparison, fitted: Calibration | None
    ) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
        """Maps, weights and scores of a batch."""
        if fitted is None or found.reduced is None:
            scores = smooth(found.full.numpy(), SIGMA)
        else:
            pitch = self.pitch(found.reduced.shape)
            depth = depth_below_surface(np.ones((1, *found.reduced.shape[1:]), bool), pitch)
            scores = fitted.scores(smooth(found.reduced.numpy(), SIGMA), depth)
        maps = upsampled_sum([torch.from_numpy(scores)], (GRID, GRID)).numpy()
        judged = smooth(found.overall[0].numpy(), SIGMA)
        own = [study_score(PICTURE, z.ravel(), r.ravel()) for z, r in zip(scores, judged, strict=True)]
        weights = np.broadcast_to(found.weights.numpy(), (len(maps), found.weights.shape[-1]))
        return maps, weights, np.array(own, np.float32)

    def state_bytes(self, supports: Features) -> int:
        trained = [] if self._pictures is not None else [*self.model.student.state_dict().values()]
        return size_of([*trained, *supports])


def _of(features: Features, positions: Positions) -> Features:
    return [f[torch.from_numpy(positions)] for f in features]
