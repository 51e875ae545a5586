"""The number that says how unusual a whole study is, computed alike for the study and for its references.

A picture's is the log of the mean of its highest residuals, uncorrected by place: references of unaligned
pictures say little about single places. A volume's is the robust maximum of its calibrated map: lesions
are small. Fused maps (`volumes`) are scored as a volume's, but are a kind of their own: what other organs
say of a volume's z does not hold for them.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from D24FADLib.inference.calibration import robust_maximum

PICTURE, VOLUME, FUSED = "picture", "volume", "fused volume"
_TOP_SHARE = 0.25
_FLOOR = 1e-3


def kind_of(slices: int) -> str:
    return PICTURE if slices == 1 else VOLUME


def study_score(kind: str, scores: NDArray[np.float32], residual: NDArray[np.float32]) -> float:
    """Of the calibrated scores and the smoothed residuals at the body's positions, (N,) each; 0 for none."""
    if not residual.size:
        return 0.0
    if kind != PICTURE:
        return robust_maximum(scores)
    top = max(1, round(_TOP_SHARE * residual.size))
    return float(np.log(max(float(np.partition(residual, -top)[-top:].mean()), _FLOOR)))
