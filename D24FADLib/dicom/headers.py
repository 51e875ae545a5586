"""Reading DICOM headers without trusting them.

A value is asked for by keyword and comes back as a plain Python value, or as None where it is absent,
empty or broken: real archives hold zero-length tags, wrong value representations and cut-off files. This
is the one place that turns whatever pydicom raises on such bytes into one exception, `Unreadable`.
"""

from __future__ import annotations

import logging
import math
import os
import re
import struct
import warnings
from collections.abc import Iterator, MutableSequence
from contextlib import contextmanager, suppress
from functools import cache
from io import BufferedReader, BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, TypeAlias

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

# PS3.5 section 9.1: digits and dots, at most 64 characters. Leading zeros are wrong but common.
_UID = re.compile(r"^[0-9]+(\.[0-9]+)+$")
_PIXEL_ELEMENTS = {0x7FE00008, 0x7FE00009, 0x7FE00010}
_DEFLATED = "1.2.840.10008.1.2.1.99"
_BIG_ENDIAN = "1.2.840.10008.1.2.2"
_IMPLICIT = "1.2.840.10008.1.2"
_EXPLICIT = "1.2.840.10008.1.2.1"
_UNDEFINED = 0xFFFFFFFF
_FIRST_BYTES = 1 << 16
# Value representations (PS3.5 section 6.2) that are ASCII always, and where no character set says otherwise.
_ASCII = ("UI", "CS", "DS", "IS", "DA", "TM")
_ASCII_MOSTLY = ("LO", "SH", "PN")
_TALKATIVE = {
    "pydicom",
    "highdicom",
    "pynetdicom",
    "dicomweb_client",
    "openjpeg",
    "libjpeg",
    "pylibjpeg",
    "rle",
    "retrying",
    "urllib3",
}


class Unreadable(Exception):
    """A file that is no DICOM object, or a broken one. The text says why and holds no patient data.

    `header` is what could be parsed, to recognise a file name that repeats the patient's.
    """

    header: Dataset | None = None


class Snapshot:
    """A header that will not change, its elements by plain number: much faster to ask than pydicom's Dataset.

    The functions of this module take it in place of one.
    """

    __slots__ = ("dataset", "elements", "file_meta")

    def __init__(self, dataset: Dataset) -> None:
        self.dataset = dataset
        self.elements: dict[int, Any] = {int(tag): element for tag, element in dataset.items()}
        self.file_meta = getattr(dataset, "file_meta", None)

    def __contains__(self, keyword: str) -> bool:
        return int(_dictionary(keyword)[0]) in self.elements


Header: TypeAlias = "Dataset | Snapshot"


@contextmanager
def quiet() -> Iterator[None]:
    """Keep the libraries' remarks on values, which may quote patient data, unsaid."""
    for name in _TALKATIVE:
        logging.getLogger(name)  # one that is imported only inside is silenced, too
    silenced = [
        logger
        for name, logger in list(logging.root.manager.loggerDict.items())
        if isinstance(logger, logging.Logger) and name.split(".")[0] in _TALKATIVE and not logger.disabled
    ]
    for logger in silenced:
        logger.disabled = True
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger in silenced:
            logger.disabled = False


def read_header(path: str | os.PathLike[str]) -> tuple[Dataset, bool]:
    """The header of a DICOM file and whether its pixel data follow; raises Unreadable.

    Pixel data that are cut off, or shorter than the header says, make the file unreadable too. Callers
    that read many files enter `quiet` once around all of them.
    """
    from pydicom.errors import InvalidDicomError

    header: Dataset | None = None
    try:
        with open(path, "rb", buffering=0) as file:
            header, start = _parse_start(file)
            syntax = text(header.file_meta, "TransferSyntaxUID")
            pixels = syntax == _DEFLATED or _check_pixel_element(file, start, header, syntax)
    except InvalidDicomError as error:
        raise Unreadable("not a DICOM file") from error
    except Unreadable as error:
        error.header = header
        raise
    except PermissionError as error:
        raise Unreadable("no permission to read it") from error
    except OSError as error:
        raise Unreadable(f"cannot be read ({error.strerror or 'input/output error'})") from error
    except Exception as error:  # bytes from outside: pydicom raises a dozen kinds on damaged ones
        raise Unreadable("damaged: its header cannot be parsed") from error
    return header, pixels


