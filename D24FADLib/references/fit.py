"""Does a reference fit a study? Judged on what is known before any voxel is read."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum

import numpy as np

_SAME_VIEW_DEGREES = 35.0
_LEAST_SHARED_EXTENT = 0.6
_CONTRAST_WORDS = ("t1", "t2", "flair", "dwi", "adc", "pd", "swi", "stir")
_ENHANCED_WORDS = ("gd", "gad", "contrast", "post", "+c", "ce", "km")


class Misfit(str, Enum):
    """A reason why a comparison may mean little."""

    MODALITY = "modality"
    BODY_PART = "body part"
    CONTRAST = "contrast"
    ENHANCEMENT = "contrast agent"
    ORIENTATION = "orientation"
    FIELD_OF_VIEW = "field of view"
    SAME_STUDY = "same study"
    MISSING = "missing"


@dataclass(frozen=True)
class Traits:
    """What a volume is, as far as its header tells. Unknown is "" or None, and never a reason against it.

    `axes` holds the patient direction (RAS) of i, j, k as columns; `extent` the millimetres along patient
    R, A, S. `weighting` is what MR calls the contrast ("t1"); `enhanced` whether an agent was given.
    """

    modality: str = ""
    body_part: str = ""
    weighting: str = ""
    enhanced: bool | None = None
    slices: int = 0
    thick_axis: str = ""  # "R", "A" or "S": the patient axis of clearly largest spacing
    extent: tuple[float, float, float] | None = None
    normal: tuple[float, float, float] | None = field(default=None)  # RAS direction of the slice axis


@dataclass(frozen=True)
class Reason:
    """One misfit, with the study's and the reference's side of it."""

    misfit: Misfit
    study: str
    reference: str


def weighting_of(description: str) -> str:
    """The MR contrast that a series description names, "" where it names none."""
    words = description.lower().replace("-", " ").replace("_", " ").split()
    for contrast in ("flair", *_CONTRAST_WORDS):
        if any(word.startswith(contrast) for word in words):
            return contrast
    return ""


def names_an_agent(description: str) -> bool:
    """Whether a series description says that a contrast agent was given."""
    words = description.lower().replace("-", " ").replace("_", " ").split()
    return any(word in _ENHANCED_WORDS for word in words)


def traits_of_grid(shape_kji: tuple[int, int, int], ijk_to_ras: np.ndarray, **known: object) -> Traits:
    """Traits from a grid, with what else is known by name."""
    size = np.array(shape_kji[::-1], float)
    columns = np.asarray(ijk_to_ras, float)[:3, :3]
    spacing = np.linalg.norm(columns, axis=0)
    directions = columns / spacing
    extent = np.abs(columns) @ size
    order = np.sort(spacing)
    thick = int(np.argmax(spacing))
    has_thick = order[2] >= 1.3 * order[1] or size.min() == 1
    if size.min() == 1:
        thick = int(np.argmin(size))
    normal = directions[:, thick] if has_thick else None
    return Traits(
        slices=int(size[thick] if has_thick else size[2]),
        thick_axis="RAS"[int(np.argmax(np.abs(directions[:, thick])))] if has_thick else "",
        extent=(float(extent[0]), float(extent[1]), float(extent[2])),
        normal=None if normal is None else (float(normal[0]), float(normal[1]), float(normal[2])),
        **known,  # type: ignore[arg-type]
    )


def reasons_against(study: Traits, reference: Traits) -> list[Reason]:
    """Why this reference does not fit this study; empty where nothing speaks against it."""
    found = []
    for misfit, a, b in (
        (Misfit.MODALITY, study.modality, reference.modality),
        (Misfit.BODY_PART, study.body_part, reference.body_part),
        (Misfit.CONTRAST, study.weighting, reference.weighting),
    ):
        if a and b and a.lower() != b.lower():
            found.append(Reason(misfit, a, b))
    if None not in (study.enhanced, reference.enhanced) and study.enhanced != reference.enhanced:
        said = {True: "with", False: "without"}
        found.append(Reason(Misfit.ENHANCEMENT, said[bool(study.enhanced)], said[bool(reference.enhanced)]))
    if study.normal is not None and reference.normal is not None:
        cosine = abs(float(np.dot(study.normal, reference.normal)))
        if np.degrees(np.arccos(min(1.0, cosine))) > _SAME_VIEW_DEGREES:
            names = {"R": "sagittal", "A": "coronal", "S": "axial", "": "isotropic"}
            a, b = names[study.thick_axis], names[reference.thick_axis]
            found.append(Reason(Misfit.ORIENTATION, a, b if a != b else f"oblique {b}"))
    if study.extent is not None and reference.extent is not None:
        shared = min(min(a, b) / max(a, b) for a, b in zip(study.extent, reference.extent, strict=True))
        if shared < _LEAST_SHARED_EXTENT:
            found.append(
                Reason(Misfit.FIELD_OF_VIEW, _millimetres(study.extent), _millimetres(reference.extent))
            )
    return found


def _millimetres(extent: tuple[float, float, float]) -> str:
    return " x ".join(f"{side:.0f}" for side in extent) + " mm"
