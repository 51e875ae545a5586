"""Patients, studies and series as an index or Slicer's database lists them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from ..errors import InputError
from ..references.suitability import Check, Kind, check_alone, refuse, verdict, warn
from ..references.traits import Traits, traits_of_grid, traits_of_tags
from .frames import Frame
from .geometry import arrange
from .series import SeriesReading, read_frames
from .stacks import Stack, split

_LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0])


@dataclass(frozen=True)
class Problem:
    """A file, or several alike, that could not be used, and why; `used`: it is, all the same. `shown` never
    names a patient."""

    shown: str
    reason: str
    files: int = 1
    used: bool = False

    def __str__(self) -> str:
        more = f" (and {self.files - 1} more)" if self.files > 1 else ""
        return f"{self.shown}{more}: {self.reason}"

    @property
    def note(self) -> str:
        return str(self) if self.used else f"not used: {self}"


@dataclass(frozen=True)
class SeriesEntry:
    """One series. `patient` and `study_number` are ordinals within the catalog and identify nobody."""

    uid: str
    study_uid: str
    patient: int
    modality: str
    body_part: str
    description: str
    date: str
    number: int
    syntax: str
    tags: dict[str, Any]
    content: str
    files: tuple[str, ...]
    frames: tuple[Frame, ...]
    local: bool = False
    notes: tuple[str, ...] = field(default=())

    @cached_property
    def stacks(self) -> tuple[Stack, ...]:
        return tuple(split(self.frames)) if self.frames else ()

    @property
    def slices(self) -> int:
        """Images in the largest stack."""
        return len(self.stacks[0]) if self.stacks else 0

    def traits(self, stack: int = 1) -> Traits:
        """What is known of a stack (from 1) before its pixels are read."""
        own = traits_of_tags(self.tags, self.description)
        if not self.stacks:
            return Traits(self.uid, self.study_uid, self.modality, self.body_part, **own)
        chosen = self.stacks[stack - 1]
        return Traits(
            series_uid=self.uid,
            study_uid=self.study_uid,
            modality=self.modality,
            body_part=self.body_part,
            color=chosen.frames[0].samples > 1,
            **self._grid(chosen),
            **own,
        )

    @staticmethod
    def _grid(stack: Stack) -> dict[str, Any]:
        try:
            grid = arrange(stack, "")
        except InputError:
            return {"slices": len(stack)}
        return traits_of_grid(grid.size, grid.spacing, _LPS_TO_RAS @ grid.direction)

    @cached_property
    def check(self) -> Check:
        """Whether the series suits as a query or as a reference, and why not."""
        if self.content:
            return verdict([refuse(Kind.CONTENT, reference=f"holds {self.content}")])
        if not self.stacks:
            return verdict([refuse(Kind.CONTENT, reference="holds no images")])
        reasons = [warn(Kind.GEOMETRY, reference=note) for note in self.notes]
        if self.captures:
            captures = "secondary captures, not the images of the examination"
            reasons.append(refuse(Kind.CONTENT, reference=captures))
        try:
            grid = arrange(self.stacks[0], f"series {self.uid}")
            reasons += [warn(Kind.GEOMETRY, reference=note) for note in grid.notes]
        except InputError as error:
            reasons.append(refuse(Kind.GEOMETRY, reference=str(error).split(": ", 1)[-1]))
        count = len(self.stacks)
        if count > 1 and len(self.stacks[1]) == len(self.stacks[0]) == 1:
            reasons.append(refuse(Kind.GEOMETRY, reference=f"{count} images that form no volume"))
        elif count > 1:
            reasons.append(warn(Kind.GEOMETRY, reference=f"holds {count} stacks; the largest is used"))
        return verdict(reasons) + check_alone(self.traits())

    @cached_property
    def captures(self) -> bool:
        """Nothing but secondary captures: a dose report, a screen shot, the page of an earlier detection."""
        from .frames import SECONDARY_CAPTURE

        return all(f.sop_class_uid == SECONDARY_CAPTURE and f.position is None for f in self.frames)

    def read(self, stack: int | None = None) -> SeriesReading:
        """The volume; raises InputError."""
        if self.content or not self.frames:
            raise InputError(
                f"series {self.uid}: holds {self.content or 'no images'}. Choose an image series."
            )
        return read_frames(self.frames, f"series {self.uid}", stack, self.notes)


@dataclass(frozen=True)
class Catalog:
    """Everything found, and what could not be used."""

    name: str
    series: tuple[SeriesEntry, ...]
    problems: tuple[Problem, ...] = ()
    files_read: int = 0
    files_known: int = 0

    @property
    def patients(self) -> int:
        return len({entry.patient for entry in self.series})

    @property
    def studies(self) -> int:
        return len({entry.study_uid for entry in self.series})

    def notes(self, most: int = 5) -> tuple[str, ...]:
        """What could not be used, in sentences: the first few, and how many more."""
        said = [problem.note for problem in self.problems[:most]]
        left = sum(problem.files for problem in self.problems[most:])
        return (*said, f"not used: {left} more files; `d24fad series` lists them") if left else tuple(said)

    def find(self, series_uid: str) -> SeriesEntry:
        """The entry of a series; raises InputError, also where several patients or studies claim its UID."""
        found = [entry for entry in self.series if entry.uid == series_uid]
        if len(found) > 1:
            raise InputError(
                f"{self.name}: {len(found)} patients or studies claim series {series_uid}. Give a "
                "folder that holds the files of one of them."
            )
        if found:
            return found[0]
        shown = series_uid if _printable(series_uid) else "of that name"
        raise InputError(
            f"{self.name}: holds no series {shown}. `d24fad series` lists the {len(self.series)} that it "
            "holds."
        )

    def only(self) -> SeriesEntry:
        """The one series with images, secondary captures beside it aside; raises InputError where there are
        several or none."""
        fit = [entry for entry in self.series if entry.frames]
        fit = [entry for entry in fit if not entry.captures] or fit
        if len(fit) == 1:
            return fit[0]
        if not fit:
            why = "no files in it" if not self.files_known else "no DICOM images in it"
            seen = [str(problem) for problem in self.problems[:3]]
            seen += [f"series {entry.uid}: {entry.content}" for entry in self.series[: 3 - len(seen)]]
            advice = "Choose the folder of a DICOM series, or, for another format, the image file itself."
            raise InputError("\n  ".join([f"{self.name}: {why}. {advice}", *seen]))
        lines = [f"  {e.uid}  {e.modality or 'no modality'}, {e.slices} slices" for e in fit[:20]]
        raise InputError("\n".join([f"{self.name}: holds {len(fit)} series. Choose one by its UID:", *lines]))

    def read(self, series_uid: str | None = None, stack: int | None = None) -> SeriesReading:
        """Read one series, or the only one; raises InputError."""
        entry = self.only() if series_uid is None else self.find(series_uid)
        return entry.read(stack)


def _printable(uid: str) -> bool:
    from .headers import is_uid

    return is_uid(uid)


def collapse(problems: Sequence[tuple[str, str]]) -> tuple[Problem, ...]:
    """One problem per reason and folder: a thousand text files are one line."""
    grouped: dict[str, list[str]] = {}
    for shown, reason in problems:
        grouped.setdefault(reason, []).append(shown)
    result: list[Problem] = []
    for reason, names in grouped.items():
        if len(names) <= 3 or reason != "not a DICOM file":
            result.extend(Problem(name, reason) for name in names)
        else:
            result.append(Problem(names[0], reason, len(names)))
    return tuple(result)
