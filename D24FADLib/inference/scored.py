"""From residuals to calibrated scores, their threshold and their meaning."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri

from D24FADLib.inference.calibration import (
    Calibration,
    calibrate,
    depth_below_surface,
    findings_above,
    robust_maximum,
    smooth,
    threshold_for,
)
from D24FADLib.inference.findings import neighbourhood
from D24FADLib.inference.outliers import compact_departures, map_scores
from D24FADLib.inference.predictive import Unusual, unusual
from D24FADLib.inference.preparation import on_grid
from D24FADLib.inference.study_score import FUSED, kind_of, study_score
from D24FADLib.inference.volumes import pitch_of

if TYPE_CHECKING:
    from D24FADLib.inference.comparison import Comparison
    from D24FADLib.inference.detection import Finding
    from D24FADLib.inference.preparation import Prepared
    from D24FADLib.inference.priors import Priors

_SHARES = {"5 %": 0.05, "1 %": 0.01}  # of a normal study's positions


class Scored:
    """Residuals of the box turned into scores, all on the feature grid (n, h, w).

    scores, residual: the map, and the smoothed residual against all references. calibration: None for K = 1.
    support_scores: (K, n, h, w), each reference's own map, judged by the others; None for K = 1. parts: the
    map of each kind of evidence alone, where it was fused (`volumes`). score: the study's, as the reader sees
    it. map_scores: log mean residual of each reference; compact: see `outliers.compact_departures`.
    """

    def __init__(self, prepared: Prepared, compared: Comparison, priors: Priors) -> None:
        self._priors = priors
        grid = compared.full.shape
        self.pitch = pitch_of(prepared, grid)
        # One feature position is the paper's sigma of 4 pixels; across slices the same distance, one
        # slice at most, so that thin findings in thick slices survive.
        in_plane = (self.pitch[1] + self.pitch[2]) / 2
        sigma = (min(in_plane / self.pitch[0], 1.0) if grid[0] > 1 else 0.0, 1.0, 1.0)
        smoothed_as = partial(smooth, sigma=sigma) if compared.normal is None else np.asarray
        # With less than half of the references there, nothing of what follows would hold.
        reached = compared.covered >= max(1, (compared.weights.shape[-1] + 1) // 2)
        inside = on_grid(prepared.body, prepared.box, grid[1:])
        self.unjudged = float((inside & ~reached).sum() / max(inside.sum(), 1))
        self.body = inside & reached
        full = np.where(reached, compared.full, np.nan).astype(np.float32)
        self.residual = np.nan_to_num(smoothed_as(full))
        self.calibration: Calibration | None = None
        self.support_scores: NDArray[np.float32] | None = None
        self.parts: dict[str, NDArray[np.float32]] = {}
        self.map_scores: list[float] = []
        self.compact: list[float] = []
        scores = self.residual
        if compared.left_out is not None and compared.reduced is not None:
            left_out = np.stack([smoothed_as(one) for one in compared.left_out])
            normal = compared.normal
            self.calibration = (
                calibrate(left_out, self.pitch, priors.knots_for(len(left_out)))
                if normal is None
                else normal.calibration
            )
            # Where one support reaches, K - 1 of them may be none: there the full comparison has to do.
            smoothed = smoothed_as(np.where(compared.covered > 1, compared.reduced, full))
            depth = depth_below_surface(inside, self.pitch)
            scores = np.nan_to_num(self.calibration.scores(smoothed, depth))
            self.support_scores = self.calibration.support_scores
            self.map_scores = map_scores(left_out)
            self._kind = kind_of(grid[0])
            if normal is not None:
                self._kind = FUSED
                scores, self.parts = normal.map_of(scores, compared.appearance, self.body, self.pitch)
                self.support_scores = normal.support_scores
                self.compact = compact_departures(self.support_scores, self.pitch)
            valid = ~np.isnan(left_out)
            if compared.overall is not None and compared.overall[1] is not None:
                smoothed, left_out = (
                    smooth(compared.overall[0], sigma),
                    np.stack([smooth(one, sigma) for one in compared.overall[1]]),
                )
            self._own = [
                study_score(self._kind, z[inside_k], one[inside_k])
                for z, one, inside_k in zip(self.support_scores, left_out, valid, strict=True)
            ]
            self._judged = np.nan_to_num(smoothed)[self.body]
        self.scores = np.where(self.body, scores, 0).astype(np.float32)
        self.score = robust_maximum(self.scores[self.body])

    @property
    def min_volume_ml(self) -> float:
        """One feature position and slice: what is smaller is not resolved."""
        return float(np.prod(self.pitch)) / 1000.0

    def threshold(self, false_positives: float) -> float:
        if self.support_scores is None:
            # Without a second reference only the study itself says what is usual in it.
            values = self.scores[self.body]
            if not values.size:
                return 1.0
            middle = float(np.median(values))
            return middle + 6.0 * 1.4826 * float(np.median(np.abs(values - middle)))
        budget = false_positives / self._findings
        return threshold_for(self.support_scores, budget, 2, neighbourhood(self.scores.shape))

    @property
    def _findings(self) -> float:
        """Findings that a further normal study has for each one of a reference."""
        return 1.0 if self.parts else self._priors.findings

    def heights(self) -> dict[str, float]:
        """What 5 % and 1 % of a normal study's positions exceed; empty where not calibrated."""
        if self.support_scores is None:
            return {}
        if not self.parts:  # z keeps its word
            return {name: float(ndtri(1 - share)) for name, share in _SHARES.items()}
        values = self.support_scores[:, self.body]
        return {
            name: float(np.quantile(values, 1 - share)) if values.size else 0.0
            for name, share in _SHARES.items()
        }

    def unusual(self) -> Unusual | None:
        """Where the study's score lies among the references' own."""
        if self.support_scores is None:
            return None
        own = study_score(self._kind, self.scores[self.body], self._judged)
        return unusual(own, self._own, self._priors.score(self._kind, len(self._own)))

    def rated(self, findings: Sequence[Finding]) -> tuple[Finding, ...]:
        """The findings with the number of as high ones that a normal study has."""
        if self.support_scores is None:
            return tuple(findings)
        structure = neighbourhood(self.scores.shape)
        own = self.support_scores
        # None in K studies says no more than half a one in K.
        rates = [
            max(findings_above(own, f.peak, 2, structure), 0.5 / len(own)) * self._findings for f in findings
        ]
        return tuple(replace(f, false_positives=rate) for f, rate in zip(findings, rates, strict=True))