def _parse_start(file: Any) -> tuple[Dataset, int]:
    """The header of an open, unbuffered file, and where it ends.

    Nearly always its first part is enough, and pydicom is faster in memory.
    """
    buffer = BytesIO(file.read(_FIRST_BYTES))
    try:
        header = parse(buffer, stop_before_pixels=True)
        if buffer.tell() + 12 <= _FIRST_BYTES or os.fstat(file.fileno()).st_size <= _FIRST_BYTES:
            return header, buffer.tell()
    except Exception:  # it may only lack what follows
        if len(buffer.getvalue()) < _FIRST_BYTES:
            raise
    stream = BufferedReader(file)
    stream.seek(0)
    header = parse(stream, stop_before_pixels=True)
    start = stream.tell()
    stream.detach()
    return header, start


def parse(stream: BinaryIO, stop_before_pixels: bool = False) -> Dataset:
    """As pydicom.dcmread, also for a file without preamble and meta information (PS3.10 section 7.1), as
    old archives and discs hold them; raises as that does."""
    import pydicom
    from pydicom.errors import InvalidDicomError
    from pydicom.uid import UID

    try:
        return pydicom.dcmread(stream, stop_before_pixels=stop_before_pixels)
    except InvalidDicomError:
        stream.seek(0)
        head = stream.read(8)
        stream.seek(0)
        if not _starts_a_dataset(head):
            raise
    dataset = pydicom.dcmread(stream, stop_before_pixels=stop_before_pixels, force=True)
    if "TransferSyntaxUID" not in dataset.file_meta:
        implicit, little = dataset.original_encoding
        syntax = _IMPLICIT if implicit else _EXPLICIT if little else _BIG_ENDIAN
        dataset.file_meta.TransferSyntaxUID = UID(syntax)
    return dataset


def _starts_a_dataset(head: bytes) -> bool:
    """True for the first element of a data set: of group 2 or 8, in little endian, of a likely length."""
    if len(head) < 8 or head[:2] not in (b"\x02\0", b"\x08\0") or head[3] != 0:
        return False
    if head[4:6].isalpha():
        return head[4:6].isupper()
    return struct.unpack_from("<I", head, 4)[0] <= 128


def _check_pixel_element(file: Any, start: int, header: Dataset, syntax: str) -> bool:
    """True where a pixel element starts there and is complete, False where there is none."""
    size = os.fstat(file.fileno()).st_size
    file.seek(start)
    head = file.read(12)
    if not head:
        return False
    order = ">" if syntax == _BIG_ENDIAN else "<"
    if len(head) < 8:
        raise Unreadable("cut off before its end")
    group, element = struct.unpack_from(order + "HH", head)
    if (group << 16 | element) not in _PIXEL_ELEMENTS:
        return False
    explicit = head[4:6].isalpha()
    if explicit and len(head) < 12:
        raise Unreadable("cut off before its end")
    length = struct.unpack_from(order + "I", head, 8 if explicit else 4)[0]
    if length == _UNDEFINED:
        _check_fragments(file, start + 12, size)
        return True
    if start + (12 if explicit else 8) + length > size:
        raise Unreadable("cut off before its end: pixel data are missing")
    if length < expected_pixel_bytes(header) and not is_compressed(syntax):
        raise Unreadable("its pixel data are shorter than rows, columns and frames say")
    return True


