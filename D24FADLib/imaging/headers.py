"""What a file's own header says, before ITK mends it silently.

ITK replaces a NIfTI spacing of 0 by 1, turns negative spacings into flips, and reads a cut-off NIfTI or a
damaged MetaImage as if the rest were there. All of it would put findings in the wrong place, so headers are
checked here.
"""

from __future__ import annotations

import gzip
import math
import re
import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, cast

import numpy as np

from ..errors import InputError
from ..wording import counted

_GZIP_MAGIC = b"\x1f\x8b"
_CHUNK = 1 << 22  # a multiple of every voxel size
_NIFTI_HEADER = 348
_MAX_TEXT_HEADER = 1 << 20
_SAME_SIZE = 0.01  # difference of two voxel sizes that says nothing: rounding, small registrations
NO_SPACING = "the header gives no voxel spacing; 1 mm is assumed"  # as of DICOM
# NRRD's kinds of axes that are not of space.
_OUTSIDE_SPACE = {
    "list", "vector", "point", "normal", "rgb-color", "rgba-color", "xyz-color", "hsv-color", "scalar",
    "stub", "3-vector", "2-vector", "4-vector", "3-color", "4-color", "complex", "time",
}  # fmt: skip
_SEGMENTATION_NAME = re.compile(r"\.seg\.\w+(\.gz)?$", re.IGNORECASE)
_SEGMENTATION_FIELDS = ("segment0_", "segmentation_")  # 3D Slicer's, in a NRRD header
_INTENT, _LABELS = 68, 1002  # NIfTI-1: where the intent_code is, and NIFTI_INTENT_LABEL


def check_spacing(name: str, spacing: list[float]) -> None:
    """Raises InputError unless each spacing (mm) is a positive number."""
    if not all(math.isfinite(value) and value > 0 for value in spacing):
        shown = " x ".join(f"{value:g}" for value in spacing)
        raise InputError(
            f"{name}: the header gives a voxel spacing of {shown} mm, and each must be positive. "
            "Export the image again, or correct its header."
        )


def check_direction(name: str, columns: np.ndarray) -> None:
    """Raises InputError unless the columns of this (n, n) matrix are orthonormal (within 1e-3)."""
    if not np.allclose(columns.T @ columns, np.eye(len(columns)), atol=1e-3):
        raise InputError(
            f"{name}: the axes of the image are not perpendicular to each other (sheared or damaged "
            "orientation in the header). Resample it to a regular grid first."
        )


def refuse_segmentation(path: Path) -> None:
    """Raises InputError for a segmentation, as far as its name (`.seg.nrrd`) or its header tells: the fields
    that 3D Slicer writes into a NRRD, or a NIfTI-1 intent of labels. A bare label image cannot be told."""
    name = path.name.lower()
    said = _SEGMENTATION_NAME.search(name) is not None
    if not said and name.endswith((".nrrd", ".nhdr")):
        said = any(key.startswith(_SEGMENTATION_FIELDS) for key in _text_fields(path, ":"))
    elif not said and name.endswith((".nii", ".nii.gz")):
        said = _nifti_intent(path) == _LABELS
    if said:
        raise InputError(f"{path.name}: a segmentation, not an image. Give the image that it was drawn on.")


def _nifti_intent(path: Path) -> int:
    with path.open("rb") as raw:
        zipped = raw.read(2) == _GZIP_MAGIC
        raw.seek(0)
        try:
            header = (gzip.GzipFile(fileobj=raw) if zipped else raw).read(_NIFTI_HEADER)
        except (EOFError, OSError, zlib.error):
            return 0
    if header[344:347] not in (b"n+1", b"ni1"):
        return 0
    order = "<" if struct.unpack_from("<i", header)[0] == _NIFTI_HEADER else ">"
    return int(struct.unpack_from(order + "h", header, _INTENT)[0])


def check_nifti(path: Path) -> tuple[str, ...]:
    """Spacing, sizes, completeness and numbers of a NIfTI-1 or Analyze file; raises InputError.
    Returns what is doubtful, in words."""
    name = path.name
    bad = 0
    with path.open("rb") as raw:
        zipped = raw.read(2) == _GZIP_MAGIC
        if zipped and path.suffix.lower() != ".gz":  # ITK goes by the name
            raise InputError(f"{name}: is compressed, and its name does not say so. Rename it to {name}.gz.")
        raw.seek(0)
        stream = cast(BinaryIO, gzip.GzipFile(fileobj=raw)) if zipped else raw
        try:
            header = stream.read(_NIFTI_HEADER)
            layout = _nifti_layout(name, header)
            held = len(header)
            # Reading to the end also verifies gzip's own checksum.
            held += len(stream.read(max(0, layout.offset - held)))
            while block := stream.read(_CHUNK):
                held += len(block)
                if layout.floating:
                    whole = len(block) - len(block) % layout.floating.itemsize
                    bad += int((~np.isfinite(np.frombuffer(block[:whole], layout.floating))).sum())
        except (EOFError, OSError, zlib.error) as error:
            raise InputError(_cut_off(name)) from error
    if held < layout.needed:
        raise InputError(_cut_off(name))
    if bad:
        # ITK would read them as 0.
        raise not_numbers(name, bad)
    return layout.doubts


