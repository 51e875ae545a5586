"""The technical attributes of an image, as plain values by keyword; none of them identifies a patient."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from . import headers

if TYPE_CHECKING:
    pass

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


def technical_tags(header: headers.Header) -> dict[str, Any]:
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
