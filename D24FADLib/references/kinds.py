"""What kind of images a series holds, from its technical attributes, alike for every manufacturer.

Attributes come by DICOM keyword as plain values: numbers, texts, and lists for ImageType and
ScanningSequence. "" and None stand for what they do not tell.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

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
_SAID_SEQUENCES = ("FLAIR", "STIR", "DWI", "ADC", "SWI", "T1", "T2", "PD")
_SAID_AGENT = {"gd", "gad", "gado", "contrast", "post", "postcontrast", "+c", "c+", "ce", "km", "+gd"}
_SAID_NO_AGENT = {
    "pre",
    "precontrast",
    "native",
    "nativ",
    "-c",
    "non",
    "no",
    "without",
    "unenhanced",
    "plain",
}
# Body parts under one name (PS3.16 CID 4031 and what scanners write).
_PARTS = {
    "HEAD": "BRAIN",
    "SKULL": "BRAIN",
    "NEURO": "BRAIN",
    "HEADBRAIN": "BRAIN",
    "THORAX": "CHEST",
    "LUNG": "CHEST",
    "LUNGS": "CHEST",
    "CSPINE": "SPINE",
    "TSPINE": "SPINE",
    "LSPINE": "SPINE",
    "ABDOMENPELVIS": "ABDOMEN",
}
# One kind of picture under several modalities (PS3.3 C.7.3.1.1.1).
_RADIOGRAPHS = {"CR", "DX", "DR", "XR", "RG"}


def modality_family(modality: str) -> str:
    """The modality, radiographs of every kind under one name."""
    return "DX" if modality.upper() in _RADIOGRAPHS else modality.upper()


def body_part_family(body_part: str) -> str:
    """The body part in letters only, under one name for what scanners call differently."""
    part = "".join(c for c in body_part.upper() if c.isalpha())
    return _PARTS.get(part, part)


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


def _words(description: str) -> list[str]:
    return [word for word in re.split(r"[\s_\-.,;:/()\[\]]+", description.lower()) if word]


def said_sequence(description: str) -> str:
    """The MR weighting that a series description or file name names, "" where it names none."""
    words = _words(description)
    for sequence in _SAID_SEQUENCES:
        if any(word.startswith(sequence.lower()) for word in words):
            return sequence
    return ""


def said_agent(description: str) -> bool | None:
    """Whether a series description says that a contrast agent was given; None where it does not say."""
    words = set(_words(description)) | set(description.lower().split())
    if words & _SAID_NO_AGENT:
        return False
    return True if words & _SAID_AGENT else None


def contrast_given(agent: Any) -> bool | None:
    """Whether ContrastBolusAgent names one; None where the header does not say."""
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
