"""How fast a folder of DICOM files is indexed, beside plain pydicom on the same files in the same run.

    python Testing/Benchmarks/index_dicom.py --files 4000 --repeat 3
    python Testing/Benchmarks/index_dicom.py --source ../shared/data/volumes

The files are copies of a made series, or of the images below --source, each with UIDs of its own. Every
figure is the median of the repeats; "cpu" counts the processor time of this process and its children.
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import pydicom
from pydicom.uid import generate_uid

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "Testing" / "Unit" / "dicom")]

_PRIVATE = 60  # elements of the scanner's own, as headers of real scanners have


def make_files(folder: Path, count: int, source: Path | None) -> None:
    """`count` files in series of 100; without a source, made ones of about 110 elements."""
    from dicom_factory import SeriesSpec, dataset_of, phantom

    if source is None:
        originals = [dataset_of(SeriesSpec(phantom(4, 64, 64)), k) for k in range(4)]
        for dataset in originals:
            block = dataset.private_block(0x0019, "D24FAD BENCHMARK", create=True)
            for n in range(_PRIVATE):
                block.add_new(n, "LO", f"value {n}")
    else:
        originals = [pydicom.dcmread(path) for path in sorted(source.rglob("*")) if _is_image(path)]
    for dataset in originals:
        for element in [e for e in dataset if e.tag.group == 0]:  # padding that may not be written again
            del dataset[element.tag]
    study, series = generate_uid(), generate_uid()
    for number in range(count):
        if number % 100 == 0:
            series = generate_uid()
        dataset = originals[number % len(originals)]
        dataset.StudyInstanceUID, dataset.SeriesInstanceUID = study, series
        dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = generate_uid()
        dataset.InstanceNumber = number % 100 + 1
        if "ImagePositionPatient" in dataset:
            dataset.ImagePositionPatient = [0, 0, number % 100]
        path = folder / f"{number // 100:04d}" / f"{number:06d}.dcm"
        path.parent.mkdir(exist_ok=True)
        dataset.save_as(path)


def _is_image(path: Path) -> bool:
    from pydicom.errors import InvalidDicomError

    try:
        header = pydicom.dcmread(path, stop_before_pixels=True)
    except (InvalidDicomError, OSError):  # whatever else lies there
        return False
    return "Rows" in header


def plain_pydicom(folder: Path) -> None:
    for parent, _, names in os.walk(folder):
        for name in names:
            pydicom.dcmread(os.path.join(parent, name), stop_before_pixels=True)


def measure(action: Callable[[], object], files: int, repeat: int) -> str:
    walls, processors = [], []
    for _ in range(repeat):
        wall, used = time.perf_counter(), _cpu()
        action()
        walls.append(time.perf_counter() - wall)
        processors.append(_cpu() - used)
    wall, used = statistics.median(walls), statistics.median(processors)
    return f"{files / wall:8.0f} files/s   {1000 * used / files:6.3f} ms cpu a file"


def _cpu() -> float:
    both = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in both)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--files", type=int, default=4000)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--source", type=Path, help="copy the headers of these files instead of made ones")
    parser.add_argument("--workers", type=int, nargs="*", default=[1, os.cpu_count() or 1])
    args = parser.parse_args()

    from D24FADLib.dicom.index import index_folder

    with tempfile.TemporaryDirectory() as temporary:
        folder, index = Path(temporary, "files"), Path(temporary, "index.sqlite")
        folder.mkdir()
        make_files(folder, args.files, args.source)

        def fresh(workers: int) -> None:
            index.unlink(missing_ok=True)
            index_folder(folder, index, workers=workers)

        rows: list[tuple[str, Callable[[], object]]] = [("pydicom alone", lambda: plain_pydicom(folder))]
        for workers in args.workers:
            name = f"index, {workers} process" + "es" * (workers > 1)
            rows.append((name, lambda workers=workers: fresh(workers)))
        rows.append(("index, nothing changed", lambda: index_folder(folder, index)))
        plain_pydicom(folder)  # what is read once is in the system's memory
        print(f"{args.files} files, {os.cpu_count()} processors, pydicom {pydicom.__version__}")
        for name, action in rows:
            print(f"{name:24s} {measure(action, args.files, args.repeat)}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
