"""Reading DICOM series as volumes, with their geometry checked slice by slice."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import InputError
from .dicom_geometry import Slice, checked_geometry, has_geometry
from .volume import Volume, VolumeInfo

if TYPE_CHECKING:
    import SimpleITK as sitk
    from pydicom.dataset import Dataset

# Technical attributes that are kept; none of them identifies a patient.
TECHNICAL_TAGS = (
    "SOPClassUID",
    "PhotometricInterpretation",
    "EchoTime",
    "RepetitionTime",
    "InversionTime",
    "FlipAngle",
    "ScanningSequence",
    "SequenceVariant",
    "MRAcquisitionType",
    "MagneticFieldStrength",
    "ContrastBolusAgent",
    "ConvolutionKernel",
    "KVP",
    "SliceThickness",
    "Manufacturer",
    "ManufacturerModelName",
    "ImageType",
    "Laterality",
    "ViewPosition",
    "PatientPosition",
)
_SEGMENTATION_CLASSES = ("1.2.840.10008.5.1.4.1.1.66.4", "1.2.840.10008.5.1.4.1.1.66.7")


@dataclass(frozen=True)
class SeriesSummary:
    """One series of images in a folder. Descriptions are left out: they may hold patient data."""

    uid: str
    modality: str
    slices: int
    rows: int
    columns: int


def is_dicom_file(path: Path) -> bool:
    """True for a file that pydicom can parse and that holds an image."""
    return _read_header(path) is not None


def list_series(folder: str | os.PathLike[str]) -> list[SeriesSummary]:
    """The image series in a folder and its subfolders, by descending number of slices, then UID."""
    return [_summary(uid, series) for uid, series in _series_in(Path(folder), recursive=True).items()]


def read_dicom_folder(folder: Path, series_uid: str | None) -> Volume:
    """The only series in a folder (or `series_uid`), as a volume; raises InputError."""
    name = folder.name or folder.resolve().name
    if next(folder.iterdir(), None) is None:
        raise InputError(f"{name}: the folder is empty. Choose a folder with the DICOM files of one series.")
    found = _series_in(folder, recursive=True)
    if not found:
        raise InputError(
            f"{name}: no DICOM images in this folder. Choose the folder of a DICOM series, or, for another "
            "format, the image file itself."
        )
    if series_uid is None and len(found) > 1:
        lines = [
            f"  {s.uid}  {s.modality or 'no modality'}, {s.slices} slices, {s.columns} x {s.rows}"
            for s in (_summary(uid, series) for uid, series in found.items())
        ]
        raise InputError("\n".join([f"{name}: holds {len(found)} series. Choose one by its UID:", *lines]))
    uid = series_uid if series_uid is not None else next(iter(found))
    if uid not in found:
        raise InputError(f"{name}: holds no series {uid}. It holds: {', '.join(found)}.")
    return _read_series(found[uid], name)


def read_dicom_file(path: Path, series_uid: str | None) -> Volume:
    """The series that a DICOM file belongs to, from the file's own folder, or the file's one image."""
    header = _read_header(path)
    if header is None:
        raise InputError(f"{path.name}: not a DICOM image. Give an image file or a folder of DICOM files.")
    uid = str(header.get("SeriesInstanceUID", ""))
    if series_uid is not None and series_uid != uid:
        raise InputError(
            f"{path.name}: belongs to series {uid}, not to {series_uid}. Give that series' folder."
        )
    if not has_geometry(header):
        return _read_series([Slice(path, header)], path.name)  # a radiograph: each file is its own image
    return _read_series(_series_in(path.parent, recursive=False)[uid], path.name)


def _summary(uid: str, series: Sequence[Slice]) -> SeriesSummary:
    first = series[0].header
    frames = sum(int(s.header.get("NumberOfFrames", 1) or 1) for s in series)
    return SeriesSummary(uid, str(first.get("Modality", "")), frames, int(first.Rows), int(first.Columns))


def _series_in(folder: Path, recursive: bool) -> dict[str, list[Slice]]:
    found: dict[str, list[Slice]] = {}
    for path in _files_in(folder, recursive):
        header = _read_header(path)
        if header is not None:
            found.setdefault(str(header.get("SeriesInstanceUID", "")), []).append(Slice(path, header))
    return dict(sorted(found.items(), key=lambda item: (-len(item[1]), item[0])))


def _files_in(folder: Path, recursive: bool) -> Iterator[Path]:
    for parent, folders, files in os.walk(folder):
        folders.sort()
        yield from (Path(parent, file) for file in sorted(files))
        if not recursive:
            return


def _read_header(path: Path) -> Dataset | None:
    """The header of an image object; None for anything else."""
    import pydicom
    from pydicom.errors import InvalidDicomError

    if not path.is_file():
        return None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # values that break their own format are common and harmless here
            header = pydicom.dcmread(path, stop_before_pixels=True)
    except (
        InvalidDicomError,
        EOFError,
        ValueError,
        KeyError,
        TypeError,
        AttributeError,
        NotImplementedError,
    ):
        return None
    if "Rows" not in header or "Columns" not in header:
        return None
    return None if str(header.get("SOPClassUID", "")) in _SEGMENTATION_CLASSES else header


def _read_series(series: Sequence[Slice], name: str) -> Volume:
    if any(int(s.header.get("NumberOfFrames", 1) or 1) > 1 for s in series):
        raise InputError(
            f"{name}: multi-frame DICOM (an enhanced object or a cine loop) is not read. Convert it to "
            "single-frame DICOM, NRRD or NIfTI first, for example by loading it in Slicer and saving it."
        )
    if len(series) > 1 and not all(has_geometry(s.header) for s in series):
        raise InputError(
            f"{name}: {len(series)} images without positions in the patient, so they do not form a volume. "
            "Give one of the files."
        )
    ordered, origin, spacing, direction = checked_geometry(series, name)
    image = _read_pixels(ordered, name)
    image.SetSpacing(spacing)
    image.SetOrigin(origin.tolist())
    image.SetDirection(direction.ravel().tolist())
    return Volume(image, name, _info(ordered))


def _read_pixels(ordered: Sequence[Slice], name: str) -> sitk.Image:
    import SimpleITK as sitk

    paths = [str(s.path) for s in ordered]
    reader = sitk.ImageSeriesReader()
    reader.SetImageIO("GDCMImageIO")
    reader.SetFileNames(paths)
    if any(_fractional_rescale(s.header) for s in ordered):
        # ITK takes the type of the whole series from its first file.
        reader.SetOutputPixelType(sitk.sitkFloat32)
    for item in ordered:
        _require_all_pixels(item, name)
    before = sitk.ProcessObject.GetGlobalWarningDisplay()
    sitk.ProcessObject.SetGlobalWarningDisplay(False)
    try:
        return reader.Execute()  # inverts MONOCHROME1 itself
    except (RuntimeError, MemoryError) as error:
        syntax = getattr(ordered[0].header.file_meta.get("TransferSyntaxUID", ""), "name", "unknown")
        raise InputError(
            f"{name}: the pixels cannot be decoded (transfer syntax: {syntax}); the files are damaged, or "
            "compressed in a way that is not supported. Export them uncompressed."
        ) from error
    finally:
        sitk.ProcessObject.SetGlobalWarningDisplay(before)


def _require_all_pixels(item: Slice, name: str) -> None:
    """GDCM fills what a cut-off file lacks with whatever lies in memory."""
    header = item.header
    syntax = header.file_meta.get("TransferSyntaxUID")
    if syntax is None or syntax.is_compressed:
        return
    samples = int(header.get("SamplesPerPixel", 1)) * int(header.Rows) * int(header.Columns)
    if item.path.stat().st_size < samples * int(header.get("BitsAllocated", 8)) // 8:
        raise InputError(
            f"{name}: {item.path.name} is cut off before its end. Copy or export the series again."
        )


def _fractional_rescale(header: Dataset) -> bool:
    values = (header.get("RescaleSlope"), header.get("RescaleIntercept"))
    return any(value is not None and not float(value).is_integer() for value in values)


def _info(ordered: Sequence[Slice]) -> VolumeInfo:
    first = ordered[0].header
    tags: dict[str, Any] = {}
    for keyword in TECHNICAL_TAGS:
        value = _plain(first.get(keyword))
        if value not in (None, "", []):
            tags[keyword] = value
    instances = [str(s.header.get("SOPInstanceUID", "")) for s in ordered]
    if all(instances):
        tags["SOPInstanceUIDs"] = instances
    return VolumeInfo(
        modality=str(first.get("Modality", "")),
        body_part=str(first.get("BodyPartExamined", "") or ""),
        study_uid=str(first.get("StudyInstanceUID", "")),
        series_uid=str(first.get("SeriesInstanceUID", "")),
        frame_of_reference_uid=str(first.get("FrameOfReferenceUID", "")),
        tags=tags,
    )


def _plain(value: Any) -> Any:
    """Numbers, strings and lists of them instead of pydicom's own types, so that tags go into JSON."""
    if value is None or (isinstance(value, (int, float)) and type(value) in (int, float)):
        return value
    if isinstance(value, str):
        return str(value)
    if hasattr(value, "__iter__"):
        return [_plain(item) for item in value]
    return int(value) if isinstance(value, int) else float(value)
