"""What the index keeps of one file: enough to list and to place it, and nothing that names the patient.

The patient appears only as a keyed hash, made with a salt that each index draws for itself: it groups
studies, and says nothing outside that index.
"""

from __future__ import annotations

import hashlib
import json
import re
from typing import Any, NamedTuple

from . import headers
from .frames import NOT_IMAGES, frames_of, sop_class
from .privacy import IDENTIFYING, identity_words, keys_of, withhold
from .technical import TECHNICAL, technical_tags

_SHARED_KEYWORDS = (
    "SpecificCharacterSet",
    "IssuerOfPatientID",
    "Modality",
    "BodyPartExamined",
    "SeriesDescription",
    "StudyDate",
    "SeriesNumber",
    *IDENTIFYING,
    *TECHNICAL,
)
_MEMORY: dict[tuple[Any, ...], tuple[str, str]] = {}
_MOST_REMEMBERED = 256
_DICOMDIR_CLASS = "1.2.840.10008.1.3.10"


class Row(NamedTuple):
    """The index's record of a file; `problem` says why it is none. `shared` (what the files of a series have
    in common) and `own` (the file's frames, or what a DICOMDIR lists) are JSON."""

    problem: str | None
    study: str | None = None
    series: str | None = None
    patient: str | None = None
    shared: str = "{}"
    own: str = "[]"


def row_of(path: str, salt: bytes) -> Row:
    """The record of a file. Call within `headers.quiet`."""
    header: headers.Header | None = None
    try:
        dataset, pixels = headers.read_header(path)
        header = headers.Snapshot(dataset)
        return _describe(header, pixels, path, salt)
    except headers.Unreadable as error:
        known = header if header is not None else error.header
        words = keys_of(identity_words(known), salt) if known is not None else []
        return Row(str(error), shared=json.dumps({"words": words}))


def _describe(header: headers.Snapshot, pixels: bool, path: str, salt: bytes) -> Row:
    kind = sop_class(header)
    if kind == _DICOMDIR_CLASS:
        return Row(None, shared=json.dumps({"dicomdir": True}), own=json.dumps(listed_files(header)))
    uids = []
    for keyword in ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID"):
        value = headers.uid(header, keyword)
        if value is None:
            raise headers.Unreadable(f"its {keyword} is not a UID")
        uids.append(value)
    study, series, _ = uids
    frames = frames_of(header, path)
    content = _content(kind, bool(frames), pixels)
    if content == "no pixel data":
        raise headers.Unreadable("an image without pixel data")
    if content == "no image" and (_image_class(kind) or not (study or series)):
        raise headers.Unreadable("holds no image: cut off before its end, or without rows and columns")
    patient, shared = _shared(header, kind, content, salt, study)
    own = [frame.to_plain() for frame in frames] if not content else []
    return Row(None, study, series, patient, shared, json.dumps(own))


def _shared(header: headers.Snapshot, kind: str, content: str, salt: bytes, study: str) -> tuple[str, str]:
    """The patient's key, and what the files of a series have in common as JSON; worked out once for all that
    hold the same bytes."""
    key = _fingerprint(header)
    whole = (salt, kind, content, study, headers.text(header.file_meta, "TransferSyntaxUID"), key)
    if key is not None and whole in _MEMORY:
        return _MEMORY[whole]
    identity = identity_words(header)
    tags = technical_tags(header)
    shared = {
        "words": keys_of(identity, salt),
        "content": content,
        "modality": headers.text(header, "Modality"),
        "body_part": withhold(headers.text(header, "BodyPartExamined"), identity),
        "description": withhold(headers.text(header, "SeriesDescription"), identity),
        "date": headers.text(header, "StudyDate")[:8],
        "number": headers.whole(header, "SeriesNumber") or 0,
        "syntax": headers.text(header.file_meta, "TransferSyntaxUID"),
        "tags": {k: withhold(v, identity) if isinstance(v, str) else v for k, v in tags.items()},
    }
    found = _patient_key(header, salt, study), json.dumps(shared)
    if key is not None:
        if len(_MEMORY) >= _MOST_REMEMBERED:
            _MEMORY.clear()
        _MEMORY[whole] = found
    return found


def _fingerprint(header: headers.Snapshot) -> tuple[Any, ...] | None:
    """The raw bytes of everything that `_shared` reads; None where they are not all at hand."""
    if "SharedFunctionalGroupsSequence" in header or "ContrastBolusAgentSequence" in header:
        return None
    return tuple(headers.raw(header, keyword) for keyword in _SHARED_KEYWORDS)


def _content(kind: str, framed: bool, pixels: bool) -> str:
    """ "" for an image, else what the object is."""
    if kind in NOT_IMAGES:
        return NOT_IMAGES[kind]
    if framed:
        return "" if pixels else "no pixel data"
    return "no image"


def _image_class(kind: str) -> bool:
    """True for the storage classes of images (PS3.4 B.5)."""
    from pydicom.uid import UID

    return "Image Storage" in UID(kind).name


def listed_files(header: headers.Snapshot) -> list[list[str]]:
    """The path parts that a DICOMDIR (PS3.10 section 8) lists, but none that leads elsewhere."""
    found = []
    for item in headers.items(header, "DirectoryRecordSequence"):
        value = headers.get(item, "ReferencedFileID")
        if value is None:
            continue
        parts = [str(part) for part in ([value] if isinstance(value, str) else value)]
        if parts and all(re.fullmatch(r"[A-Za-z0-9_.\-]{1,64}", p) and p not in (".", "..") for p in parts):
            found.append(parts)
    return found


def _patient_key(header: headers.Snapshot, salt: bytes, study: str) -> str:
    own = [headers.text(header, keyword) for keyword in ("PatientID", "IssuerOfPatientID")]
    who = "\0".join(own) if own[0] else "\0".join((headers.text(header, "PatientName"), study))
    return hashlib.blake2b(who.encode("utf-8", "replace"), key=salt, digest_size=12).hexdigest()