def _check_fragments(file: Any, start: int, size: int) -> None:
    """Encapsulated pixel data (PS3.5 A.4): items up to a sequence delimiter, all inside the file."""
    at = start
    while True:
        file.seek(at)
        item = file.read(8)
        if len(item) < 8:
            raise Unreadable("cut off before its end: pixel data are missing")
        group, element, length = struct.unpack("<HHI", item)
        if (group, element) == (0xFFFE, 0xE0DD):
            return
        if (group, element) != (0xFFFE, 0xE000) or length == _UNDEFINED:
            raise Unreadable("damaged: its compressed pixel data are not in order")
        at += 8 + length
        if at > size:
            raise Unreadable("cut off before its end: pixel data are missing")


def is_compressed(syntax: str) -> bool:
    """True for every transfer syntax but the native ones (PS3.5 A.1 to A.3)."""
    return syntax not in ("", _IMPLICIT, _EXPLICIT, _BIG_ENDIAN, _DEFLATED)


def expected_pixel_bytes(header: Header) -> int:
    """How many bytes native pixel data must have (PS3.3 C.7.6.3)."""
    counts = [whole(header, keyword) or 0 for keyword in ("Rows", "Columns", "BitsAllocated")]
    frames = max(1, whole(header, "NumberOfFrames") or 1)
    samples = max(1, whole(header, "SamplesPerPixel") or 1)
    bits = counts[0] * counts[1] * counts[2] * samples * frames
    if str(get(header, "PhotometricInterpretation") or "") == "YBR_FULL_422":
        bits = bits * 2 // 3
    return (bits + 7) // 8


@cache
def _dictionary(keyword: str) -> tuple[Any, str, int]:
    """The tag of a keyword, its value representation where `_plain` reads it, else "", and its number."""
    from pydicom.datadict import dictionary_VR, tag_for_keyword
    from pydicom.tag import Tag

    tag = Tag(tag_for_keyword(keyword) or keyword)
    vr = dictionary_VR(tag)
    return tag, vr if vr in _ASCII or vr in _ASCII_MOSTLY or vr == "US" else "", int(tag)


def _element(dataset: Header, keyword: str) -> Any:
    """The element as it was read, None where absent; raises as pydicom, which parses some on the way."""
    tag, _, number = _dictionary(keyword)
    if isinstance(dataset, Snapshot):
        return dataset.elements.get(number)
    return dataset.get_item(tag) if tag in dataset else None


def _plain(dataset: Header, keyword: str) -> str | None:
    """An element's value as text straight from its bytes; None where pydicom has to parse it.

    pydicom's own conversion of a header takes several times as long as reading it.
    """
    vr = _dictionary(keyword)[1]
    if not vr:
        return None
    try:
        element = _element(dataset, keyword)
    except Exception:  # a broken one counts as absent
        return ""
    if element is None:
        return ""
    value = getattr(element, "value", None)
    if not isinstance(value, bytes) or getattr(element, "VR", None) not in (None, vr):
        return None
    if vr == "US":
        if len(value) != 2:
            return None
        return str(int.from_bytes(value, "little" if element.is_little_endian else "big"))
    if vr in _ASCII_MOSTLY and not (value.isascii() and b"\x1b" not in value):
        return None  # a character set is needed
    return value.decode("ascii", "replace").rstrip("\0 ")


def raw(dataset: Header, keyword: str) -> bytes | str | None:
    """An element's value as it was read, to tell whether two files hold the same; None where absent."""
    try:
        value = getattr(_element(dataset, keyword), "value", None)
    except Exception:
        return "?"
    return value if value is None or isinstance(value, bytes) else str(value)


def get(dataset: Header | None, keyword: str) -> Any:
    """The value of an attribute; None where absent, empty or not to be parsed."""
    if isinstance(dataset, Snapshot):
        dataset = dataset.dataset if keyword in dataset else None
    if dataset is None or _dictionary(keyword)[0] not in dataset:
        return None
    try:
        value = dataset.get(keyword)
        return None if value is None or (hasattr(value, "__len__") and len(value) == 0) else value
    except Exception:  # pydicom parses values only when asked; a broken one counts as absent
        return None


