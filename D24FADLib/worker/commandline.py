"""The worker's command line, from what the application chose."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class DetectOptions:
    """The options of `d24fad detect` that an application offers; "" and None leave the detector's default."""

    plane: str = ""
    align: str = ""
    device: str = ""
    model: str = ""
    batch: int | None = None
    threshold: float | None = None
    false_positives_per_study: float | None = None
    drop_outliers: bool = False
    unsuitable_anyway: bool = False


def detect_arguments(query: str, supports: Sequence[str], output: str, options: DetectOptions) -> list[str]:
    """What follows `python`: one detection that tells its progress in events."""
    arguments = ["-m", "D24FADLib.worker", "detect", query, "--output", output]
    for path in supports:
        arguments += ["--support", path]
    for name in ("plane", "align", "device", "model"):
        value = getattr(options, name)
        if value:
            arguments += [f"--{name}", value]
    if options.batch is not None:
        arguments += ["--batch", str(options.batch)]
    if options.threshold is not None:
        arguments += ["--threshold", repr(float(options.threshold))]
    if options.false_positives_per_study is not None:
        arguments += ["--false-positives-per-study", f"{options.false_positives_per_study:g}"]
    arguments += ["--drop-outliers"] * options.drop_outliers
    arguments += ["--unsuitable-anyway"] * options.unsuitable_anyway
    return [*arguments, "--uncompressed", "--overwrite", "--json"]


def series_arguments(folder: str) -> list[str]:
    """What follows `python`: the DICOM series below a folder, told in events, nothing left on disk."""
    return ["-m", "D24FADLib.worker", "series", folder, "--no-index", "--events"]
