"""Damages bytes of real DICOM files and reads them: every case must end well or in a clean error.

    python Testing/Benchmarks/fuzz_dicom.py [--cases 2000] [--seed 0] [--data FOLDER]

Cases run in worker processes, so that a crash of a decoder is seen and counted instead of ending the run.
A case is a small folder of files, one or more of them damaged; it is indexed, listed, judged and read, and
half of the readable ones are exported to DICOM again. Exit status 1 when any case ends in a crash, a
traceback, a time-out or an error that quotes patient data.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import subprocess
import sys
import tempfile
import time
import warnings
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "Testing" / "Unit" / "dicom")]
SECONDS_PER_CASE = 240  # of a machine that may be busy


def seeds(folder: Path, data: Path | None) -> list[list[Path]]:
    """Series to damage: synthetic ones of each syntax and form, and slices of the real ones where given."""
    import numpy as np
    from dicom_factory import SeriesSpec, multiframe, phantom, reread, write_series

    made = [write_series(folder / "mr", SeriesSpec(phantom(4)))]
    made.append(write_series(folder / "ct", SeriesSpec(phantom(4), modality="CT", intercept=-1024)))
    made.append([multiframe(SeriesSpec(phantom(4)), folder / "enhanced" / "e.dcm")])
    for number, syntax in enumerate(
        ("1.2.840.10008.1.2.5", "1.2.840.10008.1.2.4.80", "1.2.840.10008.1.2.4.90")
    ):
        paths = write_series(folder / f"c{number}", SeriesSpec(phantom(3, 64, 64).astype(np.uint16)))
        for path in paths:
            reread(path, lambda ds, s=syntax: ds.compress(s, generate_instance_uid=False))
        made.append(paths)
    if shutil.which("dcmcjpeg"):
        plain = write_series(folder / "plain", SeriesSpec(phantom(3, 64, 64).astype(np.uint16)))
        (folder / "jpeg").mkdir()
        for path in plain:
            subprocess.run(["dcmcjpeg", "+e1", path, folder / "jpeg" / path.name], check=True)
        made.append(sorted((folder / "jpeg").iterdir()))
    if data is not None:
        for series in sorted(data.glob("dicom_*")):
            made.append(sorted(p for p in series.iterdir() if p.is_file())[:3])
    return made


def damage(content: bytes, rng: random.Random) -> bytes:
    """One of: a cut, flipped bytes anywhere or in the header, a removed, doubled or changed stretch."""
    kind = rng.choice(("cut", "flip", "flip-header", "flip-header", "zero", "remove", "double", "text"))
    body = bytearray(content)
    head = min(len(body), 3000)
    if kind == "cut":
        return bytes(body[: rng.randrange(len(body))])
    if kind in ("flip", "flip-header"):
        for _ in range(rng.choice((1, 1, 2, 8, 64))):
            body[rng.randrange(head if kind == "flip-header" else len(body))] = rng.randrange(256)
        return bytes(body)
    at = rng.randrange(132, head) if head > 133 else 0
    length = rng.choice((1, 2, 4, 16, 200))
    if kind == "zero":
        body[at : at + length] = bytes(length)
    elif kind == "remove":
        del body[at : at + length]
    elif kind == "double":
        body[at:at] = body[at : at + length]
    else:
        body[at : at + length] = rng.choice(
            (b"../../../etc/passwd", b"\xff" * 20, b"1.2.\0\0", b"99999999999", b"nan")
        )
    return bytes(body)


def run_case(files: list[Path], seed: int, folder: Path) -> str:
    """How one case ended: a word for each acceptable end; anything else is raised."""
    from D24FADLib.commands.series import as_plain
    from D24FADLib.dicom.index import index_folder
    from D24FADLib.errors import D24FADError

    rng = random.Random(seed)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    victims = set(rng.sample(range(len(files)), rng.choice((1, len(files)))))
    for number, file in enumerate(files):
        content = file.read_bytes()
        (folder / f"f{number}.dcm").write_bytes(damage(content, rng) if number in victims else content)
    texts: list[str] = []
    outcome = "listed only"
    with warnings.catch_warnings(record=True):
        catalog = index_folder(folder, ":memory:")
        texts.append(json.dumps(as_plain(catalog, {})))
        for entry in catalog.series:
            str(entry.check)
            try:
                reading = entry.read()
                outcome = "read"
                texts += reading.notes
                if rng.random() < 0.3 and reading.volume.image.GetNumberOfPixels() < 300_000:
                    outcome = _export(reading, folder)
            except D24FADError as error:
                texts.append(str(error))
                outcome = "refused" if outcome == "listed only" else outcome
    from dicom_factory import PHI

    quoted = [
        value for value in PHI.values() for text in texts if value.split("^")[0].lower() in text.lower()
    ]
    if quoted:
        raise AssertionError(f"a text quotes patient data: {quoted[0]}")
    return outcome


def _export(reading: object, folder: Path) -> str:
    from detections import detection_for

    from D24FADLib.dicom.export import export_detection
    from D24FADLib.errors import InputError

    paths = [frame.path for frame in reading.frames]
    try:
        export_detection(detection_for(reading.volume, 1), paths, folder / "out", ["seg", "map", "report"])
    except InputError as error:
        if "too damaged to be inherited" in str(error):
            return "read, headers not inherited"
        raise
    return "read and exported"


def worker() -> int:
    """One case a line: seed files folder, as JSON; the end of it a line back."""
    import traceback

    for line in sys.stdin:
        seed, files, folder = json.loads(line)
        try:
            outcome = run_case([Path(f) for f in files], seed, Path(folder))
        except Exception:  # what the benchmark looks for
            outcome = "BUG " + traceback.format_exc()
        print(json.dumps(outcome), flush=True)
    return 0


class Worker:
    def __init__(self) -> None:
        self.process: subprocess.Popen[str] | None = None

    def run(self, seed: int, files: list[Path], folder: Path) -> str:
        import select

        if self.process is None:
            command = [sys.executable, __file__, "--worker"]
            self.process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
            )
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps([seed, [str(f) for f in files], str(folder)]) + "\n")
        self.process.stdin.flush()
        ready, _, _ = select.select([self.process.stdout], [], [], SECONDS_PER_CASE)
        line = self.process.stdout.readline() if ready else ""
        if line:
            return str(json.loads(line))
        if ready:
            code = self.process.wait()
            self.process = None
            return f"CRASH of the process (status {code})"
        self.process.kill()
        self.process = None
        return f"TIMEOUT after {SECONDS_PER_CASE} s"

    def close(self) -> None:
        if self.process is not None and self.process.stdin is not None:
            self.process.stdin.close()
            self.process.wait()


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cases", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data" / "volumes")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        return worker()
    ends: Counter[str] = Counter()
    bad: list[str] = []
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as name:
        series = seeds(Path(name) / "seeds", args.data if args.data.is_dir() else None)
        runner = Worker()
        for case in range(args.cases):
            seed = args.seed * 1_000_003 + case
            end = runner.run(seed, series[case % len(series)], Path(name) / "case")
            ends[end.split(" ", 1)[0] if end[:1].isupper() else end] += 1
            if end[:1].isupper():
                bad.append(f"case {case} (series {series[case % len(series)][0].parent.name}): {end}")
                print(bad[-1], flush=True)
        runner.close()
    seconds = time.perf_counter() - start
    print(f"{args.cases} cases of {len(series)} series in {seconds:.0f} s: {dict(ends.most_common())}")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
