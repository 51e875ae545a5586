"""NRRD in pieces: a header, then voxels copied chunk by chunk between turns of an event loop.

Written raw; read raw or gzipped.
"""

from __future__ import annotations

import os
import sys
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

CHUNK_BYTES = 8_000_000  # a few milliseconds from memory to disk
_TYPES = {
    "int8": "int8", "uint8": "uint8", "int16": "int16", "uint16": "uint16", "int32": "int32",
    "uint32": "uint32", "int64": "int64", "uint64": "uint64", "float32": "float", "float64": "double",
}  # fmt: skip
_NAMES = {
    "signed char": "int8", "int8": "int8", "int8_t": "int8",
    "uchar": "uint8", "unsigned char": "uint8", "uint8": "uint8", "uint8_t": "uint8",
    "short": "int16", "short int": "int16", "signed short": "int16", "int16": "int16", "int16_t": "int16",
    "ushort": "uint16", "unsigned short": "uint16", "uint16": "uint16", "uint16_t": "uint16",
    "int": "int32", "signed int": "int32", "int32": "int32", "int32_t": "int32",
    "uint": "uint32", "unsigned int": "uint32", "uint32": "uint32", "uint32_t": "uint32",
    "longlong": "int64", "long long": "int64", "int64": "int64", "int64_t": "int64",
    "ulonglong": "uint64", "unsigned long long": "uint64", "uint64": "uint64", "uint64_t": "uint64",
    "float": "float32", "double": "float64",
}  # fmt: skip


class NrrdError(ValueError):
    """The file is no three-dimensional NRRD of one value a voxel, or it is damaged."""


@dataclass(frozen=True)
class Header:
    """What the header says: where the voxels lie, and where the data begin."""

    shape: tuple[int, int, int]  # (k, j, i)
    dtype: np.dtype
    ijk_to_ras: NDArray[np.float64]  # 4 x 4
    offset: int
    compressed: bool = False


def write(path: str | os.PathLike[str], array: NDArray, ijk_to_ras: NDArray) -> Iterator[tuple[int, int]]:
    """Write (k, j, i) voxels; yields (bytes written, all bytes) after each chunk. Nothing but geometry."""
    if array.ndim != 3:
        raise NrrdError("only volumes of one value a voxel can be written")
    lps = np.diag([-1.0, -1.0, 1.0, 1.0]) @ np.asarray(ijk_to_ras, float)
    columns = " ".join(_vector(lps[:3, axis]) for axis in range(3))
    header = "\n".join(
        [
            "NRRD0004",
            f"type: {_TYPES[array.dtype.name]}",
            "dimension: 3",
            "space: left-posterior-superior",
            f"sizes: {array.shape[2]} {array.shape[1]} {array.shape[0]}",
            f"space directions: {columns}",
            "kinds: domain domain domain",
            f"endian: {sys.byteorder}",
            "encoding: raw",
            f"space origin: {_vector(lps[:3, 3])}",
            "",
            "",
        ]
    )
    slices = max(1, CHUNK_BYTES // max(1, array[0].nbytes))
    written = 0
    with open(path, "xb", buffering=0) as file:
        file.write(header.encode("ascii"))
        for start in range(0, array.shape[0], slices):
            piece = np.ascontiguousarray(array[start : start + slices])
            file.write(piece.view(np.uint8).data)
            written += piece.nbytes
            yield written, array.nbytes


def _vector(values: NDArray) -> str:
    return "(" + ",".join(repr(float(value)) for value in values) + ")"


def read_header(path: str | os.PathLike[str]) -> Header:
    """Raises NrrdError for whatever `read_into` cannot take."""
    name = Path(path).name
    with open(path, "rb") as file:
        start = file.read(65536)
    end, gap = start.find(b"\n\n"), 2
    if end < 0:
        end, gap = start.find(b"\r\n\r\n"), 4
    if not start.startswith(b"NRRD") or end < 0:
        raise NrrdError(f"{name} is not an NRRD file")
    fields = {}
    for line in start[:end].decode("utf-8", "replace").splitlines()[1:]:
        key, separator, value = line.partition(": ")
        if separator and not line.startswith("#"):
            fields[key.strip().lower()] = value.strip()
    compressed = fields.get("encoding") in ("gzip", "gz")
    if not (compressed or fields.get("encoding") == "raw") or fields.get("dimension") != "3":
        raise NrrdError(f"{name} is neither a raw nor a gzipped volume")
    try:
        sizes = [int(word) for word in fields["sizes"].split()]
        dtype = np.dtype(_NAMES[fields["type"]])
        columns = [_numbers(word) for word in fields["space directions"].split(") ")]
        origin = _numbers(fields["space origin"])
        flip = {"left-posterior-superior": (-1, -1, 1), "lps": (-1, -1, 1), "ras": (1, 1, 1),
                "right-anterior-superior": (1, 1, 1)}[fields["space"].lower()]  # fmt: skip
    except (KeyError, ValueError) as error:
        raise NrrdError(f"{name} has a header that cannot be read") from error
    if dtype.itemsize > 1:
        dtype = dtype.newbyteorder("<" if fields.get("endian", "little") == "little" else ">")
    matrix = np.eye(4)
    matrix[:3, :3] = np.array(columns).T
    matrix[:3, 3] = origin
    shape = (sizes[2], sizes[1], sizes[0])
    header = Header(shape, dtype, np.diag([*flip, 1.0]) @ matrix, end + gap, compressed)
    if not compressed and os.path.getsize(path) < header.offset + int(np.prod(header.shape)) * dtype.itemsize:
        raise NrrdError(f"{name} is cut off")
    return header


def _numbers(word: str) -> list[float]:
    return [float(number) for number in word.strip(" ()").split(",")]


def read_into(path: str | os.PathLike[str], header: Header, array: NDArray) -> Iterator[tuple[int, int]]:
    """Fill a (k, j, i) array of the header's shape; yields (bytes read, all bytes) after each chunk."""
    flat = array.reshape(-1)
    if flat.base is None or array.shape != header.shape:
        raise NrrdError("the array does not fit the file")
    size, total = header.dtype.itemsize, flat.size * header.dtype.itemsize
    filled, rest = 0, b""
    for block in _blocks(path, header):
        rest += block
        count = min(len(rest) // size, flat.size - filled)
        flat[filled : filled + count] = np.frombuffer(rest, header.dtype, count)
        filled, rest = filled + count, rest[count * size :]
        yield filled * size, total
    if filled != flat.size:
        raise NrrdError(f"{Path(path).name} is cut off")


def _blocks(path: str | os.PathLike[str], header: Header) -> Iterator[bytes]:
    """The file's voxels, decompressed, in pieces that take a few milliseconds each."""
    with open(path, "rb") as file:
        file.seek(header.offset)
        if not header.compressed:
            while block := file.read(CHUNK_BYTES):
                yield block
            return
        unpacker = zlib.decompressobj(zlib.MAX_WBITS | 16)
        pending = b""
        while not unpacker.eof:
            pending = pending or file.read(CHUNK_BYTES // 8)
            if not pending:
                return
            try:
                block = unpacker.decompress(pending, CHUNK_BYTES // 4)
            except zlib.error as error:
                raise NrrdError(f"{Path(path).name} is damaged") from error
            pending = unpacker.unconsumed_tail
            yield block
