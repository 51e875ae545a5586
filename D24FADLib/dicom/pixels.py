"""Decoding the pixels of frames, whatever their transfer syntax, and rescaling them (PS3.3 C.11.1).

Compressed syntaxes are decoded by plugins of pydicom: pylibjpeg with pylibjpeg-libjpeg (JPEG, JPEG-LS),
pylibjpeg-openjpeg (JPEG 2000) and pylibjpeg-rle, all in the extra `dicom`. Where one is not installed,
SimpleITK's GDCM stands in for single grey images.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError
from ..wording import counted
from . import headers
from .decoding import ChildDecoder, Undecodable, decodable, itk_decodes, stored_values
from .frames import Frame

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

# 16384 x 16384; larger frames are damaged headers or slides, and neither is read here.
_MOST_PIXELS = 1 << 28
_MOST_VOXELS = 1 << 31


def decode(frames: Sequence[Frame], name: str) -> NDArray[Any]:
    """Rescaled voxels (slice, row, column[, 3]); raises InputError that names the file and the reason."""
    first = frames[0]
    if first.rows * first.columns * len(frames) > _MOST_VOXELS or first.rows * first.columns > _MOST_PIXELS:
        raise InputError(
            f"{name}: {counted(len(frames), 'image')} of {first.columns} x {first.rows} pixels: "
            "too large to read."
        )
    identity = all(frame.slope == 1 and float(frame.intercept).is_integer() for frame in frames)
    planes: list[NDArray[Any]] = []
    opened: tuple[str, Dataset] | None = None
    with headers.quiet(), ChildDecoder() as child:
        for frame in frames:
            if opened is None or opened[0] != frame.path:
                opened = (frame.path, _open(frame))
            planes.append(_plane(opened[1], frame, identity, child))
    shapes = {plane.shape for plane in planes}
    if len(shapes) > 1:
        raise InputError(f"{name}: the decoded images differ in size. Fetch the series again.")
    return _compact(np.stack(planes))


def _label(frame: Frame) -> str:
    """What messages call an image: its instance UID, for file names may name the patient."""
    return f"image {frame.sop_instance_uid or 'without UID'}"


def _open(frame: Frame) -> Dataset:
    try:
        with open(frame.path, "rb") as stream:
            return headers.parse(stream)
    except Exception as error:  # damaged since it was indexed
        raise InputError(f"{_label(frame)}: cannot be read any more. Fetch the file again.") from error


def _plane(dataset: Dataset, frame: Frame, identity: bool, child: ChildDecoder) -> NDArray[Any]:
    raw = _raw_plane(dataset, frame, child)
    expected = (frame.rows, frame.columns)
    if raw.shape[:2] != expected or raw.ndim not in (2, 3):
        raise InputError(f"{_label(frame)}: the decoded image is not as large as its header says.")
    if raw.ndim == 3:
        return raw[..., :3]
    values: NDArray[Any]
    if headers.items(dataset, "ModalityLUTSequence"):
        values = _looked_up(dataset, frame, raw)
    elif identity:
        values = raw if frame.intercept == 0 else raw.astype(np.int64) + int(frame.intercept)
    else:
        values = (raw * np.float64(frame.slope) + frame.intercept).astype(np.float32)
    if headers.text(dataset, "PhotometricInterpretation") == "MONOCHROME1":
        values = _inverted(dataset, values, frame)
    return values


def _looked_up(dataset: Dataset, frame: Frame, raw: NDArray[Any]) -> NDArray[Any]:
    from pydicom.pixels import apply_modality_lut

    try:
        return np.asarray(apply_modality_lut(raw, dataset))
    except Exception as error:  # a damaged table
        raise InputError(f"{_label(frame)}: its Modality LUT cannot be applied.") from error


def _inverted(dataset: Dataset, values: NDArray[Any], frame: Frame) -> NDArray[Any]:
    """MONOCHROME1 (PS3.3 C.7.6.3.1.2) shown as MONOCHROME2, over the range of the stored bits."""
    bits = headers.whole(dataset, "BitsStored") or 16
    signed = headers.whole(dataset, "PixelRepresentation") == 1
    low = -(1 << (bits - 1)) if signed else 0
    high = low + (1 << bits) - 1
    ends = np.array([low, high]) * frame.slope + frame.intercept
    if values.dtype.kind == "f":
        return (np.float32(ends.sum()) - values).astype(np.float32)
    return int(ends.sum()) - values.astype(np.int64)


def _raw_plane(dataset: Dataset, frame: Frame, child: ChildDecoder) -> NDArray[Any]:
    """Stored values of one frame; colour as RGB."""
    syntax = headers.text(getattr(dataset, "file_meta", None), "TransferSyntaxUID")
    try:
        if headers.is_compressed(syntax):
            if not decodable(syntax) and not itk_decodes(dataset):
                raise Undecodable("")
            return child.stored_values(frame.path, frame.number, frame.rows * frame.columns)
        return stored_values(dataset, frame.number)
    except MemoryError as error:
        raise InputError(f"{_label(frame)}: not enough memory to decode it.") from error
    except Exception as error:  # pydicom raises a dozen kinds on damaged files
        why = f" ({error})" if isinstance(error, Undecodable) and str(error) else ""
        raise InputError(_why_not(syntax, _label(frame)) + why) from error


def _why_not(syntax: str, label: str) -> str:
    from pydicom.pixels import get_decoder
    from pydicom.uid import UID

    known = UID(syntax) if headers.is_uid(syntax) else None
    if known is None or known.is_private or known.name == syntax:
        return f"{label}: private or unknown transfer syntax. Ask the archive to send it uncompressed."
    try:
        decoder = get_decoder(known)
    except NotImplementedError:
        return f"{label}: {known.name} is not supported. Ask the archive to send the series uncompressed."
    if not decoder.is_available:
        return (
            f"{label}: {known.name} needs a decoder that is not installed. Install d24fad[dicom], or ask the "
            "archive to send the series uncompressed."
        )
    return f"{label}: its pixels cannot be decoded ({known.name}); the file is damaged. Fetch it again."


def _compact(voxels: NDArray[Any]) -> NDArray[Any]:
    """64-bit whole numbers in the smallest type of SimpleITK that holds them."""
    if voxels.dtype.kind not in "iu" or voxels.dtype.itemsize < 4:
        return voxels
    low, high = int(voxels.min()), int(voxels.max())
    for kind in (np.int16, np.uint16, np.int32):
        if np.iinfo(kind).min <= low and high <= np.iinfo(kind).max:
            return voxels.astype(kind)
    return voxels.astype(np.float32)
