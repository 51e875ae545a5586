"""Does a series suit the detector, and does a reference suit a query: ok, warn or refuse, with reasons.

Differences that make the comparison meaningless are refused: another modality, another MR weighting,
the query itself. What a careful reader may accept is a warning. One check serves the command line, which
knows tags before it reads pixels, and the module, which holds volumes.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..imaging.volume import Volume
from .traits import Traits, traits_of_volume

_FEWEST_SLICES = 3
_MODALITIES = {"MR", "CT", "PT", "CR", "DX", "DR", "XR", "RF", "US", "MG", "NM", "XC", "OP", "SC", ""}
_SAMPLES = 200_000
# Mean difference of deciles. T1 of one protocol: 0.01 to 0.04; other protocols and preparations: 0.05 to 0.4.
_GREY_DISTANCE = 0.10


class Level(str, Enum):
    OK = "ok"
    WARN = "warn"
    REFUSE = "refuse"


@dataclass(frozen=True)
class Check:
    """A verdict and why; `refusals` weigh more than `warnings`."""

    refusals: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()

    @property
    def level(self) -> Level:
        if self.refusals:
            return Level.REFUSE
        return Level.WARN if self.warnings else Level.OK

    @property
    def reasons(self) -> tuple[str, ...]:
        return self.refusals + self.warnings

    def __str__(self) -> str:
        return self.level.value + (": " + "; ".join(self.reasons) if self.reasons else "")

    def __add__(self, other: Check) -> Check:
        return Check(_unique(self.refusals + other.refusals), _unique(self.warnings + other.warnings))


def _unique(reasons: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(reasons))


def check_alone(traits: Traits) -> Check:
    """Whether a series can be a query or a reference at all."""
    refusals, warnings = [], []
    if traits.derived in ("a localizer", "a screen shot"):
        refusals.append(f"{traits.derived}, not the images of the examination")
    elif traits.derived:
        warnings.append(f"{traits.derived}, not a plain acquisition")
    if traits.modality == "SR" or traits.modality not in _MODALITIES:
        refusals.append(f"modality {traits.modality} holds no images that can be compared")
    if traits.slices == 0:
        refusals.append("holds no images")
    elif traits.modality in ("MR", "CT", "PT") and traits.slices < _FEWEST_SLICES:
        warnings.append(f"{traits.slices} slices only")
    return Check(tuple(refusals), tuple(warnings))


def check_pair(query: Traits, reference: Traits) -> Check:
    """Whether a reference can be compared with a query, from what the tags and grids say."""
    refusals: list[str] = []
    warnings: list[str] = []
    if query.series_uid and query.series_uid == reference.series_uid:
        refusals.append("it is the query itself")
    elif query.study_uid and query.study_uid == reference.study_uid:
        warnings.append("it comes from the query's own study and may show the same disease")
    if query.modality and reference.modality and query.modality != reference.modality:
        refusals.append(f"modality {reference.modality}, the query's is {query.modality}")
    elif not (query.modality and reference.modality):
        warnings.append("the modality of one of them is not known")
    if query.color != reference.color:
        refusals.append("one is in colour and the other is not")
    if query.sequence and reference.sequence and query.sequence != reference.sequence:
        refusals.append(f"{reference.sequence} weighting, the query's is {query.sequence}")
    if query.derived != reference.derived:
        warnings.append(f"one is {query.derived or reference.derived}, the other is not")
    warnings += _contrast(query, reference)
    if query.kernel and reference.kernel and query.kernel != reference.kernel:
        warnings.append(f"{reference.kernel} kernel, the query's is {query.kernel}")
    if _named_part(query) and _named_part(reference) and _named_part(query) != _named_part(reference):
        warnings.append(f"body part {reference.body_part}, the query's is {query.body_part}")
    warnings += _acquisition(query, reference)
    _coverage(query, reference, refusals, warnings)
    return Check(tuple(refusals), tuple(warnings))


def _contrast(query: Traits, reference: Traits) -> list[str]:
    if (query.contrast is None and reference.contrast is None) or query.contrast == reference.contrast:
        return []
    shown = {True: "with contrast agent", False: "without contrast agent", None: "contrast agent not stated"}
    if True not in (query.contrast, reference.contrast):
        return []
    return [f"{shown[reference.contrast]}, the query: {shown[query.contrast]}"]


def _named_part(traits: Traits) -> str:
    """Body parts under one name (PS3.16 CID 4031 and what scanners write)."""
    part = "".join(c for c in traits.body_part.upper() if c.isalpha())
    return {"HEAD": "BRAIN", "SKULL": "BRAIN", "THORAX": "CHEST", "LUNG": "CHEST", "CSPINE": "SPINE"}.get(
        part, part
    )


def _acquisition(query: Traits, reference: Traits) -> list[str]:
    found = []
    for what, ours, theirs in (
        ("echo time", query.echo_time, reference.echo_time),
        ("repetition time", query.repetition_time, reference.repetition_time),
    ):
        if ours and theirs and max(ours, theirs) > 1.5 * min(ours, theirs):
            found.append(f"{what} {theirs:g} ms, the query's is {ours:g} ms")
    if query.field_strength and reference.field_strength:
        ours, theirs = query.field_strength, reference.field_strength
        if max(ours, theirs) > 1.6 * min(ours, theirs):
            found.append(f"{theirs:g} T, the query's field is {ours:g} T")
    if query.plane and reference.plane and query.plane != reference.plane:
        found.append(f"{reference.plane} slices, the query's are {query.plane}")
    if query.spacing and reference.spacing and min(query.slices, reference.slices) > 1:
        ours, theirs = query.spacing[2], reference.spacing[2]
        if theirs > 2 * ours:
            found.append(f"slices every {theirs:.1f} mm, the query's every {ours:.1f} mm")
    return found


def _coverage(query: Traits, reference: Traits, refusals: list[str], warnings: list[str]) -> None:
    if query.extent is None or reference.extent is None or min(query.slices, reference.slices) < 2:
        return
    for axis, ours, theirs in zip(
        ("left-right", "front-back", "head-foot"), query.extent, reference.extent, strict=True
    ):
        share = theirs / ours if ours > 0 else 1.0
        sentence = f"covers {theirs:.0f} mm {axis}, the query {ours:.0f} mm"
        if share < 0.25:
            refusals.append(sentence)
        elif share < 0.7:
            warnings.append(sentence)


def check_volumes(query: Volume, references: Sequence[Volume]) -> tuple[Check, ...]:
    """The verdict on each reference, from tags, grids and voxels."""
    ours = traits_of_volume(query)
    profile = _profile(query)
    own = _check_values(query)
    checks = []
    for reference in references:
        check = check_pair(ours, traits_of_volume(reference)) + _check_values(reference)
        distance = float(np.abs(profile - _profile(reference)).mean())
        if not query.is_color and ours.modality != "CT" and distance > _GREY_DISTANCE:
            check += Check(warnings=("its grey values are distributed otherwise than the query's",))
        checks.append(check + Check(tuple(f"the query: {r}" for r in own.refusals), ()))
    return tuple(checks)


def _check_values(volume: Volume) -> Check:
    values = _sample(volume)
    if values.size and values.min() == values.max():
        return Check(refusals=("every voxel has the same value",))
    if volume.info.modality == "CT" and values.size and values.min() > -200:
        return Check(warnings=("CT values without air: not in Hounsfield units, or cropped to the body",))
    return Check()


def _sample(volume: Volume) -> NDArray[Any]:
    flat = volume.array().reshape(-1)
    return flat[:: max(1, flat.size // _SAMPLES)].astype(np.float64)


def _profile(volume: Volume) -> NDArray[np.float64]:
    """Deciles of the foreground's values between its own extremes: the shape of the histogram."""
    values = _sample(volume)
    low, high = np.percentile(values, (1, 99))
    inside = values[values > low + 0.15 * (high - low)]
    if inside.size < 50 or high <= low:
        return np.zeros(9)
    bottom, top = np.percentile(inside, (2, 98))
    deciles = np.percentile(inside, np.arange(10, 100, 10))
    return np.asarray((deciles - bottom) / max(top - bottom, 1e-9)).clip(0, 1)
