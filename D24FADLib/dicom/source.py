"""The query's own series as the source of what is exported: its headers, made fit to be inherited from.

Patient and study attributes of the results are those of the query's images (PS3.3 C.7.1.1, C.7.2.1).
Values that break their own format would make every result invalid, so they are emptied.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..errors import InputError
from . import headers
from .codes import CHARACTER_SET
from .frames import NOT_IMAGES, Frame, frames_of

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

_DATE = re.compile(r"^\d{8}$")
_TIME = re.compile(r"^\d{2}(\d{2}(\d{2}(\.\d{1,6})?)?)?$")
# Patient and study attributes that highdicom takes over, and whether a value of theirs is a valid one.
_INHERITED: dict[str, Callable[[str], bool]] = {
    "PatientID": lambda v: len(v) <= 64 and "\\" not in v,
    "PatientName": lambda v: all(len(part) <= 64 for part in v.split("=")) and v.count("=") <= 2,
    "PatientBirthDate": lambda v: bool(_DATE.match(v)),
    "PatientSex": lambda v: v in ("M", "F", "O"),
    "AccessionNumber": lambda v: len(v) <= 16,
    "StudyID": lambda v: len(v) <= 16,
    "StudyDate": lambda v: bool(_DATE.match(v)),
    "StudyTime": lambda v: bool(_TIME.match(v)),
    "ReferringPhysicianName": lambda v: all(len(part) <= 64 for part in v.split("=")) and v.count("=") <= 2,
    "StudyDescription": lambda v: len(v) <= 64,
    "PatientAge": lambda v: bool(re.match(r"^\d{3}[DWMY]$", v)),
    "Laterality": lambda v: v in ("L", "R"),
}
_MEASURES = (
    "PixelSpacing",
    "SliceThickness",
    "SpacingBetweenSlices",
    "ImagePositionPatient",
    "ImageOrientationPatient",
)


@dataclass(frozen=True)
class Source:
    """The headers of one series by SOPInstanceUID, and its frames."""

    datasets: dict[str, Dataset]
    frames: tuple[Frame, ...]
    modality: str

    @property
    def first(self) -> Dataset:
        return next(iter(self.datasets.values()))

    @property
    def multiframe(self) -> bool:
        return any(frame.number for frame in self.frames)


def load_source(paths: Iterable[str | os.PathLike[str]]) -> Source:
    """The headers of the query's files; raises InputError where they are not one series of one study."""
    datasets: dict[str, Dataset] = {}
    frames: list[Frame] = []
    with headers.quiet():
        for path in sorted(str(path) for path in paths):
            try:
                header, _ = headers.read_header(path)
                found = frames_of(header, path)
            except headers.Unreadable:
                continue  # the detection ran without it as well
            if found and found[0].sop_class_uid not in NOT_IMAGES:
                if found[0].sop_instance_uid not in datasets:
                    frames.extend(found)
                datasets.setdefault(found[0].sop_instance_uid, header)
    if not datasets:
        raise InputError("The query's files hold no DICOM images, so there is no study to add results to.")
    _require_one_series(datasets)
    for header in datasets.values():
        _make_valid(header)
    return Source(datasets, tuple(frames), headers.text(next(iter(datasets.values())), "Modality"))


def _require_one_series(datasets: dict[str, Dataset]) -> None:
    for keyword in ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "SOPClassUID"):
        values = {headers.uid(header, keyword) for header in datasets.values()}
        if "" in values or None in values:
            raise InputError(
                f"The query has no valid {keyword}, so results cannot refer to it. Fetch the series from the "
                "archive, or write the results without DICOM."
            )
        if keyword in ("StudyInstanceUID", "SeriesInstanceUID") and len(values) > 1:
            raise InputError(f"The query's files have different values of {keyword}. Give one series.")
    if any(
        "ImagePositionPatient" in header and not headers.uid(header, "FrameOfReferenceUID")
        for header in datasets.values()
    ):
        raise InputError(
            "The query has positions but no valid FrameOfReferenceUID that they are in, so results cannot be "
            "placed. Fetch the series from the archive, or write the results without DICOM."
        )


def _drop_unparsable(header: Dataset) -> None:
    """Remove elements that cannot be parsed, and turn the other texts into Unicode."""
    for tag in list(header.keys()):
        try:
            with_element = header[tag]
            if with_element.VR == "SQ":
                for item in with_element.value:
                    item.decode()
        except Exception:  # pydicom raises a dozen kinds on damaged values
            del header[tag]
    try:
        header.decode()
    except (LookupError, ValueError, TypeError, AttributeError):
        header.SpecificCharacterSet = CHARACTER_SET


def _make_valid(header: Dataset) -> None:
    """Empty what would make a result invalid, and turn texts into Unicode."""
    _drop_unparsable(header)
    for keyword in _MEASURES:
        if keyword in header and not headers.numbers(header, keyword):
            del header[keyword]
    if "ImagePositionPatient" in header and len(headers.numbers(header, "PixelSpacing")) != 2:
        header.PixelSpacing = [1.0, 1.0]  # as geometry.py assumes
    for keyword, valid in _INHERITED.items():
        value = headers.get(header, keyword)
        if value is None:
            continue
        shown = str(value)
        if not valid(shown) or not shown.isprintable():
            setattr(header, keyword, "")
    for keyword in ("PatientID", "PatientName", "PatientBirthDate", "PatientSex", "AccessionNumber"):
        if keyword not in header:
            setattr(header, keyword, "")
    for keyword in ("StudyID", "StudyDate", "StudyTime", "ReferringPhysicianName"):
        if keyword not in header:
            setattr(header, keyword, "")
    header.SpecificCharacterSet = CHARACTER_SET
