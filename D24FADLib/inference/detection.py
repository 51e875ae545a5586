"""What a detection is: the volumes, scores and findings that `detect` returns."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from D24FADLib.imaging.planes import Plane
from D24FADLib.imaging.volume import Volume
from D24FADLib.inference.checks import REFUSE, Check


@dataclass(frozen=True)
class Finding:
    """A candidate: one connected component of the map above the threshold. Rank 1 is the strongest.

    false_positives: how many findings with a peak this high a normal study has on average, as far as the
    references tell; None where the map is not calibrated. What explains it (`explain`), of the ten strongest:
    weights: of each reference in its slice; residuals: 1 - cosine of the teacher's features at its peak to
    the nearest reference, at strides 4, 8 and 16; nearest_reference: the one most like it there, counted
    from 1. Of volumes whose map is fused (`fusion`), of all findings: departs_by: the kinds of evidence that
    it rests on, the strongest first ("darker", "texture"; than the references); departures: the map of each
    kind alone at its peak, in the order of `Detection.kinds`. Of single images, whose thickness nobody knows
    (`volume_ml` takes the header's, or 1 mm): pixels, and area_mm2 where their size is known.
    """

    rank: int
    peak: float
    mean: float
    volume_ml: float
    center_ras: tuple[float, float, float]  # mm, of the score-weighted centre
    peak_ras: tuple[float, float, float]  # mm, of the highest voxel
    slice: int  # of the highest voxel, along the query's own array axis of the plane
    false_positives: float | None = None
    weights: tuple[float, ...] = ()
    residuals: tuple[float, ...] = ()
    nearest_reference: int | None = None
    departs_by: tuple[str, ...] = ()
    departures: tuple[float, ...] = ()
    pixels: int | None = None
    area_mm2: float | None = None

    @property
    def size(self) -> tuple[float, str]:
        """What it measures, and the unit: ml; of single images mm2, or px where that is not known."""
        if self.area_mm2 is not None:
            return self.area_mm2, "mm2"
        return (self.volume_ml, "ml") if self.pixels is None else (self.pixels, "px")

    @property
    def size_text(self) -> str:
        """The number of `size`."""
        value, unit = self.size
        return f"{value:.0f}" if unit == "px" else f"{value:.2f}"


@dataclass(frozen=True)
class SliceScore:
    """One slice of the query. `index` counts along the query's own array axis of the plane."""

    index: int
    peak: float  # highest score in the slice
    mean: float  # mean score over the body in the slice, 0 where there is none
    weights: tuple[float, ...]  # one per support, mean over the scales; NaN where nothing was compared


@dataclass(frozen=True)
class SupportReport:
    """How a support fared: alignment, its mean weight, and its own score against the other supports.

    outlier_t: how far it stands out, in standard deviations of the others (None with fewer than two others);
    dropped: it was left out of the comparison.
    """

    name: str
    similarity: float
    overlap: float
    mean_weight: float
    leave_one_out_score: float | None  # None with fewer than two other supports
    stands_out: bool
    note: str = ""
    outlier_t: float | None = None
    dropped: bool = False


@dataclass(frozen=True)
class Detection:
    """The result of `detect`. Every volume lies on exactly the query's grid.

    `anomaly_map` is in standard deviations of the references' own variation where `calibrated`, else
    the raw residual; with `kinds` of evidence, in units in which 4 is a reference's own strongest departure
    from the others. `heights` are what 5 % and 1 % of a normal study's positions exceed in it. `labels`
    (k, j, i) holds each finding's rank, 0 elsewhere. `score` is the study's score, the map's robust maximum.
    `p_value` is the share of normal studies that score at least this high, `p_value_low` at most this high
    (an unusually bland study); None where not calibrated. `checks` say what speaks against trusting the run,
    `warnings` the same in sentences. `record` is run.json.
    """

    query: Volume
    plane: Plane
    anomaly_map: Volume
    residual_map: Volume
    weights: tuple[Volume, ...]
    expected_normal: Volume
    labels: NDArray[np.uint16]
    findings: tuple[Finding, ...]
    slices: tuple[SliceScore, ...]
    supports: tuple[SupportReport, ...]
    threshold: float
    calibrated: bool
    score: float
    warnings: tuple[str, ...]
    record: dict[str, Any]
    min_volume_ml: float = 0.0  # a smaller component is no finding
    checks: tuple[Check, ...] = ()
    p_value: float | None = None
    p_value_low: float | None = None
    kinds: tuple[str, ...] = ()
    heights: dict[str, float] = field(default_factory=dict)

    @property
    def suitable(self) -> bool:
        """False where no findings are given because the study does not resemble its references or is
        empty."""
        return not any(check.severity == REFUSE for check in self.checks)
