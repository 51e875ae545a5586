"""What every exported object has in common: identifiers, equipment and the parts of a series."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from . import codes, headers

if TYPE_CHECKING:
    from highdicom import AlgorithmIdentificationSequence
    from pydicom.dataset import Dataset

    from .placement import Placement

# Series numbers of the results; high enough to stand behind those of the scanner.
SERIES_NUMBERS = {"seg": 9401, "map": 9402, "fractional": 9403, "report": 9404, "overview": 9405, "pdf": 9406}
DESCRIPTIONS = {
    "seg": f"D24FAD candidate findings - {codes.RESEARCH}",
    "map": f"D24FAD anomaly map - {codes.RESEARCH}",
    "fractional": f"D24FAD anomaly map (0..1) - {codes.RESEARCH}",
    "report": f"D24FAD report - {codes.RESEARCH}",
    "overview": f"D24FAD overview - {codes.RESEARCH}",
    "pdf": f"D24FAD overview (PDF) - {codes.RESEARCH}",
}
# Secondary Capture: it carries no laterality of its own (PS3.3 C.7.3.1).
_LATERALITY_ASKED = ("1.2.840.10008.5.1.4.1.1.7",)


@dataclass(frozen=True)
class Reference:
    """A normal reference as the results may speak of it: by its ordinal, never by a name."""

    ordinal: int
    mean_weight: float
    similarity: float
    overlap: float
    leave_one_out_score: float | None
    stands_out: bool
    digest: str = ""

    @property
    def label(self) -> str:
        return f"Normal reference {self.ordinal}"


@dataclass(frozen=True)
class Context:
    """One export: the placement of the query, who wrote it, and what tracks each finding."""

    placement: Placement
    version: str
    parameters: Mapping[str, str] = field(default_factory=dict)
    tracking: Mapping[int, tuple[str, str]] = field(default_factory=dict)  # rank -> (identifier, UID)

    def common(self, kind: str) -> dict[str, Any]:
        """Keyword arguments that each of highdicom's classes takes."""
        from highdicom import UID

        return {
            "series_instance_uid": UID(),
            "series_number": SERIES_NUMBERS[kind],
            "sop_instance_uid": UID(),
            "instance_number": 1,
            "manufacturer": codes.MANUFACTURER,
            "manufacturer_model_name": codes.MODEL,
            "software_versions": self.version,
            "device_serial_number": codes.SERIAL,
            "series_description": DESCRIPTIONS[kind],
        }

    def algorithm(self) -> AlgorithmIdentificationSequence:
        """PS3.3 table 10-19, Algorithm Identification Macro."""
        from highdicom import AlgorithmIdentificationSequence

        return AlgorithmIdentificationSequence(
            name=codes.ALGORITHM,
            family=codes.family(),
            version=self.version,
            source=codes.MANUFACTURER,
            parameters=dict(self.parameters) or None,
        )


def geometry(placement: Placement) -> dict[str, Any]:
    """The planes of a segmentation or map; without positions those of the source are taken over."""
    if not placement.placed:
        return {}
    return {
        "plane_positions": placement.plane_positions(),
        "plane_orientation": placement.plane_orientation(),
        "pixel_measures": placement.pixel_measures(),
    }


def finish(dataset: Dataset) -> Dataset:
    """Texts are in UTF-8 and free of what the source's own character set would have meant."""
    dataset.SpecificCharacterSet = codes.CHARACTER_SET
    if "ContentLabel" in dataset and "ContentCreatorName" not in dataset:
        dataset.ContentCreatorName = ""  # type 2 in the Content Identification Macro (PS3.3 table 10-12)
    if dataset.SOPClassUID in _LATERALITY_ASKED and "Laterality" not in dataset:
        dataset.Laterality = ""  # type 2C in General Series (PS3.3 C.7.3.1); unknown here
    return dataset


def take_sides(dataset: Dataset, placement: Placement) -> None:
    """PatientOrientation of the source, where no positions tell it (type 2C, PS3.3 C.7.6.1.1.1)."""
    if not placement.placed:
        sides = [str(side) for side in headers.get(placement.source.first, "PatientOrientation") or ()]
        valid = len(sides) == 2 and all(re.fullmatch("[ALRPHF]{1,3}", side) for side in sides)
        dataset.PatientOrientation = sides if valid else ""


def long_string(text: str, limit: int = 64) -> str:
    """Text for an LO element (PS3.5 section 6.2)."""
    return re.sub(r"[\\\x00-\x1f]", " ", text).strip()[:limit]
