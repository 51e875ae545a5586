"""Reading DICOM series as volumes, with their geometry checked slice by slice."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError
from .volume import Volume, VolumeInfo, array_view

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
_IN_PLANE_TOLERANCE_MM = 0.1


@dataclass(frozen=True)
class SeriesSummary:
    """One series of images in a folder. Descriptions are left out: they may hold patient data."""

    uid: str
    modality: str
    slices: int
    rows: int
    columns: int


@dataclass(frozen=True)
class _Slice:
    path: Path
    header: Dataset


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
    if not _has_geometry(header):
        return _read_series([_Slice(path, header)], path.name)  # a radiograph: each file is its own image
    return _read_series(_series_in(path.parent, recursive=False)[uid], path.name)


def _summary(uid: str, series: Sequence[_Slice]) -> SeriesSummary:
    first = series[0].header
    frames = sum(int(s.header.get("NumberOfFrames", 1) or 1) for s in series)
    return SeriesSummary(uid, str(first.get("Modality", "")), frames, int(first.Rows), int(first.Columns))


def _series_in(folder: Path, recursive: bool) -> dict[str, list[_Slice]]:
    found: dict[str, list[_Slice]] = {}
    for path in _files_in(folder, recursive):
        header = _read_header(path)
        if header is not None:
            found.setdefault(str(header.get("SeriesInstanceUID", "")), []).append(_Slice(path, header))
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


def _has_geometry(header: Dataset) -> bool:
    position = header.get("ImagePositionPatient") or ()
    orientation = header.get("ImageOrientationPatient") or ()
    return len(position) == 3 and len(orientation) == 6


def _position(header: Dataset) -> NDArray[np.float64]:
    return np.array([float(value) for value in header.ImagePositionPatient])


def _axes(header: Dataset) -> NDArray[np.float64]:
    """Direction of columns, of rows and of the normal as matrix columns."""
    cosines = np.array([float(value) for value in header.ImageOrientationPatient]).reshape(2, 3)
    along_row, along_column = cosines / np.linalg.norm(cosines, axis=1, keepdims=True)
    return np.stack([along_row, along_column, np.cross(along_row, along_column)], axis=1)


def _pixel_spacing(header: Dataset) -> tuple[float, float]:
    """(along a row, along a column) in mm; 1 where the header does not say."""
    for keyword in ("PixelSpacing", "ImagerPixelSpacing", "NominalScannedPixelSpacing"):
        values = header.get(keyword)
        if values and len(values) == 2:
            return float(values[1]), float(values[0])
    return 1.0, 1.0


def _read_series(series: Sequence[_Slice], name: str) -> Volume:
    if any(int(s.header.get("NumberOfFrames", 1) or 1) > 1 for s in series):
        raise InputError(
            f"{name}: multi-frame DICOM (an enhanced object or a cine loop) is not read. Convert it to "
            "single-frame DICOM, NRRD or NIfTI first, for example by loading it in Slicer and saving it."
        )
    if len(series) > 1 and not all(_has_geometry(s.header) for s in series):
        raise InputError(
            f"{name}: {len(series)} images without positions in the patient, so they do not form a volume. "
            "Give one of the files."
        )
    ordered, origin, spacing, direction = _checked_geometry(series, name)
    image = _read_pixels(ordered, name)
    image.SetSpacing(spacing)
    image.SetOrigin(origin.tolist())
    image.SetDirection(direction.ravel().tolist())
    return Volume(image, name, _info(ordered))


def _checked_geometry(
    series: Sequence[_Slice], name: str
) -> tuple[list[_Slice], NDArray[np.float64], tuple[float, float, float], NDArray[np.float64]]:
    """Slices in order of position, and the grid (origin, spacing, direction) that they lie on."""
    first = series[0].header
    in_plane = _pixel_spacing(first)
    _require_same_matrix(series, in_plane, name)
    thickness = float(first.get("SpacingBetweenSlices") or first.get("SliceThickness") or 1.0)
    if not _has_geometry(first):
        return list(series), np.zeros(3), (*in_plane, abs(thickness) or 1.0), np.eye(3)
    axes = _axes(first)
    if not np.allclose(axes.T @ axes, np.eye(3), atol=1e-3):
        raise InputError(
            f"{name}: the image axes in the header are not perpendicular. Export the series again."
        )
    if any(np.abs(_axes(s.header) - axes).max() > 1e-3 for s in series):
        raise InputError(
            f"{name}: the slices have different orientations (a localizer, or several stacks in one series). "
            "Keep one stack, or resample it to a regular grid."
        )
    ordered = sorted(series, key=lambda s: float(_position(s.header) @ axes[:, 2]))
    positions = np.stack([_position(s.header) for s in ordered])
    if len(ordered) > 1:
        thickness = _checked_slice_distance(positions, axes, name)
    # Remove what the few decimals of the header leave of non-orthogonality.
    left, _, right = np.linalg.svd(axes)
    return ordered, positions[0], (*in_plane, abs(thickness) or 1.0), left @ right


def _require_same_matrix(series: Sequence[_Slice], in_plane: tuple[float, float], name: str) -> None:
    if not all(np.isfinite(value) and value > 0 for value in in_plane):
        raise InputError(f"{name}: the pixel spacing in the header is not positive. Export the series again.")
    if len({(int(s.header.Rows), int(s.header.Columns)) for s in series}) > 1:
        raise InputError(f"{name}: the slices differ in rows or columns. Keep one stack of equal slices.")
    if any(not np.allclose(_pixel_spacing(s.header), in_plane, rtol=1e-3) for s in series):
        raise InputError(f"{name}: the slices differ in pixel spacing. Resample them to a regular grid.")


def _checked_slice_distance(positions: NDArray[np.float64], axes: NDArray[np.float64], name: str) -> float:
    """Millimetres between slices; raises InputError unless they form one regular, upright stack."""
    along = positions @ axes[:, 2]
    gaps = np.diff(along)
    duplicates = int((gaps < 1e-3).sum())
    if duplicates:
        raise InputError(
            f"{name}: {duplicates} slices lie at the same position as another (several echoes, time points "
            "or copies in one series). Keep one image per position."
        )
    order = np.arange(len(along))
    distance, start = (float(value) for value in np.polyfit(order, along, 1))
    # Sideways drift of the stack against its normal is how gantry tilt shows in the positions.
    sideways = np.linalg.norm((positions[-1] - positions[0]) @ axes[:, :2])
    tilt = float(np.degrees(np.arctan2(sideways, along[-1] - along[0])))
    if tilt > 0.5 and sideways > _IN_PLANE_TOLERANCE_MM:
        raise InputError(
            f"{name}: gantry tilt of {tilt:.1f} degrees: the slices are not stacked along their normal. "
            "Resample it to a regular grid (Slicer does so when it loads the series with 'Acquisition "
            "geometry regularization' on) and use that volume."
        )
    # Judged by where each slice ends up, not by the gaps: many headers hold rounded positions.
    if np.abs(along - (start + distance * order)).max() > max(0.01 * distance, 0.05):
        missing = int(np.round(gaps / np.median(gaps) - 1).clip(0).sum())
        cause = f"about {missing} slices seem to be missing" if missing else "the slice distance varies"
        raise InputError(
            f"{name}: irregular slice spacing ({gaps.min():.2f} to {gaps.max():.2f} mm, {cause}). Export the "
            "complete series, or resample it to a regular grid."
        )
    return distance


def _read_pixels(ordered: Sequence[_Slice], name: str) -> sitk.Image:
    import SimpleITK as sitk

    paths = [str(s.path) for s in ordered]
    reader = sitk.ImageSeriesReader()
    reader.SetImageIO("GDCMImageIO")
    reader.SetFileNames(paths)
    if any(_fractional_rescale(s.header) for s in ordered):
        # ITK takes the type of the whole series from its first file.
        reader.SetOutputPixelType(sitk.sitkFloat32)
    before = sitk.ProcessObject.GetGlobalWarningDisplay()
    sitk.ProcessObject.SetGlobalWarningDisplay(False)
    try:
        image = reader.Execute()
    except (RuntimeError, MemoryError) as error:
        syntax = getattr(ordered[0].header.file_meta.get("TransferSyntaxUID", ""), "name", "unknown")
        raise InputError(
            f"{name}: the pixels cannot be decoded (transfer syntax: {syntax}); the files are damaged, or "
            "compressed in a way that is not supported. Export them uncompressed."
        ) from error
    finally:
        sitk.ProcessObject.SetGlobalWarningDisplay(before)
    if str(ordered[0].header.get("PhotometricInterpretation", "")) == "MONOCHROME1":
        array = array_view(image)
        low, high = array.min(), array.max()
        inverted = sitk.GetImageFromArray(high - (array - low))
        inverted.CopyInformation(image)
        return inverted
    return image


def _fractional_rescale(header: Dataset) -> bool:
    values = (header.get("RescaleSlope"), header.get("RescaleIntercept"))
    return any(value is not None and not float(value).is_integer() for value in values)


def _info(ordered: Sequence[_Slice]) -> VolumeInfo:
    first = ordered[0].header
    tags: dict[str, Any] = {}
    for keyword in TECHNICAL_TAGS:
        value = _plain(first.get(keyword))
        if value not in (None, "", []):
            tags[keyword] = value
    tags["SOPInstanceUIDs"] = [str(s.header.get("SOPInstanceUID", "")) for s in ordered]
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
