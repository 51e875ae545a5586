"""A detection's files: written aside first, so that the output folder holds all of them or none."""

from __future__ import annotations

import colorsys
import csv
import importlib.util
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from pathlib import Path
from threading import Lock

from D24FADLib.errors import OutputError
from D24FADLib.imaging.volume import Volume, VolumeOnDemand
from D24FADLib.imaging.writing import SegmentDescription, write_segmentation, write_volume
from D24FADLib.inference.detection import Detection
from D24FADLib.inference.fusion import KINDS
from D24FADLib.inference.undisturbed import undisturbed

# What a run may leave in its folder; with overwrite, older ones of these are removed and nothing else.
_OWN_FILES = (
    "anomaly_map.nrrd", "residual_map.nrrd", "expected_normal.nrrd", "weights_[0-9]*.nrrd",
    "findings.seg.nrrd", "findings.csv", "slices.csv", "run.json", "overview.png",
)  # fmt: skip
_RESIDUALS = ("residual_stride_4", "residual_stride_8", "residual_stride_16")
_FINDING_COLUMNS = (
    "rank", "peak", "mean", "volume_ml", "center_r", "center_a", "center_s", "peak_r", "peak_a", "peak_s",
    "slice", "false_positives", "nearest_reference", *_RESIDUALS, "departs_by", *KINDS,
)  # fmt: skip  # and weight_01, weight_02, ... of each reference


def check_output_folder(folder: Path, overwrite: bool) -> None:
    """Raise OutputError before the work rather than after it."""
    if folder.is_dir() and any(folder.iterdir()) and not overwrite:
        raise OutputError(f"{folder.name}: not empty; choose another folder or say --overwrite")
    require_place(folder)


def require_place(folder: Path) -> None:
    """Raise OutputError unless the folder can be made or written in."""
    if folder.exists() and not folder.is_dir():
        raise OutputError(f"{folder.name}: is a file; choose a folder for the results")
    parent = next(p for p in (folder, *folder.absolute().parents) if p.exists())
    if not parent.is_dir():
        raise OutputError(f"{folder.name}: {parent.name} is a file; choose another folder for the results")
    if not os.access(parent, os.W_OK):
        raise OutputError(f"{folder.name}: no permission to write there; choose another folder")


def write_outputs(
    detection: Detection,
    folder: str | os.PathLike[str],
    *,
    overwrite: bool = False,
    compress: bool = True,
    progress: Callable[[int, int], None] | None = None,
    complete: Callable[[], None] | None = None,
) -> dict[str, Path]:
    """Write all files of a detection and return them by role.

    `complete` is called when they are in the folder, before any interruption is heeded.
    overview.png is left out where matplotlib is not installed. Raises OutputError; then the folder is as
    it was. Files in it that are not a run's stay.
    """
    folder = Path(folder)
    check_output_folder(folder, overwrite)
    volumes = {
        "anomaly_map": detection.anomaly_map,
        "residual_map": detection.residual_map,
        "expected_normal": detection.expected_normal,
        **{f"weights_{k:02d}": volume for k, volume in enumerate(detection.weights, start=1)},
    }
    volumes = {role: volume.apart() for role, volume in volumes.items()}  # drawn and written at a time
    total = len(volumes) + 2
    with _written_aside(folder, complete) as aside:
        # Compressing takes a core and so does drawing: two things at a time.
        with ThreadPoolExecutor(2) as pool:
            drawn = pool.submit(_draw, detection, aside / "overview.png")
            paths = [aside / f"{role}.nrrd" for role in volumes]
            one_made = Lock()  # of large studies two would be much memory

            def write(volume: Volume, path: Path) -> None:
                with one_made if isinstance(volume, VolumeOnDemand) else nullcontext():
                    write_volume(volume, path, compress)

            written = pool.map(write, volumes.values(), paths)
            for done in range(len(volumes)):
                if progress:
                    progress(done, total)
                next(written)
            drawn.result()
        segments = [
            SegmentDescription(f"Finding {f.rank}", f.rank, finding_color(f.rank)) for f in detection.findings
        ]
        write_segmentation(detection.labels, detection.query, segments, aside / "findings.seg.nrrd")
        _write_findings(detection, aside / "findings.csv")
        _write_slices(detection, aside / "slices.csv")
        record = json.dumps(detection.record, indent=2, allow_nan=False)
        (aside / "run.json").write_text(record + "\n", encoding="utf-8")
        if progress:
            progress(total - 1, total)
        names = sorted(p.name for p in aside.iterdir())
        if progress:
            progress(total, total)
    # findings.csv and findings.seg.nrrd are two files
    roles = {"findings.seg.nrrd": "segmentation"}
    return {roles.get(name, name.split(".")[0]): folder / name for name in names}


