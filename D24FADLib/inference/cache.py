"""What is kept between runs, in the user's own cache folder: safe to delete at any time.

openvino/    converted networks, named by checksum; no patient data.
references/  features and prepared voxels of reference sets, only where asked for. They show patients: the
             folder and its files are for their owner alone, and names are checksums.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

MOST_BYTES = 8 * 2**30  # of reference sets; the ones not used for longest go first


def cache_folder() -> Path:
    """The root: XDG_CACHE_HOME or ~/.cache, then d24fad. For a user without a home, as in a container that
    runs as a bare number, a place where nothing can be kept."""
    root = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache")
    try:
        return root.expanduser() / "d24fad"
    except RuntimeError:
        return Path(os.devnull) / "d24fad"


def conversions_folder() -> Path:
    """Converted networks."""
    return cache_folder() / "openvino"


def references_folder() -> Path:
    """Reference sets."""
    return cache_folder() / "references"


def size_of(folder: Path) -> int:
    """Bytes of all files below."""
    total = 0
    for path in folder.rglob("*"):
        with suppress(OSError):  # removed by another run meanwhile
            if path.is_file():
                total += path.stat().st_size
    return total


@contextmanager
def kept_whole(folder: Path) -> Iterator[Path]:
    """A folder to fill, for its owner alone; it becomes `folder` when the body ends well, or nothing does.

    Raises OSError where there is no place or no room. If another run was first, its folder stays.
    """
    folder.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    aside = Path(tempfile.mkdtemp(prefix=".new-", dir=folder.parent))  # mode 0700
    try:
        yield aside
        for path in aside.iterdir():
            path.chmod(0o600)
        try:
            os.replace(aside, folder)
        except OSError:
            if not folder.is_dir():
                raise
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def used(folder: Path) -> None:
    """Note that it was used now."""
    with suppress(OSError):
        os.utime(folder)


def trim(folder: Path, most_bytes: int = MOST_BYTES) -> None:
    """Remove the entries of `folder` that were not used for longest until it holds at most `most_bytes`."""
    entries = []
    for entry in folder.iterdir() if folder.is_dir() else ():
        with suppress(OSError):
            if not entry.name.startswith("."):  # being written
                entries.append((entry.stat().st_mtime, entry, size_of(entry)))
    total = sum(size for _, _, size in entries)
    for _, entry, size in sorted(entries, key=lambda e: e[0]):
        if total <= most_bytes:
            return
        shutil.rmtree(entry, ignore_errors=True)
        total -= size
