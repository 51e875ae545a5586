"""Does a study suit the detector, and a reference a study: ok, warn or refuse, with reasons.

The one set of rules, for the command line and the module alike. They know nothing of files, DICOM or scenes:
`traits` describes each of these. Differences that make a comparison meaningless are refused (another
modality, another MR weighting, the study itself); what a careful reader may accept is a warning.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import Enum

import numpy as np

from .kinds import body_part_family, modality_family
from .traits import Traits, plane_of

_FEWEST_SLICES = 3
_FINEST, _COARSEST = 1e-3, 100.0  # mm of a voxel that are plausible: a microscope's, and none
_SAME_VIEW_DEGREES = 35.0
# Shares of the study's extent that a reference covers.
_REFUSED_EXTENT, _WARNED_EXTENT = 0.25, 0.7
_NOT_AIR_HU = -200.0
# Mean difference of deciles. T1 of one protocol: 0.01 to 0.04; other protocols and preparations: 0.05 to 0.4.
_GREY_DISTANCE = 0.10
_IMAGES = {"MR", "CT", "PT", "DX", "RF", "US", "MG", "NM", "XA", "XC", "OP", "SC", "OT", "GM", "SM", "ES", ""}
_SECTIONS = {"MR", "CT", "PT", "NM"}


class Level(str, Enum):
    OK = "ok"
    WARN = "warn"
    REFUSE = "refuse"


class Kind(str, Enum):
    """What a reason is about. `Reason.text` says it in English; applications may use their own words."""

    MISSING = "missing"
    CONTENT = "content"
    GEOMETRY = "geometry"
    FEW_SLICES = "few slices"
    CONSTANT = "constant"
    NOT_HOUNSFIELD = "not Hounsfield units"
    DERIVED = "derived"
    ITSELF = "the study itself"
    SAME_STUDY = "same study"
    MODALITY = "modality"
    MODALITY_UNKNOWN = "modality unknown"
    COLOR = "colour"
    SINGLE_IMAGE = "single image"
    SEQUENCE = "sequence"
    CONTRAST_AGENT = "contrast agent"
    KERNEL = "kernel"
    BODY_PART = "body part"
    VIEW = "view"
    ECHO_TIME = "echo time"
    REPETITION_TIME = "repetition time"
    FIELD_STRENGTH = "field strength"
    ORIENTATION = "orientation"
    SLICE_DISTANCE = "slice distance"
    COVERAGE = "coverage"
    GREY_VALUES = "grey values"


_TEXTS = {
    Kind.MISSING: "{reference}",
    Kind.CONTENT: "{reference}",
    Kind.GEOMETRY: "{reference}",
    Kind.FEW_SLICES: "slices: {reference} only",
    Kind.CONSTANT: "every voxel has the same value",
    Kind.NOT_HOUNSFIELD: "CT values without air: not in Hounsfield units, or cropped to the body",
    Kind.DERIVED: "{reference}, the study is {study}",
    Kind.ITSELF: "it is the study itself, which hides whatever is abnormal in it",
    Kind.SAME_STUDY: "it comes from the patient's same examination and may show the same disease",
    Kind.MODALITY: "modality {reference}, the study's is {study}",
    Kind.MODALITY_UNKNOWN: "the modality of one of them is not known",
    Kind.COLOR: "{reference}, the study is {study}",
    Kind.SINGLE_IMAGE: "{reference}, the study is {study}",
    Kind.SEQUENCE: "{reference} weighting, the study's is {study}",
    Kind.CONTRAST_AGENT: "{reference}, the study: {study}",
    Kind.KERNEL: "{reference} kernel, the study's is {study}",
    Kind.BODY_PART: "body part {reference}, the study's is {study}",
    Kind.VIEW: "view {reference}, the study's is {study}",
    Kind.ECHO_TIME: "echo time {reference}, the study's is {study}",
    Kind.REPETITION_TIME: "repetition time {reference}, the study's is {study}",
    Kind.FIELD_STRENGTH: "{reference}, the study's field is {study}",
    Kind.ORIENTATION: "{reference} slices, the study's are {study}",
    Kind.SLICE_DISTANCE: "slices every {reference}, the study's every {study}",
    Kind.COVERAGE: "covers {reference}, the study {study}",
    Kind.GREY_VALUES: "its grey values are distributed otherwise than the study's",
}
# No run is possible, whatever the reader decides.
_IMPOSSIBLE = {Kind.MISSING, Kind.COLOR, Kind.SINGLE_IMAGE}


@dataclass(frozen=True)
class Reason:
    """One reason, with the study's and the reference's side of it in words."""

    kind: Kind
    level: Level
    study: str = ""
    reference: str = ""

    @property
    def text(self) -> str:
        return _TEXTS[self.kind].format(study=self.study, reference=self.reference)

    @property
    def impossible(self) -> bool:
        """True where a comparison cannot be made at all; other refusals may be overruled."""
        return self.level is Level.REFUSE and self.kind in _IMPOSSIBLE

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True)
class Check:
    """A verdict and why, refusals first."""

    reasons: tuple[Reason, ...] = ()

    @property
    def level(self) -> Level:
        levels = {reason.level for reason in self.reasons}
        return next((level for level in (Level.REFUSE, Level.WARN) if level in levels), Level.OK)

    @property
    def refusals(self) -> tuple[Reason, ...]:
        return tuple(r for r in self.reasons if r.level is Level.REFUSE)

    @property
    def warnings(self) -> tuple[Reason, ...]:
        return tuple(r for r in self.reasons if r.level is Level.WARN)

    def __str__(self) -> str:
        return self.level.value + (": " + "; ".join(map(str, self.reasons)) if self.reasons else "")

    def __add__(self, other: Check) -> Check:
        return verdict([*self.reasons, *other.reasons])


def verdict(reasons: Iterable[Reason]) -> Check:
    """A check of these reasons, each once, refusals first."""
    unique = dict.fromkeys(reasons)
    return Check(tuple(sorted(unique, key=lambda reason: reason.level is not Level.REFUSE)))


def refuse(kind: Kind, study: str = "", reference: str = "") -> Reason:
    return Reason(kind, Level.REFUSE, study, reference)


def warn(kind: Kind, study: str = "", reference: str = "") -> Reason:
    return Reason(kind, Level.WARN, study, reference)


def check_alone(traits: Traits) -> Check:
    """Whether a series can be a study or a reference at all."""
    return verdict(_alone(traits))


def check_pair(study: Traits, reference: Traits) -> Check:
    """Whether a reference can be compared with a study; from tags, grids and, where known, voxels."""
    return verdict([*_identity(study, reference), *_images(study, reference), *_protocol(study, reference),
                    *_placement(study, reference), *_values(study, reference)])  # fmt: skip


def check_references(study: Traits, references: Sequence[Traits]) -> tuple[Check, ...]:
    """The verdict on each reference: it alone and against the study."""
    return tuple(check_alone(reference) + check_pair(study, reference) for reference in references)


def _alone(traits: Traits) -> Iterator[Reason]:
    family = modality_family(traits.modality)
    if traits.derived in ("a localizer", "a screen shot"):
        yield refuse(Kind.CONTENT, reference=f"{traits.derived}, not the images of the examination")
    elif traits.derived:
        yield warn(Kind.CONTENT, reference=f"{traits.derived}, not a plain acquisition")
    if family not in _IMAGES:
        yield refuse(
            Kind.CONTENT, reference=f"modality {traits.modality} holds no images that can be compared"
        )
    if traits.slices == 0:
        yield refuse(Kind.CONTENT, reference="holds no images")
    elif family in _SECTIONS and traits.slices < _FEWEST_SLICES:
        yield warn(Kind.FEW_SLICES, reference=str(traits.slices))
    if traits.slices > 1 and traits.spacing and not all(_FINEST <= mm <= _COARSEST for mm in traits.spacing):
        shown = " x ".join(f"{mm:.4g}" for mm in traits.spacing)
        yield warn(Kind.GEOMETRY, reference=f"voxels of {shown} mm are hardly true; correct the header")
    if traits.voxels and traits.voxels.constant:
        yield refuse(Kind.CONSTANT)
    elif traits.voxels and family == "CT" and traits.voxels.lowest > _NOT_AIR_HU:
        yield warn(Kind.NOT_HOUNSFIELD)


def _identity(study: Traits, reference: Traits) -> Iterator[Reason]:
    if study.voxels and reference.voxels:
        # A series may hold several volumes, and a copy may have another UID.
        itself = study.voxels.digest == reference.voxels.digest
    else:
        itself = bool(study.series_uid) and study.series_uid == reference.series_uid
    if itself:
        yield refuse(Kind.ITSELF)
    elif study.study_uid and study.study_uid == reference.study_uid:
        yield warn(Kind.SAME_STUDY)


def _images(study: Traits, reference: Traits) -> Iterator[Reason]:
    if study.color != reference.color:
        shown = ("not in colour", "a colour picture")
        yield refuse(Kind.COLOR, shown[study.color], shown[reference.color])
    if reference.slices == 1 and study.slices > 1:
        yield refuse(Kind.SINGLE_IMAGE, "a volume", "a single image")
    if study.modality and reference.modality:
        if modality_family(study.modality) != modality_family(reference.modality):
            yield refuse(Kind.MODALITY, study.modality, reference.modality)
    elif study.modality or reference.modality:
        yield warn(Kind.MODALITY_UNKNOWN)
    if study.derived != reference.derived:
        plain = "a plain acquisition"
        yield warn(Kind.DERIVED, study.derived or plain, reference.derived or plain)


def _protocol(study: Traits, reference: Traits) -> Iterator[Reason]:
    if not {modality_family(study.modality), modality_family(reference.modality)} <= {"MR", ""}:
        pass
    elif study.sequence and reference.sequence:
        if study.sequence != reference.sequence:
            yield refuse(Kind.SEQUENCE, study.sequence, reference.sequence)
    else:
        ours, theirs = (t.sequence or t.said_sequence for t in (study, reference))
        # A name may be wrong, and SWI is a T2* image.
        if ours and theirs and ours != theirs and {ours, theirs} != {"SWI", "T2*"}:
            yield warn(Kind.SEQUENCE, ours, theirs)
    if study.contrast != reference.contrast and True in (study.contrast, reference.contrast):
        shown = {
            True: "with contrast agent",
            False: "without contrast agent",
            None: "contrast agent not stated",
        }
        yield warn(Kind.CONTRAST_AGENT, shown[study.contrast], shown[reference.contrast])
    for kind, ours, theirs in (
        (Kind.KERNEL, study.kernel, reference.kernel),
        (Kind.VIEW, study.view, reference.view),
    ):
        if ours and theirs and ours != theirs:
            yield warn(kind, ours, theirs)
    parts = body_part_family(study.body_part), body_part_family(reference.body_part)
    if all(parts) and parts[0] != parts[1]:
        yield warn(Kind.BODY_PART, study.body_part, reference.body_part)
    for kind, first, second, most, unit in (
        (Kind.ECHO_TIME, study.echo_time, reference.echo_time, 1.5, "ms"),
        (Kind.REPETITION_TIME, study.repetition_time, reference.repetition_time, 1.5, "ms"),
        (Kind.FIELD_STRENGTH, study.field_strength, reference.field_strength, 1.6, "T"),
    ):
        if first and second and max(first, second) > most * min(first, second):
            yield warn(kind, f"{first:g} {unit}", f"{second:g} {unit}")


def _placement(study: Traits, reference: Traits) -> Iterator[Reason]:
    if study.normal is not None and reference.normal is not None:
        cosine = abs(float(np.dot(study.normal, reference.normal)))
        if np.degrees(np.arccos(min(1.0, cosine))) > _SAME_VIEW_DEGREES:
            ours, theirs = plane_of(study.normal), plane_of(reference.normal)
            yield warn(Kind.ORIENTATION, ours, theirs if ours != theirs else f"otherwise {theirs}")
    if min(study.slices, reference.slices) < 2:
        return
    if study.spacing and reference.spacing and reference.spacing[2] > 2 * study.spacing[2]:
        yield warn(Kind.SLICE_DISTANCE, f"{study.spacing[2]:.1f} mm", f"{reference.spacing[2]:.1f} mm")
    if study.extent is None or reference.extent is None:
        return
    axes = ("left-right", "front-back", "head-foot")
    for axis, whole, covered in zip(axes, study.extent, reference.extent, strict=True):
        share = covered / whole if whole > 0 else 1.0
        level = Level.REFUSE if share < _REFUSED_EXTENT else Level.WARN
        if share < _WARNED_EXTENT:
            yield Reason(Kind.COVERAGE, level, f"{whole:.0f} mm", f"{covered:.0f} mm {axis}")


def _values(study: Traits, reference: Traits) -> Iterator[Reason]:
    ours, theirs = study.voxels, reference.voxels
    if not (ours and theirs and ours.profile and theirs.profile) or study.color or study.slices < 2:
        return
    if study.modality != "CT" and np.abs(np.subtract(ours.profile, theirs.profile)).mean() > _GREY_DISTANCE:
        yield warn(Kind.GREY_VALUES)
