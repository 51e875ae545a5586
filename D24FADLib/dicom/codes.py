"""The coded concepts and fixed texts of the objects that are written.

SNOMED CT codes come from PS3.16 CID 7150/7151 (segment category and type), CID 7464 (derivation) and
CID 100 (procedures). The score has no code in the standard, hence the private scheme 99D24FAD.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from highdicom.coding_schemes import CodingSchemeIdentificationItem
    from pydicom.sr.coding import Code

MANUFACTURER = "D24FAD project"
MODEL = "D24FAD for 3D Slicer"
SERIAL = "none"
ALGORITHM = "D24FAD few-shot anomaly detection"
RESEARCH = "RESEARCH USE ONLY"
CHARACTER_SET = "ISO_IR 192"  # UTF-8, PS3.3 C.12.1.1.2: holds every name that the query's study may carry
PRIVATE_SCHEME = "99D24FAD"


def _code(value: str, scheme: str, meaning: str) -> Code:
    from pydicom.sr.coding import Code

    return Code(value, scheme, meaning)


def category() -> Code:
    return _code("49755003", "SCT", "Morphologically Abnormal Structure")


def finding_type() -> Code:
    return _code("52988006", "SCT", "Lesion")


def family() -> Code:
    """CID 7162: the algorithm's family."""
    return _code("123109", "DCM", "Artificial Intelligence")


def score() -> Code:
    return _code("ANOMALY-SCORE", PRIVATE_SCHEME, "Anomaly score")


def threshold() -> Code:
    return _code("SCORE-THRESHOLD", PRIVATE_SCHEME, "Anomaly score threshold")


def weight() -> Code:
    return _code("REFERENCE-WEIGHT", PRIVATE_SCHEME, "Weight of a normal reference")


def similarity() -> Code:
    return _code("REFERENCE-SIMILARITY", PRIVATE_SCHEME, "Similarity of an aligned reference")


def overlap() -> Code:
    return _code("REFERENCE-OVERLAP", PRIVATE_SCHEME, "Overlap of a reference with the study")


def volume() -> Code:
    return _code("118565006", "SCT", "Volume")


def milliliter() -> Code:
    return _code("ml", "UCUM", "milliliter")


def area() -> Code:
    return _code("42798000", "SCT", "Area")


def square_mm() -> Code:
    return _code("mm2", "UCUM", "square millimeter")


def no_units() -> Code:
    return _code("1", "UCUM", "no units")


def maximum() -> Code:
    return _code("56851009", "SCT", "Maximum")


def mean() -> Code:
    return _code("373098007", "SCT", "Mean")


def procedure(modality: str) -> Code:
    """CID 100: what was done with the patient."""
    known = {
        "CT": ("77477000", "SCT", "Computed Tomography"),
        "MR": ("113091000", "SCT", "Magnetic Resonance Imaging"),
        "PT": ("82918005", "SCT", "Positron Emission Tomography"),
        "US": ("16310003", "SCT", "Ultrasonography"),
    }
    return _code(*known.get(modality, ("363679005", "SCT", "Imaging procedure")))


def body_part(examined: str) -> Code:
    """CID 4031: the region that BodyPartExamined (0018,0015) names, the body where it names none."""
    known = {
        "HEAD": ("69536005", "SCT", "Head"),
        "BRAIN": ("12738006", "SCT", "Brain"),
        "NECK": ("45048000", "SCT", "Neck"),
        "CHEST": ("816094009", "SCT", "Chest"),
        "LUNG": ("39607008", "SCT", "Lung"),
        "HEART": ("80891009", "SCT", "Heart"),
        "BREAST": ("76752008", "SCT", "Breast"),
        "ABDOMEN": ("818981001", "SCT", "Abdomen"),
        "LIVER": ("10200004", "SCT", "Liver"),
        "PELVIS": ("816092008", "SCT", "Pelvis"),
        "SPINE": ("421060004", "SCT", "Vertebral column"),
        "KNEE": ("72696002", "SCT", "Knee"),
    }
    return _code(*known.get(examined.strip().upper(), ("123037004", "SCT", "Body structure")))


def private_scheme() -> CodingSchemeIdentificationItem:
    """Says whose scheme 99D24FAD is (PS3.3 C.12.1.1, Coding Scheme Identification Sequence)."""
    from highdicom.coding_schemes import CodingSchemeIdentificationItem

    return CodingSchemeIdentificationItem(
        designator=PRIVATE_SCHEME, name="D24FAD measures", responsible_organization=MANUFACTURER
    )