def _draw(detection: Detection, path: Path) -> None:
    # Slicer's Python comes without matplotlib, and its panel shows the volumes themselves.
    if importlib.util.find_spec("matplotlib") is not None:
        from D24FADLib.inference.overview import draw_overview

        draw_overview(detection, path)


@contextmanager
def _written_aside(folder: Path, complete: Callable[[], None] | None) -> Iterator[Path]:
    """A hidden folder in the output or, where that is not there yet, beside it; its files move over, all of
    them, when the body ends well. Never beside a folder that is there: it may be another file system, or one
    that the user may not write to."""
    aside: Path | None = None
    try:
        try:
            with undisturbed():
                near = folder if folder.is_dir() else folder.parent
                near.mkdir(parents=True, exist_ok=True)
                aside = Path(tempfile.mkdtemp(prefix=".d24fad-", dir=near))
        except OSError as error:
            raise OutputError(f"{folder.name}: cannot be created ({error.strerror})") from None
        try:
            yield aside
            with undisturbed():
                _move_over(aside, folder)
                if complete:
                    complete()
        except OSError as error:
            raise OutputError(
                f"{folder.name}: cannot be written ({error.strerror}); is the disk full?"
            ) from None
    finally:
        with undisturbed():
            if aside is not None:
                shutil.rmtree(aside, ignore_errors=True)


def _move_over(aside: Path, folder: Path) -> None:
    if not folder.is_dir():
        os.chmod(aside, 0o777 & ~_umask())
        os.replace(aside, folder)
        return
    new = {file.name for file in aside.iterdir()}
    for file in aside.iterdir():
        os.replace(file, folder / file.name)
    for pattern in _OWN_FILES:
        for stale in folder.glob(pattern):
            if stale.name not in new:
                stale.unlink()


def _umask() -> int:
    current = os.umask(0)
    os.umask(current)
    return current


def finding_color(rank: int) -> tuple[float, float, float]:
    """Strong, distinct colours; red for the first."""
    red, green, blue = colorsys.hsv_to_rgb(((rank - 1) * 0.618034) % 1.0, 0.85, 1.0)
    return (round(red, 3), round(green, 3), round(blue, 3))


def _write_findings(detection: Detection, path: Path) -> None:
    weights = [f"weight_{k + 1:02d}" for k in range(len(detection.weights))]
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, [*_FINDING_COLUMNS, *weights])
        writer.writeheader()
        for finding in detection.findings:
            places = {
                f"{of}_{axis}": value
                for of, ras in (("center", finding.center_ras), ("peak", finding.peak_ras))
                for axis, value in zip("ras", ras, strict=True)
            }
            numbers = {
                "peak": finding.peak, "mean": finding.mean, "volume_ml": finding.volume_ml,
                **places,
                "false_positives": finding.false_positives,
                **dict(zip(_RESIDUALS, finding.residuals, strict=False)),
                **dict(zip(detection.kinds, finding.departures, strict=False)),
                **dict(zip(weights, finding.weights, strict=False)),
            }  # fmt: skip
            row = {
                key: f"{n:.4g}" if abs(n) < 1 else f"{n:.2f}" for key, n in numbers.items() if n is not None
            }
            known = {
                "rank": finding.rank,
                "slice": finding.slice,
                "nearest_reference": finding.nearest_reference,
                "departs_by": " ".join(finding.departs_by),
            }
            writer.writerow({**row, **known})


def _write_slices(detection: Detection, path: Path) -> None:
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(
            ["slice", "peak", "mean", *(f"weight_{k + 1:02d}" for k in range(len(detection.weights)))]
        )
        for row in detection.slices:
            writer.writerow([row.index, *(f"{n:.4f}" for n in (row.peak, row.mean, *row.weights))])