def text(dataset: Header | None, keyword: str) -> str:
    """An attribute as text without control characters, "" where there is none."""
    if dataset is None:
        return ""
    shown = _plain(dataset, keyword)
    if shown is None:
        value = get(dataset, keyword)
        if value is None:
            return ""
        plain = not isinstance(value, MutableSequence)  # a PersonName can be iterated, too
        try:
            shown = str(value) if plain else "\\".join(map(str, value))
        except Exception:  # a value whose text cannot be made
            return ""
    return shown.strip() if shown.isprintable() else "".join(c for c in shown if c.isprintable()).strip()


def numbers(dataset: Header | None, keyword: str) -> tuple[float, ...]:
    """An attribute as finite numbers; () where absent or where any value is none."""
    if dataset is None:
        return ()
    parts: Any = _plain(dataset, keyword)
    if parts is None:
        value = get(dataset, keyword)
        if value is None:
            return ()
        parts = value if hasattr(value, "__iter__") and not isinstance(value, (str, bytes)) else (value,)
    elif not parts:
        return ()
    else:
        parts = parts.split("\\")
    try:
        found = tuple(float(item) for item in parts)
    except (TypeError, ValueError, OverflowError):
        return ()
    return found if all(math.isfinite(item) for item in found) else ()


def number(dataset: Header | None, keyword: str) -> float | None:
    """The first value of an attribute as a finite number, or None."""
    found = numbers(dataset, keyword)
    return found[0] if found else None


def whole(dataset: Header | None, keyword: str) -> int | None:
    """The first value of an attribute as a whole number, or None."""
    found = number(dataset, keyword)
    return int(found) if found is not None else None


def uid(dataset: Header | None, keyword: str) -> str | None:
    """A UID; "" where absent or empty, None where the value is no UID (a path, a name, too long)."""
    if dataset is None:
        return ""
    shown = _plain(dataset, keyword)
    if shown is None:
        value = get(dataset, keyword)
        if value is None:
            return ""
        shown = value.strip("\0 ") if isinstance(value, str) else "?"
    return (shown if is_uid(shown) else None) if shown else ""


def is_uid(value: str) -> bool:
    """True for what may stand as a UID (PS3.5 section 9.1, leading zeros admitted)."""
    return len(value) <= 64 and bool(_UID.match(value))


def items(dataset: Header | None, keyword: str) -> list[Dataset]:
    """The items of a sequence, [] where it is absent or none."""
    from pydicom.dataset import Dataset as PydicomDataset

    value = get(dataset, keyword)
    if value is None or isinstance(value, (str, bytes)):
        return []
    try:
        return [item for item in value if isinstance(item, PydicomDataset)]
    except TypeError:
        return []


def first_item(dataset: Header | None, keyword: str) -> Dataset | None:
    """The first item of a sequence, or None."""
    found = items(dataset, keyword)
    return found[0] if found else None


def files_under(folder: Path) -> Iterator[Path]:
    """Every regular file under a folder, in a fixed order; links to folders are not followed."""
    for parent, folders, names in os.walk(folder):
        folders.sort()
        for name in sorted(names):
            path = Path(parent, name)
            if path.is_file():
                yield path


def states_under(folder: Path) -> Iterator[tuple[str, tuple[int, int]]]:
    """The same with size and time of change (ns): (path, (size, time)), in no particular order."""
    waiting = [os.fspath(folder.absolute())]
    while waiting:
        with suppress(OSError), os.scandir(waiting.pop()) as entries:
            for entry in entries:
                with suppress(OSError):
                    if entry.is_dir(follow_symlinks=False):
                        waiting.append(entry.path)
                    elif entry.is_file():
                        state = entry.stat()
                        yield entry.path, (state.st_size, state.st_mtime_ns)
