"""Keeping patients' identities out of what is shown: names of files and folders often repeat them."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from typing import TYPE_CHECKING

from . import headers

if TYPE_CHECKING:
    pass

IDENTIFYING = (
    "PatientName",
    "PatientID",
    "PatientBirthDate",
    "AccessionNumber",
    "OtherPatientIDs",
    "OtherPatientNames",
    "PatientAddress",
    "PatientTelephoneNumbers",
    "ReferringPhysicianName",
    "StudyID",
)
_SEPARATORS = re.compile(r"[\W_]+")
_SHORTEST = 3
WITHHELD = "(withheld)"


def words_in(text: str) -> set[str]:
    """The words and numbers of a text, lower case, of three letters or more."""
    return {word for word in _SEPARATORS.split(text.lower()) if len(word) >= _SHORTEST}


def identity_words(header: headers.Header) -> set[str]:
    """Words that name the patient, the request or the referring physician. Call within `quiet`."""
    words: set[str] = set()
    for keyword in IDENTIFYING:
        shown = headers.text(header, keyword)
        if shown:
            words |= words_in(shown)
    return words


def withhold(text: str, identity: set[str]) -> str:
    """A text, or that it is withheld because it repeats a word of the patient's."""
    if not text or not identity:
        return text
    lower = text.lower()
    if words_in(text) & identity or any(len(word) > 4 and word in lower for word in identity):
        return WITHHELD
    return text


def keys_of(words: Iterable[str], salt: bytes) -> list[str]:
    """Keyed hashes of words: to recognise them again, not to read them."""
    return sorted(
        hashlib.blake2b(word.encode("utf-8", "replace"), key=salt, digest_size=9).hexdigest()
        for word in words
    )


def shown_path(path: str, known: set[str], salt: bytes) -> str:
    """A relative path for messages; each part that repeats a word with a known key is withheld."""
    parts = []
    for part in re.split(r"[\\/]", path):
        suspect = not known.isdisjoint(keys_of(words_in(part), salt))
        parts.append(WITHHELD if suspect else part)
    return "/".join(parts).encode("utf-8", "replace").decode("utf-8")
