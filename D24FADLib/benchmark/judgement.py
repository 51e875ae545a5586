"""What every method returns, and the image scores taken from it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor

from D24FADLib.benchmark.features import Features, ImageEncoder
from D24FADLib.network.model import upsampled_sum

GRID = 64  # pixels of an evaluated map's side
_SIGMA = GRID / 32  # the paper's 4 pixels of 128
_TOP_SHARE = 0.05
# Pixels of the supports' own maps, each against the others, that may exceed a method's threshold.
_CALIBRATION_QUANTILE = 0.98
SCORES = ("mean", "top5", "max")


@dataclass(frozen=True, eq=False)
class Judgement:
    """Anomaly maps (N, GRID, GRID) of N queries against one set of K supports.

    weights: (N, K), the share each support had, where a method weighs them. own: (N,), the method's own
    image score where it has one. threshold: on the maps, where the method brings its own.
    """

    maps: NDArray[np.float32]
    weights: NDArray[np.float32] | None = None
    own: NDArray[np.float32] | None = None
    threshold: float | None = None

    def scores(self) -> dict[str, NDArray[np.float32]]:
        """Image scores by name: mean, top5 (mean of the highest 5 % of pixels), max, and own."""
        flat = np.sort(self.maps.reshape(len(self.maps), -1), axis=1)
        top = max(1, round(_TOP_SHARE * flat.shape[1]))
        found = {"mean": flat.mean(1), "top5": flat[:, -top:].mean(1), "max": flat[:, -1]}
        return found if self.own is None else {**found, "own": self.own}


class Method(Protocol):
    """Judges queries by supports, from features of one encoder.

    name: of the row; size: input pixels. `judge` gives one judgement for each number of shots, K of
    them being the first K supports. `state_bytes`: weights of student and the like, and what is kept of
    K supports.
    """

    name: str

    @property
    def encoder(self) -> ImageEncoder: ...

    def judge(self, query: Features, supports: Features, shots: Sequence[int]) -> dict[int, Judgement]: ...

    def state_bytes(self, supports: Features) -> int: ...


def on_eval_grid(residuals: Sequence[Tensor]) -> NDArray[np.float32]:
    """Residual maps (N, h, w) of any grids: brought to GRID, added and smoothed as in the paper."""
    summed = upsampled_sum([r.float().cpu() for r in residuals], (GRID, GRID)).numpy()
    return np.asarray(ndimage.gaussian_filter(summed, (0, _SIGMA, _SIGMA)), np.float32)


def for_each_shot(
    shots: Sequence[int], supports: Features, judge: Callable[[Features], Judgement]
) -> dict[int, Judgement]:
    """`judge` with the first K supports, for each K."""
    with torch.inference_mode():
        return {k: judge([f[:k] for f in supports]) for k in shots}


def calibrated_threshold(method: Method, supports: Features, judged: Judgement) -> float | None:
    """The method's own threshold, or the 98th percentile of the supports' maps, each against the others.

    None where there is no other support.
    """
    if judged.threshold is not None:
        return judged.threshold
    count = len(supports[0])
    if count < 2:
        return None
    maps = []
    for out in range(count):
        others = [torch.cat([f[:out], f[out + 1 :]]) for f in supports]
        alone = [f[out : out + 1] for f in supports]
        maps.append(method.judge(alone, others, [count - 1])[count - 1].maps)
    return float(np.quantile(np.concatenate(maps), _CALIBRATION_QUANTILE))


def size_of(tensors: Sequence[Tensor]) -> int:
    """Bytes in the precision that they are held in."""
    return sum(t.numel() * t.element_size() for t in tensors)
