"""The private folder through which volumes go to the worker and come back."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from .processes import is_alive

PREFIX = "d24fad-run-"


class RunFolder:
    """A folder only its owner can read, with neutral file names; `remove` may be called at any time.

    The application's process id is part of the name, so that a folder left by an application that
    crashed can be told from one in use, and removed by the next run (`remove_stale`).
    """

    def __init__(self, parent: str | os.PathLike[str] | None = None) -> None:
        base = str(parent) if parent is not None else None
        self.path = Path(tempfile.mkdtemp(prefix=f"{PREFIX}{os.getpid()}-", dir=base))
        self.output = self.path / "output"

    @property
    def query(self) -> Path:
        return self.path / "query.nrrd"

    def support(self, number: int) -> Path:
        """The file of the number-th support, counted from 1."""
        return self.path / f"support_{number:02d}.nrrd"

    def free_bytes(self) -> int:
        return shutil.disk_usage(self.path).free

    def empty(self) -> Iterator[None]:
        """Remove the files one by one: large ones take long enough for an application to feel it."""
        for file in [path for path in self.path.rglob("*") if path.is_file()]:
            with contextlib.suppress(OSError):
                file.unlink()
            yield

    def remove(self) -> bool:
        """Whether nothing is left. (Windows keeps a file that a dying worker still holds open.)"""
        shutil.rmtree(self.path, ignore_errors=True)
        return not self.path.exists()


def remove_stale(parent: str | os.PathLike[str] | None = None) -> int:
    """Remove the run folders of applications that no longer run; how many there were."""
    removed = 0
    for folder in Path(parent or tempfile.gettempdir()).glob(f"{PREFIX}*"):
        owner = folder.name[len(PREFIX) :].partition("-")[0]
        if owner.isdigit() and not is_alive(int(owner)) and folder.is_dir():
            shutil.rmtree(folder, ignore_errors=True)
            removed += 1
    return removed