def not_numbers(name: str, bad: int) -> InputError:
    return InputError(
        f"{name}: {counted(bad, 'voxel is not a number', 'voxels are not numbers')} (NaN or infinite). "
        "Replace such voxels, for example with the background value, and save the image again."
    )


def _cut_off(name: str) -> str:
    return f"{name}: the file is damaged or cut off before its end. Copy or export it again."


@dataclass(frozen=True)
class _NiftiLayout:
    """Where the voxels begin, how many bytes the unzipped file needs, the type of real numbers, and what is
    doubtful."""

    offset: int
    needed: int
    floating: np.dtype | None
    doubts: tuple[str, ...] = ()


def _nifti_layout(name: str, header: bytes) -> _NiftiLayout:
    lengths = {order: struct.unpack_from(order + "i", header.ljust(4, b"\0"))[0] for order in "<>"}
    if 540 in lengths.values() and header[4:6] in (b"n+", b"ni"):
        raise InputError(f"{name}: NIfTI-2 is not read. Save the image as NIfTI-1 (.nii.gz) or NRRD.")
    order = next((order for order, length in lengths.items() if length == _NIFTI_HEADER), None)
    if order is None or len(header) < _NIFTI_HEADER:
        raise InputError(f"{name}: not a NIfTI image, although its name ends like one. Give an image file.")
    dim = struct.unpack_from(order + "8h", header, 40)
    code, bits = struct.unpack_from(order + "2h", header, 70)
    pixdim = struct.unpack_from(order + "8f", header, 76)
    offset = struct.unpack_from(order + "f", header, 108)[0]
    axes = dim[0]
    if not 1 <= axes <= 7 or any(size < 1 for size in dim[1 : axes + 1]) or not 0 <= offset < 2**31:
        raise InputError(f"{name}: the NIfTI header is damaged (impossible sizes). Export the image again.")
    check_spacing(name, list(pixdim[1 : min(axes, 3) + 1]))
    if header[344:348] != b"n+1\0":
        return _NiftiLayout(_NIFTI_HEADER, _NIFTI_HEADER, None)  # the voxels are in a file of their own
    needed = int(offset) + math.prod(dim[1 : axes + 1]) * bits // 8
    floating = {16: np.dtype(order + "f4"), 64: np.dtype(order + "f8")}.get(code)
    return _NiftiLayout(
        int(offset), needed, floating, _two_sizes(header, order, pixdim[1 : min(axes, 3) + 1])
    )


def _two_sizes(header: bytes, order: str, pixdim: Sequence[float]) -> tuple[str, ...]:
    """Whether the matrix to the patient (sform) scales otherwise than pixdim, which is what ITK goes by. Both
    happen: a matrix may lead to a template's space, and programs that resample may leave either behind."""
    if struct.unpack_from(order + "h", header, 254)[0] <= 0:
        return ()
    matrix = np.array(struct.unpack_from(order + "12f", header, 280)).reshape(3, 4)
    sform = np.linalg.norm(matrix[:, : len(pixdim)], axis=0)
    if not sform.all() or np.allclose(sform, pixdim, rtol=_SAME_SIZE, atol=0):
        return ()
    shown = [" x ".join(f"{value:.4g}" for value in size) + " mm" for size in (pixdim, sform)]
    return (
        f"the header gives two voxel sizes, {shown[0]} (pixdim), which was taken, and {shown[1]} (sform), "
        "which other programs may take: places and volumes are wrong if the second is right",
    )


def _text_fields(path: Path, separator: str, last: str = "") -> dict[str, str]:
    """The `key<separator>value` lines of a text header, to the first empty line or the key `last`."""
    fields: dict[str, str] = {}
    with path.open("rb") as stream:
        for raw in stream.read(_MAX_TEXT_HEADER).split(b"\n"):
            line = raw.decode("latin-1").strip()
            if not line:
                break
            key, found, value = line.partition(separator)
            if found and not line.startswith("#"):
                fields[key.strip().lower()] = value.strip()
            if last and key.strip().lower() == last:
                break
    return fields


def _numbers(text: str) -> list[float]:
    values = []
    for word in text.replace(",", " ").split():
        try:
            values.append(float(word))
        except ValueError:
            values.append(math.nan)
    return values


