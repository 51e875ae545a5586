"""Makes real DICOM files for the tests: small series with every oddity that archives hold."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

CT_CLASS = "1.2.840.10008.5.1.4.1.1.2"
MR_CLASS = "1.2.840.10008.5.1.4.1.1.4"
AXIAL = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
SAGITTAL = (0.0, 1.0, 0.0, 0.0, 0.0, -1.0)
OBLIQUE = (0.98, 0.198997, 0.0, -0.195, 0.960288, 0.199490)

# Values that must never leave the files: the privacy tests look for them.
PHI = {
    "PatientName": "Quillfeather^Zebulon",
    "PatientID": "PID7734921",
    "PatientBirthDate": "19310417",
    "AccessionNumber": "ACC5582013",
}


@dataclass
class SeriesSpec:
    """A series to write. `edit(dataset, k)` changes each file at the end."""

    voxels: NDArray[Any]
    spacing: tuple[float, float, float] = (0.8, 0.9, 2.0)  # columns, rows, slices
    orientation: Sequence[float] = AXIAL
    origin: Sequence[float] = (-20.0, -30.0, 100.0)
    modality: str = "MR"
    study_uid: str = field(default_factory=generate_uid)
    series_uid: str = field(default_factory=generate_uid)
    frame_uid: str = field(default_factory=generate_uid)
    slope: float = 1.0
    intercept: float = 0.0
    phi: dict[str, str] = field(default_factory=lambda: dict(PHI))
    positions: NDArray[np.float64] | None = None
    edit: Callable[[Dataset, int], None] | None = None
    tags: dict[str, Any] = field(default_factory=dict)

    def axes(self) -> NDArray[np.float64]:
        row, column = np.array(self.orientation, dtype=float).reshape(2, 3)
        row, column = row / np.linalg.norm(row), column / np.linalg.norm(column)
        return np.stack([row, column, np.cross(row, column)], axis=1)

    def position(self, k: int) -> NDArray[np.float64]:
        if self.positions is not None:
            return self.positions[k]
        return np.array(self.origin) + self.axes()[:, 2] * self.spacing[2] * k


def dataset_of(spec: SeriesSpec, k: int) -> FileDataset:
    """Slice k as a complete CT or MR image object."""
    kind = CT_CLASS if spec.modality == "CT" else MR_CLASS
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = kind
    meta.MediaStorageSOPInstanceUID = generate_uid()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    ds.SOPClassUID, ds.SOPInstanceUID = kind, meta.MediaStorageSOPInstanceUID
    ds.StudyInstanceUID, ds.SeriesInstanceUID = spec.study_uid, spec.series_uid
    ds.FrameOfReferenceUID, ds.PositionReferenceIndicator = spec.frame_uid, ""
    for keyword, value in spec.phi.items():
        setattr(ds, keyword, value)
    ds.PatientSex, ds.StudyID, ds.ReferringPhysicianName = "O", "S1", ""
    ds.StudyDate, ds.StudyTime, ds.Modality = "20260102", "101112", spec.modality
    ds.Manufacturer, ds.SeriesNumber, ds.InstanceNumber, ds.AcquisitionNumber = "Maker", 3, k + 1, 1
    ds.SeriesDescription, ds.ImageType = "t1 axial", ["ORIGINAL", "PRIMARY", "AXIAL"]
    ds.ImagePositionPatient = [f"{v:.10g}" for v in spec.position(k)]
    ds.ImageOrientationPatient = [f"{v:.8g}" for v in spec.axes()[:, :2].T.ravel()]
    ds.PixelSpacing = [spec.spacing[1], spec.spacing[0]]
    ds.SliceThickness = spec.spacing[2]
    plane = spec.voxels[k]
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
    ds.Rows, ds.Columns = plane.shape
    ds.BitsAllocated = ds.BitsStored = plane.dtype.itemsize * 8
    ds.HighBit, ds.PixelRepresentation = ds.BitsStored - 1, int(plane.dtype.kind == "i")
    if spec.modality == "CT" or spec.slope != 1 or spec.intercept != 0:
        ds.RescaleSlope, ds.RescaleIntercept, ds.RescaleType = spec.slope, spec.intercept, "HU"
    if spec.modality == "CT":
        ds.KVP = 120
    else:
        ds.ScanningSequence, ds.SequenceVariant, ds.ScanOptions = "SE", "NONE", ""
        ds.MRAcquisitionType, ds.EchoTime, ds.RepetitionTime, ds.EchoTrainLength = "2D", 15.0, 550.0, 1
    ds.PixelData = plane.tobytes()
    ds["PixelData"].VR = "OW"
    for keyword, value in spec.tags.items():
        setattr(ds, keyword, value)
    if spec.edit is not None:
        spec.edit(ds, k)
    return ds


def write_many(folder: Path, count: int) -> None:
    """A folder that takes long to read: one series, and its first file under `count` further names."""
    first = write_series(folder, SeriesSpec(phantom(3)))[0]
    for number in range(count):
        os.link(first, folder / f"more{number:05d}.dcm")


def write_series(folder: Path, spec: SeriesSpec, names: Sequence[str] | None = None) -> list[Path]:
    """Write a series; paths are in order of k, whatever the file names are."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for k in range(len(spec.voxels)):
        path = folder / (names[k] if names is not None else f"img{k:03d}.dcm")
        dataset_of(spec, k).save_as(path, enforce_file_format=True)
        paths.append(path)
    return paths


