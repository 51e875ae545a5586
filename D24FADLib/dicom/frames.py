"""Frames: the single images of DICOM objects, with what is needed to sort, split and place them.

A single-frame object is one frame; an enhanced multi-frame object (PS3.3 C.7.6.16) is many, each with the
values of its functional groups. Frames hold plain values, so that they go into the index as JSON.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any

from . import headers

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

# Storage classes whose pixels are not a picture of the patient's anatomy (PS3.4 B.5).
NOT_IMAGES = {
    "1.2.840.10008.5.1.4.1.1.66.4": "a segmentation",
    "1.2.840.10008.5.1.4.1.1.66.7": "a segmentation",
    "1.2.840.10008.5.1.4.1.1.66.5": "a surface segmentation",
    "1.2.840.10008.5.1.4.1.1.30": "a parametric map",
    "1.2.840.10008.5.1.4.1.1.66.1": "a registration",
    "1.2.840.10008.5.1.4.1.1.481.2": "a radiotherapy dose",
    "1.2.840.10008.5.1.4.1.1.481.3": "a radiotherapy structure set",
}
SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"
MAX_FRAMES = 100_000

# What may tell apart images at one position, in the order in which it is tried: (key, keyword).
_DISTINGUISHING = (
    ("image type", "ImageType"),
    ("complex component", "ComplexImageComponent"),
    ("echo time", "EchoTime"),
    ("echo", "EchoNumbers"),
    ("b value", "DiffusionBValue"),
    ("inversion time", "InversionTime"),
    ("flip angle", "FlipAngle"),
    ("phase", "TemporalPositionIdentifier"),
    ("trigger time", "TriggerTime"),
    ("cardiac phase", "NominalPercentageOfCardiacPhase"),
    ("acquisition", "AcquisitionNumber"),
    ("acquisition time", "AcquisitionTime"),
    ("content time", "ContentTime"),
)
# The same, in the functional groups of enhanced objects: (key, group, keyword).
_DISTINGUISHING_GROUPS = (
    ("image type", "MRImageFrameTypeSequence", "FrameType"),
    ("image type", "CTImageFrameTypeSequence", "FrameType"),
    ("complex component", "MRImageFrameTypeSequence", "ComplexImageComponent"),
    ("echo time", "MREchoSequence", "EffectiveEchoTime"),
    ("b value", "MRDiffusionSequence", "DiffusionBValue"),
    ("phase", "FrameContentSequence", "TemporalPositionIndex"),
    ("acquisition", "FrameContentSequence", "FrameAcquisitionNumber"),
    ("stack", "FrameContentSequence", "StackID"),
    ("trigger time", "CardiacSynchronizationSequence", "NominalCardiacTriggerDelayTime"),
)


@dataclass(frozen=True)
class Frame:
    """One image. `number` counts from 1 in a multi-frame object and is 0 for a single-frame one.

    `spacing` is (between rows, between columns) in mm as in PixelSpacing (0028,0030). `position` and
    `orientation` are those of PS3.3 C.7.6.2, None where the object does not say.
    """

    path: str
    number: int
    sop_class_uid: str
    sop_instance_uid: str
    frame_of_reference_uid: str
    instance_number: int
    rows: int
    columns: int
    samples: int
    position: tuple[float, float, float] | None
    orientation: tuple[float, float, float, float, float, float] | None
    spacing: tuple[float, float] | None
    thickness: float | None
    slope: float
    intercept: float
    keys: dict[str, str] = field(default_factory=dict)

    def to_plain(self) -> dict[str, Any]:
        """For JSON; without the path, which the index keeps itself."""
        return {name: getattr(self, name) for name in _STORED}

    @classmethod
    def from_plain(cls, path: str, plain: dict[str, Any]) -> Frame:
        kept = dict(plain)
        for name in ("position", "orientation", "spacing"):
            kept[name] = tuple(kept[name]) if kept[name] is not None else None
        return cls(path=path, **kept)


_STORED = tuple(field.name for field in fields(Frame) if field.name != "path")


def frames_of(header: headers.Header, path: str) -> list[Frame]:
    """The frames of an image object; [] where it holds no image."""
    rows, columns = headers.whole(header, "Rows") or 0, headers.whole(header, "Columns") or 0
    if rows < 1 or columns < 1:
        return []
    per_frame = headers.items(header, "PerFrameFunctionalGroupsSequence")
    count = headers.whole(header, "NumberOfFrames") or 1
    if not 1 <= count <= MAX_FRAMES:
        raise headers.Unreadable(f"says that it holds {count} frames")
    if per_frame and len(per_frame) != count:
        raise headers.Unreadable(f"describes {len(per_frame)} of its {count} frames")
    shared = headers.first_item(header, "SharedFunctionalGroupsSequence")
    common = _common(header, path, rows, columns)
    if count == 1 and not per_frame:
        return [_single(header, common)]
    groups: Sequence[Dataset | None] = per_frame or [None] * count
    base = _keys(header)
    return [
        _from_groups(header, shared, group, number, common, base)
        for number, group in enumerate(groups, start=1)
    ]


def _common(header: headers.Header, path: str, rows: int, columns: int) -> dict[str, Any]:
    return {
        "path": path,
        "sop_class_uid": sop_class(header),
        "sop_instance_uid": headers.uid(header, "SOPInstanceUID") or "",
        "frame_of_reference_uid": headers.uid(header, "FrameOfReferenceUID") or "",
        "instance_number": headers.whole(header, "InstanceNumber") or 0,
        "rows": rows,
        "columns": columns,
        "samples": headers.whole(header, "SamplesPerPixel") or 1,
    }


def sop_class(header: headers.Header) -> str:
    """SOPClassUID, from the file meta information where the object itself has none."""
    meta = getattr(header, "file_meta", None)
    return headers.uid(header, "SOPClassUID") or headers.uid(meta, "MediaStorageSOPClassUID") or ""


def _keys(header: headers.Header) -> dict[str, str]:
    found = {key: headers.text(header, keyword) for key, keyword in _DISTINGUISHING}
    return {key: value for key, value in found.items() if value}


def _single(header: headers.Header, common: dict[str, Any]) -> Frame:
    return Frame(
        number=0,
        position=_three(headers.numbers(header, "ImagePositionPatient")),
        orientation=_six(headers.numbers(header, "ImageOrientationPatient")),
        spacing=_spacing(header),
        thickness=headers.number(header, "SliceThickness") or headers.number(header, "SpacingBetweenSlices"),
        slope=_slope(header),
        intercept=headers.number(header, "RescaleIntercept") or 0.0,
        keys=_keys(header),
        **common,
    )


def _from_groups(
    header: headers.Header,
    shared: Dataset | None,
    own: Dataset | None,
    number: int,
    common: dict[str, Any],
    base: dict[str, str],
) -> Frame:
    def group(name: str) -> Dataset | None:
        return headers.first_item(own, name) or headers.first_item(shared, name)

    measures = group("PixelMeasuresSequence")
    transform = group("PixelValueTransformationSequence")
    keys = dict(base)
    for key, name, keyword in _DISTINGUISHING_GROUPS:
        value = headers.text(group(name), keyword)
        if value:
            keys[key] = value
    position = headers.numbers(group("PlanePositionSequence"), "ImagePositionPatient")
    orientation = headers.numbers(group("PlaneOrientationSequence"), "ImageOrientationPatient")
    return Frame(
        number=number,
        position=_three(position),
        orientation=_six(orientation),
        spacing=_spacing(measures) or _spacing(header),
        thickness=headers.number(measures, "SliceThickness")
        or headers.number(measures, "SpacingBetweenSlices"),
        slope=_slope(transform if transform is not None else header),
        intercept=headers.number(transform if transform is not None else header, "RescaleIntercept") or 0.0,
        keys=keys,
        **common,
    )


def _slope(dataset: headers.Header) -> float:
    slope = headers.number(dataset, "RescaleSlope")
    return slope if slope else 1.0  # zero, which some scanners write, would erase the image


def _spacing(dataset: headers.Header | None) -> tuple[float, float] | None:
    for keyword in ("PixelSpacing", "ImagerPixelSpacing", "NominalScannedPixelSpacing"):
        values = headers.numbers(dataset, keyword)
        if len(values) == 2 and min(values) > 0:
            return values[0], values[1]
    return None


def _three(values: tuple[float, ...]) -> tuple[float, float, float] | None:
    return (values[0], values[1], values[2]) if len(values) == 3 and max(map(abs, values)) < 1e6 else None


def _six(values: tuple[float, ...]) -> tuple[float, float, float, float, float, float] | None:
    if len(values) != 6:
        return None
    for axis in (values[:3], values[3:]):
        if not 0.5 < sum(v * v for v in axis) < 2.0:  # direction cosines have length 1
            return None
    return values[0], values[1], values[2], values[3], values[4], values[5]