def check_jpeg(path: Path) -> None:
    """Whether the last scan of a JPEG file ends; raises InputError. What is missing would be read as grey."""
    content = path.read_bytes()
    if content.rfind(b"\xff\xd9") < content.rfind(b"\xff\xda"):
        raise InputError(_cut_off(path.name))


def check_bmp(path: Path) -> None:
    """Whether an uncompressed BMP file holds all its rows; raises InputError."""
    with path.open("rb") as stream:
        header = stream.read(34)
    if len(header) < 34:
        return
    start, _, width, height, _, bits, packed = struct.unpack_from("<IIiiHHI", header, 10)
    row = (abs(width) * bits + 31) // 32 * 4  # rows end on four bytes
    if not packed and path.stat().st_size < start + row * abs(height):
        raise InputError(_cut_off(path.name))


def check_nrrd(path: Path) -> tuple[str, ...]:
    """Spacing and orientation of a NRRD header; raises InputError. Returns what is doubtful, in words."""
    fields = _text_fields(path, ":")
    spacing = _numbers(fields.get("spacings", ""))
    if "space directions" in fields:
        # "none" stands for an axis outside space (colour, time).
        parts = re.findall(r"none|\([^)]*\)", fields["space directions"].lower())
        vectors = [_numbers(part.strip("()")) for part in parts]
        spacing = [float(np.linalg.norm(vector)) for vector in vectors]
        spatial = [vector for vector in vectors if len(vector) > 1]
        if spatial and len({len(vector) for vector in spatial}) == 1:
            matrix = np.array(spatial).T
            lengths = np.linalg.norm(matrix, axis=0)
            check_spacing(path.name, lengths.tolist())
            if matrix.shape[0] == matrix.shape[1]:
                check_direction(path.name, matrix / lengths)
    return _nrrd_spacing(path.name, fields, spacing)


def _nrrd_spacing(name: str, fields: dict[str, str], spacing: list[float]) -> tuple[str, ...]:
    """`spacing`: of each axis, NaN where the header has none; ITK takes such an axis for one of 1 mm."""
    sizes = _numbers(fields.get("sizes", ""))
    kinds = fields.get("kinds", "").lower().split()
    spacing = [*spacing, *[math.nan] * (len(sizes) - len(spacing))][: len(sizes)]
    known = not all(map(math.isnan, spacing))

    def in_space(axis: int) -> bool:
        if axis < len(kinds):
            return kinds[axis] not in _OUTSIDE_SPACE
        # Without kinds a few values without a spacing are a colour.
        return not (known and math.isnan(spacing[axis]) and sizes[axis] <= 4 and len(sizes) > 3)

    if known:
        check_spacing(name, [spacing[n] for n, size in enumerate(sizes) if size > 1 and in_space(n)])
    return () if known else (NO_SPACING,)


def check_meta(path: Path) -> tuple[str, ...]:
    """Spacing and orientation of a MetaImage header, and zipped voxels whole; raises InputError. Returns what
    is doubtful, in words."""
    fields = _text_fields(path, "=", last="elementdatafile")
    if "elementspacing" in fields:
        check_spacing(path.name, _numbers(fields["elementspacing"]))
    matrix_text = next((fields[k] for k in ("transformmatrix", "rotation", "orientation") if k in fields), "")
    matrix = _numbers(matrix_text)
    axes = math.isqrt(len(matrix))
    if matrix and axes * axes == len(matrix):
        check_direction(path.name, np.array(matrix).reshape(axes, axes).T)
    if fields.get("compresseddata", "").lower() in ("true", "1"):
        _check_zipped(path, fields.get("elementdatafile", ""))
    return () if fields.keys() & {"elementspacing", "elementsize"} else (NO_SPACING,)


def _check_zipped(path: Path, data_file: str) -> None:
    """ITK takes what it could unzip of a damaged MetaImage for all of it. Raises InputError."""
    local = data_file.upper() == "LOCAL"
    source = path if local else path.parent / data_file
    if not source.is_file():
        return  # several files, or none: ITK says so
    with source.open("rb") as stream:
        if local:
            header = stream.read(_MAX_TEXT_HEADER)
            found = re.search(rb"elementdatafile\s*=[^\n]*\n", header, re.IGNORECASE)
            stream.seek(found.end() if found else 0)
        unzip = zlib.decompressobj(32 + zlib.MAX_WBITS)  # zlib's or gzip's own header
        try:
            while not unzip.eof and (block := unzip.unconsumed_tail or stream.read(_CHUNK)):
                unzip.decompress(block, _CHUNK)
            unzip.flush()
        except zlib.error as error:
            raise InputError(_cut_off(path.name)) from error
    if not unzip.eof:
        raise InputError(_cut_off(path.name))
