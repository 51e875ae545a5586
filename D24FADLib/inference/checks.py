"""What speaks against trusting a run: each check a finding of its own, in run.json and one line to the user.

`code` is stable and meant for programs; `message` is for the reader. `subject` is "query" or the number of a
reference, counted from 1. `value` is the number that the check looked at, None where it has none.

| code | severity | value |
| --- | --- | --- |
| stands-out | warn | z of the reference's own score among the references (`outliers`) |
| dropped | info | the same z: the reference was left out as an outlier or a copy |
| duplicate | warn | 1 for equal voxels, else the correlation of the finest detail (`duplicates`) |
| same-patient | warn | - |
| alignment | warn | similarity or overlap after registration |
| noise, blur | warn | ratio to the references' median (`quality`) |
| empty | refuse | share of the image that is no air |
| unsuitable | refuse | distance to the nearest reference over the largest usual one (`resemblance`) |
| mirrored | warn | correlation of left-right asymmetries (`mirrored`) |
| unlearned | info | - |
| uncalibrated | warn | number of different references |
| unjudged | info | share of the body that was not judged |
| input | warn | what tags, grids and grey values say |
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from D24FADLib.imaging.alignment import Alignment

if TYPE_CHECKING:
    from D24FADLib.imaging.alignment import AlignedSupport
    from D24FADLib.imaging.volume import Volume

INFO, WARN, REFUSE = "info", "warn", "refuse"
QUERY = "query"
_LESS_SIMILAR = 0.6  # of the other references' median similarity after alignment
_LESS_OVERLAP = 0.75  # of their median overlap


@dataclass(frozen=True)
class Check:
    """One observation about the query or a reference; see the module's table."""

    code: str
    severity: str
    subject: str | int
    message: str
    value: float | None = None


def as_records(checks: Iterable[Check]) -> list[dict[str, Any]]:
    """For run.json."""
    return [asdict(check) for check in checks]


def from_warnings(warnings: Sequence[str], names: Sequence[str]) -> list[Check]:
    """Warnings of preparation and comparison as checks; the subject is the reference they begin with."""
    found = []
    for text in warnings:
        numbers = [n for n, name in enumerate(names, start=1) if re.match(re.escape(name) + r"\b", text)]
        found.append(Check("input", WARN, numbers[0] if len(numbers) == 1 else QUERY, text))
    return found


def check_patients(query: Volume, supports: Sequence[Volume]) -> list[Check]:
    """References that are other series of the query's own patient: the same disease may be in them."""
    own = query.info.patient_key
    return [
        Check(
            "same-patient", WARN, k,
            f"{support.name} shows the study's own patient: what is abnormal in both will not be found.",
        )
        for k, support in enumerate(supports, start=1)
        if own and support.info.patient_key == own
    ]  # fmt: skip


def check_alignment(names: Sequence[str], aligned: Sequence[AlignedSupport]) -> list[Check]:
    """References that registration left less alike, or covering less, than the others of the same run.

    A fallback that registration itself reports has its own warning and is not repeated here.
    """
    registered = [k for k, a in enumerate(aligned) if a.method in (Alignment.RIGID, Alignment.AFFINE)]
    if len(registered) < 3:
        return []
    found = []
    for k in registered:
        others = [aligned[j] for j in registered if j != k]
        for what, value, usual, least in (
            ("similarity", aligned[k].similarity, np.median([a.similarity for a in others]), _LESS_SIMILAR),
            ("overlap", aligned[k].overlap, np.median([a.overlap for a in others]), _LESS_OVERLAP),
        ):
            if value < least * usual:
                found.append(
                    Check(
                        "alignment", WARN, k + 1,
                        f"{names[k]} did not align as the other references did ({what} {value:.2f}, the "
                        f"others {usual:.2f}): another field of view, or a failed registration?",
                        float(value),
                    )
                )  # fmt: skip
                break
    return found
