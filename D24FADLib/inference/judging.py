"""Query and references compared, references checked against each other, and again without those that do
not belong."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from D24FADLib.inference.checks import (
    INFO,
    REFUSE,
    WARN,
    Check,
    check_alignment,
    check_patients,
    from_warnings,
)
from D24FADLib.inference.detection import SupportReport
from D24FADLib.inference.dropping import among_all, only
from D24FADLib.inference.duplicates import check_copies, repeated
from D24FADLib.inference.mirrored import check_mirrored
from D24FADLib.inference.outliers import MAP, WHOLE, check_outliers, standing_out
from D24FADLib.inference.quality import check_quality
from D24FADLib.inference.resemblance import check_resemblance, describe, mean_logs
from D24FADLib.inference.scored import Scored

if TYPE_CHECKING:
    from D24FADLib.imaging.volume import Volume
    from D24FADLib.inference.comparison import Comparer, Comparison
    from D24FADLib.inference.preparation import Prepared
    from D24FADLib.inference.priors import Priors

ITSELF = "the study itself"
_UNJUDGED = 0.02  # share of the body from which on the reader is told
_FEWEST = 2  # references that outliers leave


@dataclass(frozen=True, eq=False)
class Judged:
    """compared, scored: with the `kept` references. outlier_t: of each reference (NaN where it has none),
    as it stood among those it was judged with; dropped: outliers and repeated ones."""

    query: Volume
    supports: Sequence[Volume]
    prepared: Prepared
    compared: Comparison
    scored: Scored
    kept: list[int]
    outlier_t: list[float]
    observed: list[Check]

    def checks(self, warnings: Sequence[str], unlearned: str = "") -> list[Check]:
        """Everything observed, the gravest first; `warnings` are those of preparation and comparison,
        `unlearned` says why the model has no calibration of its own."""
        names = [s.name for s in self.supports]
        found = [
            replace(check, code="duplicate", value=1.0) if ITSELF in check.message else check
            for check in from_warnings(warnings, names)
        ]
        copies = {check.subject for check in found if check.code == "duplicate"}
        found += [c for c in self.observed if not (c.code == "duplicate" and c.subject in copies)]
        if self.scored.unjudged > _UNJUDGED:
            found.append(
                Check(
                    "unjudged", WARN, "query",
                    f"{self.scored.unjudged:.0%} of the study's body was not judged: fewer than half of the "
                    "references reach it.",
                    self.scored.unjudged,
                )
            )  # fmt: skip
        if self.scored.calibration is None:
            text = "The map is a raw residual: a meaning needs at least two references."
            found.append(Check("uncalibrated", WARN, "query", text, float(len(self.kept))))
        if unlearned:
            found.append(Check("unlearned", INFO, "query", unlearned))
        gravity = (REFUSE, WARN, INFO)
        return sorted(found, key=lambda check: gravity.index(check.severity))

    def reports(self) -> tuple[SupportReport, ...]:
        """One for each reference, left out or not."""
        weights = among_all(self.compared.weights.mean(axis=(0, 1)), self.kept, len(self.supports))
        own: list[float | None] = [None] * len(self.supports)
        if self.scored.support_scores is not None and len(self.kept) > 2:
            for k, maps in zip(self.kept, self.scored.support_scores, strict=True):
                own[k] = float(maps[self.scored.body].mean())
        out = {check.subject for check in self.observed if check.code == "stands-out"}
        return tuple(
            SupportReport(
                support.name, moved.similarity, moved.overlap, float(weights[k]), own[k], k + 1 in out,
                moved.note, None if np.isnan(self.outlier_t[k]) else self.outlier_t[k], k not in self.kept,
            )
            for k, (support, moved) in enumerate(zip(self.supports, self.prepared.aligned, strict=True))
        )  # fmt: skip


def judge(
    query: Volume,
    supports: Sequence[Volume],
    prepared: Prepared,
    comparer: Comparer,
    priors: Priors,
    drop_outliers: bool,
    compare: Callable[[Prepared], Comparison],
) -> Judged:
    """Compare, and check what can be checked; copies of a reference count once.

    With `drop_outliers` the reference that stands out most is left out and the rest compared anew, as long
    as one does and two are left.
    """
    names = [s.name for s in supports]
    again = repeated(supports)
    kept = [k for k in range(len(supports)) if k not in again]
    vectors = None
    if priors.resemblance is not None:
        vectors = describe(prepared, comparer.model, priors.resemblance, comparer.device)
    numbers = [float("nan")] * len(supports)
    dropped: list[Check] = []
    while True:
        part = only(prepared, kept)
        compared = compare(part)
        scored = Scored(part, compared, priors)
        by_name = {MAP: scored.map_scores}
        if vectors is not None:
            by_name[WHOLE] = mean_logs(vectors[1:][kept]).tolist()
        t = standing_out(by_name, priors, scored.compact)
        for k, value in zip(kept, t or (), strict=False):
            numbers[k] = value
        if not (drop_outliers and t and max(t) > priors.outlier_limit and len(kept) > _FEWEST):
            break
        worst = kept.pop(int(np.argmax(t)))
        text = f"{names[worst]} stands out against the other references and was left out."
        dropped.append(Check("dropped", WARN, worst + 1, text, numbers[worst]))
    looked_at = [0, *(k + 1 for k in kept)]
    observed = [
        *(
            check_resemblance(query.name, vectors[looked_at], priors.resemblance)
            if vectors is not None and priors.resemblance is not None
            else []
        ),
        *check_quality(query, supports, prepared.plane),
        *check_patients(query, supports),
        *check_copies(query, supports, prepared.query, prepared.supports),
        *check_outliers(names, numbers, priors.outlier_limit),
        *dropped,
        *check_alignment(names, prepared.aligned),
        *check_mirrored(names, prepared.query, prepared.supports, prepared.plane),
    ]
    return Judged(query, supports, prepared, compared, scored, kept, numbers, observed)
