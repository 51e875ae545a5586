"""What kind of images a series holds, told from its technical attributes and alike for every manufacturer."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ..imaging.volume import Volume
from . import headers

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

# Numbers and texts that are kept by keyword in VolumeInfo.tags; none of them identifies a patient.
_NUMBERS = (
    "EchoTime",
    "RepetitionTime",
    "InversionTime",
    "FlipAngle",
    "MagneticFieldStrength",
    "KVP",
    "SliceThickness",
    "DiffusionBValue",
)
_TEXTS = (
    "SOPClassUID",
    "PhotometricInterpretation",
    "MRAcquisitionType",
    "ContrastBolusAgent",
    "Manufacturer",
    "ManufacturerModelName",
    "Laterality",
    "ViewPosition",
    "PatientPosition",
    "ConvolutionKernel",
)
_LISTS = ("ScanningSequence", "SequenceVariant", "ImageType")
TECHNICAL = (*_NUMBERS, *_TEXTS, *_LISTS)
# Enhanced MR and CT keep them in shared functional groups (PS3.3 C.8.13.5 and C.8.15.3).
_GROUPED = (
    ("EchoTime", "MREchoSequence", "EffectiveEchoTime"),
    ("RepetitionTime", "MRTimingAndRelatedParametersSequence", "RepetitionTime"),
    ("FlipAngle", "MRTimingAndRelatedParametersSequence", "FlipAngle"),
    ("InversionTime", "MRModifierSequence", "InversionTimes"),
    ("DiffusionBValue", "MRDiffusionSequence", "DiffusionBValue"),
    ("KVP", "CTXRayDetailsSequence", "KVP"),
    ("SliceThickness", "PixelMeasuresSequence", "SliceThickness"),
)
_NO_AGENT = {
    "",
    "none",
    "no",
    "n",
    "without",
    "w/o",
    "0",
    "native",
    "not given",
    "non",
    "ohne",
    "sans",
    "km ohne",
}


def technical_tags(header: Dataset) -> dict[str, Any]:
    """Technical attributes as plain values for VolumeInfo.tags."""
    tags: dict[str, Any] = {}
    for keyword in _NUMBERS:
        value = headers.number(header, keyword)
        if value is not None:
            tags[keyword] = value
    for keyword in _TEXTS:
        shown = headers.text(header, keyword)
        if shown:
            tags[keyword] = shown
    for keyword in _LISTS:
        shown = headers.text(header, keyword)
        if shown:
            tags[keyword] = shown.split("\\")
    shared = headers.first_item(header, "SharedFunctionalGroupsSequence")
    frame = headers.first_item(header, "PerFrameFunctionalGroupsSequence")
    for keyword, group, inner in _GROUPED:
        if keyword not in tags:
            found = headers.number(
                headers.first_item(shared, group) or headers.first_item(frame, group), inner
            )
            if found is not None:
                tags[keyword] = found
    if "ContrastBolusAgent" not in tags and headers.items(header, "ContrastBolusAgentSequence"):
        tags["ContrastBolusAgent"] = "given"
    return tags


@dataclass(frozen=True)
class Traits:
    """What matters for comparing one series with another. None or "" where it is not known.

    `sequence` is T1, T2, PD, FLAIR, STIR, T2*, DWI, ADC or "" (MR); `kernel` soft or sharp (CT);
    `extent` the millimetres covered along the patient's left-right, anterior-posterior and head-foot axes.
    """

    series_uid: str = ""
    study_uid: str = ""
    modality: str = ""
    body_part: str = ""
    sequence: str = ""
    contrast: bool | None = None
    kernel: str = ""
    plane: str = ""
    slices: int = 0
    spacing: tuple[float, float, float] | None = None
    extent: tuple[float, float, float] | None = None
    echo_time: float | None = None
    repetition_time: float | None = None
    field_strength: float | None = None
    derived: str = ""
    color: bool = False


def traits_of_tags(tags: Mapping[str, Any]) -> dict[str, Any]:
    """The traits that follow from technical tags alone."""
    image_type = [str(value).upper() for value in tags.get("ImageType") or []]
    return {
        "sequence": sequence_kind(tags),
        "contrast": contrast_given(tags.get("ContrastBolusAgent")),
        "kernel": kernel_kind(str(tags.get("ConvolutionKernel", ""))),
        "echo_time": tags.get("EchoTime"),
        "repetition_time": tags.get("RepetitionTime"),
        "field_strength": tags.get("MagneticFieldStrength"),
        "derived": derived_kind(image_type),
    }


def traits_of_volume(volume: Volume) -> Traits:
    """Traits of a volume that was read from DICOM, or of any other as far as they are known."""
    direction = np.array(volume.image.GetDirection()).reshape(3, 3)
    lengths = np.array(volume.size) * np.array(volume.spacing)
    extent = np.abs(direction) @ lengths
    return Traits(
        series_uid=volume.info.series_uid,
        study_uid=volume.info.study_uid,
        modality=volume.info.modality,
        body_part=volume.info.body_part,
        plane=plane_of(direction[:, 2]) if volume.size[2] > 1 else "",
        slices=volume.size[2],
        spacing=volume.spacing,
        extent=(float(extent[0]), float(extent[1]), float(extent[2])),
        color=volume.is_color,
        **traits_of_tags(volume.info.tags),
    )


def plane_of(normal: Sequence[float] | np.ndarray[Any, Any]) -> str:
    """axial, sagittal, coronal or oblique by the slice normal."""
    parts = np.abs(np.asarray(normal, dtype=float))
    axis = int(parts.argmax())
    return ("sagittal", "coronal", "axial")[axis] if parts[axis] > 0.8 else "oblique"


def sequence_kind(tags: Mapping[str, Any]) -> str:
    """The weighting of an MR image from TR, TE, TI and the sequence type; "" where they do not tell."""
    image_type = {str(value).upper() for value in tags.get("ImageType") or []}
    if "ADC" in image_type:
        return "ADC"
    if (tags.get("DiffusionBValue") or 0) > 50 or "DIFFUSION" in image_type:
        return "DWI"
    te, tr, ti = tags.get("EchoTime"), tags.get("RepetitionTime"), tags.get("InversionTime")
    if te is None or tr is None or te <= 0 or tr <= 0:
        return ""
    if ti and ti >= 1500 and tr >= 4000 and te >= 50:
        return "FLAIR"
    if ti and 80 <= ti <= 300 and tr >= 1500:
        return "STIR"
    gradient = "GR" in {str(value).upper() for value in tags.get("ScanningSequence") or []}
    if ti and 400 <= ti <= 1400 and te < 15:
        return "T1"
    if gradient:
        return "T1" if te < 12 else "T2*"
    if tr <= 1000:
        return "T1" if te <= 30 else ""
    if te >= 60:
        return "T2"
    return "PD" if tr >= 1500 and te <= 45 else ""


def contrast_given(agent: Any) -> bool | None:
    """Whether a contrast agent was given; None where the header does not say."""
    if agent is None:
        return None
    return str(agent).strip().lower() not in _NO_AGENT


def kernel_kind(kernel: str) -> str:
    """soft or sharp from the kernel names of the large manufacturers, else ""."""
    name = kernel.strip().upper().split("\\")[0]
    if not name:
        return ""
    if any(word in name for word in ("BONE", "LUNG", "EDGE", "DETAIL", "SHARP", "ULTRA")):
        return "sharp"
    if any(word in name for word in ("STANDARD", "SOFT", "SMOOTH", "BRAIN", "CHST")):
        return "soft"
    toshiba = re.match(r"^FC(\d\d)", name)
    if toshiba:
        return "soft" if int(toshiba[1]) < 30 or 40 <= int(toshiba[1]) < 50 else "sharp"
    siemens = re.match(r"^[A-Z]{1,2}(\d\d)", name)
    if siemens:
        return "soft" if int(siemens[1]) < 50 else "sharp"
    philips = {"A": "soft", "B": "soft", "C": "soft", "UA": "soft", "UB": "soft", "D": "sharp", "E": "sharp"}
    return philips.get(name, "sharp" if name in {"L", "YA", "YB", "YC", "YD"} else "")


def derived_kind(image_type: Sequence[str]) -> str:
    """What makes an image no plain acquisition (PS3.3 C.7.6.1.1.2), "" for a plain one or a reformat."""
    words = set(image_type)
    known = {
        "LOCALIZER": "a localizer",
        "SCOUT": "a localizer",
        "TOPOGRAM": "a localizer",
        "SCREEN SAVE": "a screen shot",
        "PROJECTION IMAGE": "a projection",
        "MIP": "a projection",
        "MINIP": "a projection",
        "PHASE": "a phase image",
        "P": "a phase image",
        "PHASE MAP": "a phase image",
        "FA": "a computed map",
        "CBF": "a computed map",
        "CBV": "a computed map",
        "TTP": "a computed map",
        "MTT": "a computed map",
    }
    return next((kind for word, kind in known.items() if word in words), "")