def phantom(slices: int = 6, rows: int = 20, columns: int = 24, seed: int = 1) -> NDArray[np.int16]:
    """Voxels that are different everywhere: a gradient with noise."""
    rng = np.random.default_rng(seed)
    k, j, i = np.mgrid[:slices, :rows, :columns]
    return (100 + 90 * k + 7 * j + 3 * i + rng.integers(0, 20, k.shape)).astype(np.int16)


def multiframe(spec: SeriesSpec, path: Path, order: Sequence[int] | None = None) -> Path:
    """The same series as one enhanced MR or CT object, frames in `order`."""
    order = list(order if order is not None else range(len(spec.voxels)))
    ds = dataset_of(spec, 0)
    kind = "1.2.840.10008.5.1.4.1.1.4.1" if spec.modality == "MR" else "1.2.840.10008.5.1.4.1.1.2.1"
    ds.SOPClassUID = ds.file_meta.MediaStorageSOPClassUID = kind
    for keyword in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "SliceThickness"):
        delattr(ds, keyword)
    for keyword in ("RescaleSlope", "RescaleIntercept", "RescaleType"):
        if keyword in ds:
            delattr(ds, keyword)
    ds.NumberOfFrames = len(order)
    shared, orientation, measures, values = Dataset(), Dataset(), Dataset(), Dataset()
    orientation.ImageOrientationPatient = [f"{v:.8g}" for v in spec.axes()[:, :2].T.ravel()]
    measures.PixelSpacing, measures.SliceThickness = [spec.spacing[1], spec.spacing[0]], spec.spacing[2]
    values.RescaleSlope, values.RescaleIntercept, values.RescaleType = spec.slope, spec.intercept, "US"
    shared.PlaneOrientationSequence = [orientation]
    shared.PixelMeasuresSequence = [measures]
    shared.PixelValueTransformationSequence = [values]
    ds.SharedFunctionalGroupsSequence = [shared]
    frames = []
    for number, k in enumerate(order, start=1):
        frame, plane, content = Dataset(), Dataset(), Dataset()
        plane.ImagePositionPatient = [f"{v:.10g}" for v in spec.position(k)]
        content.StackID, content.InStackPositionNumber = "1", number
        content.DimensionIndexValues = [1, number]
        frame.PlanePositionSequence, frame.FrameContentSequence = [plane], [content]
        frames.append(frame)
    ds.PerFrameFunctionalGroupsSequence = frames
    ds.ContentDate, ds.ContentTime = "20260102", "101112"
    ds.PixelData = np.ascontiguousarray(spec.voxels[order]).tobytes()
    ds["PixelData"].VR = "OW"
    path.parent.mkdir(parents=True, exist_ok=True)
    ds.save_as(path, enforce_file_format=True)
    return path


def reread(path: Path, change: Callable[[pydicom.FileDataset], None]) -> None:
    """Change a file in place."""
    ds = pydicom.dcmread(path)
    change(ds)
    ds.save_as(path)
