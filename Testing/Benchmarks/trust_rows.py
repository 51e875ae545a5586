"""Rows of a long part of the benchmark, kept as they come: the part goes on where it ended."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path


def kept_rows(path: Path) -> list[dict[str, str]]:
    """The rows of an earlier run; none where there was none."""
    return list(csv.DictReader(path.open(encoding="utf-8"))) if path.is_file() else []


def keep(path: Path, done: list[dict[str, str]], row: Mapping[str, object]) -> None:
    """Append a row to the file and to what is done."""
    with path.open("a", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(row))
        if not done:
            writer.writeheader()
        writer.writerow(row)
    done.append({key: str(value) for key, value in row.items()})
