"""Time and memory, side by side with a plain implementation: one table in Markdown and JSON.

    python Testing/Benchmarks/speed.py --output build/speed            all parts (an hour on two cores)
    python Testing/Benchmarks/speed.py --parts slices startup --repeat 3 --output build/speed

Parts: slices (a), studies (b), startup (c), throughput (d), gpu (e). Every figure is a median, its spread
beside it. Run it on a quiet machine: other programs count.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from card import on_card
from roofline import roofline
from slices import per_slice

PARTS = ("slices", "studies", "startup", "throughput", "gpu")
SIZES = ((64, 64, 64), (128, 128, 128), (182, 218, 182), (256, 256, 256), (512, 512, 300))
_LARGE = 256**3  # voxels from which three runs do
Row = dict[str, Any]

_FIRST_SLICE = (
    "import torch; from D24FADLib.inference.models import load_model; "
    "from D24FADLib.inference.runtimes import choose_encoder; "
    "model, about = load_model('d24fad-lite0'); "
    "key = ''.join(about['d24fad']['sha256'].values()); "
    "choose_encoder('auto', model, torch.device('cpu'), key)(torch.rand(1, 3, 256, 256))"
)


def machine() -> Row:
    names = [line for line in _cpuinfo() if line.startswith("model name")]
    return {
        "processor": names[0].split(":")[1].strip() if names else platform.processor(),
        "cores": os.cpu_count(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "date": datetime.date.today().isoformat(),
        "load_before": list(os.getloadavg()) if hasattr(os, "getloadavg") else [],
    }


def _cpuinfo() -> list[str]:
    path = Path("/proc/cpuinfo")
    return path.read_text(encoding="utf-8").splitlines() if path.is_file() else []


def part_slices(args: argparse.Namespace) -> Iterator[Row]:
    for pixels in args.pixels:
        yield from per_slice(args.slices, pixels, args.repeat, tuple(args.supports), torch.device("cpu"))


def part_studies(args: argparse.Namespace) -> Iterator[Row]:
    """Cold (every study's own grid) and with a kept reference set; K = 2 and 8 at one size."""
    from studies import median_of, timed_detection, write_studies

    cases = [(size, 4) for size in SIZES] + [((182, 218, 182), 2), ((182, 218, 182), 8)]
    for size, supports in cases:
        voxels = size[0] * size[1] * size[2]
        if _named(size) not in args.sizes:
            continue
        repeat = min(args.repeat, 3) if voxels >= _LARGE else args.repeat
        with tempfile.TemporaryDirectory() as folder:
            paths = write_studies(Path(folder), size, supports)
            cache = Path(folder) / "cache"
            timed_detection(paths, cache)  # the network's conversion is kept from here on
            timed_detection(paths, cache, ["--reference-cache"])
            for name, options in (("cold", []), ("kept references", ["--reference-cache"])):
                found = median_of([timed_detection(paths, cache, options) for _ in range(repeat)])
                row = {"size": _named(size), "K": supports, "mode": name, **found}
                yield {**row, "us_per_voxel": found["wall"] / voxels * 1e6}


def _named(size: Sequence[int]) -> str:
    return "x".join(map(str, size))


def part_startup(args: argparse.Namespace) -> list[Row]:
    """From the start of Python to the features of a first slice, with the conversion kept and without."""
    rows = []
    commands = {"import D24FADLib.cli": "import D24FADLib.cli", "to the first slice": _FIRST_SLICE}
    with tempfile.TemporaryDirectory() as cache:
        environment = {**os.environ, "XDG_CACHE_HOME": cache}
        for name, code in commands.items():
            times = []
            for _ in range(args.repeat + 1):
                start = time.perf_counter()
                subprocess.run([sys.executable, "-c", code], check=True, env=environment, capture_output=True)
                times.append(time.perf_counter() - start)
            rows.append({"what": name, "first": times[0], "warm": statistics.median(times[1:])})
    return rows


def part_throughput(args: argparse.Namespace) -> list[Row]:
    """Many small studies of one protocol in one process."""
    from studies import write_studies

    from D24FADLib.imaging.reading import read_volume
    from D24FADLib.inference.detector import detect

    rows = []
    with tempfile.TemporaryDirectory() as folder:
        query, *supports = [read_volume(p) for p in write_studies(Path(folder), (64, 64, 64), 4)]
        os.environ["XDG_CACHE_HOME"] = folder
        for kept in (False, True):
            detect(query, supports, reference_cache=kept)
            times = []
            for _ in range(max(10, args.repeat)):
                start = time.perf_counter()
                detect(query, supports, reference_cache=kept)
                times.append(time.perf_counter() - start)
            middle = statistics.median(times)
            rows.append({"size": "64x64x64", "kept references": kept, "s": middle, "per_minute": 60 / middle})
    return rows


def part_gpu(args: argparse.Namespace) -> list[Row]:
    if not torch.cuda.is_available():
        note = "no CUDA card here"
        return [{"note": note}, *roofline(4, 256)]
    return on_card(args.repeat, args.streamed)


def markdown(results: dict[str, list[Row]], about: Row) -> str:
    lines = ["# Speed", "", ", ".join(f"{key} {value}" for key, value in about.items()), ""]
    for part, rows in results.items():
        columns = list(dict.fromkeys(key for row in rows for key in row))
        # ratios first
        columns.sort(
            key=lambda c: (
                c not in ("model", "pixels", "K", "precision", "supports", "images", "size", "mode"),
                "ratio" not in c,
            )
        )
        lines += [f"## {part}", "", f"| {' | '.join(columns)} |", f"|{' --- |' * len(columns)}"]
        lines += [f"| {' | '.join(_shown(row.get(c, '')) for c in columns)} |" for row in rows]
        lines.append("")
    return "\n".join(lines)


def _shown(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {_shown(number)}" for key, number in value.items())
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--repeat", type=int, default=5, help="runs of each case; their median is shown")
    parser.add_argument("--slices", type=int, default=16, help="query slices of a run in part slices")
    pixels = "side of the slices of part slices (the embedded model's own is 256)"
    parser.add_argument("--pixels", type=int, nargs="+", default=[128, 256], help=pixels)
    parser.add_argument("--supports", type=int, nargs="+", default=[2, 4, 8], help="K of part slices")
    parser.add_argument("--streamed", type=int, default=4608, help="slices of a run in part gpu")
    names = [_named(size) for size in SIZES]
    parser.add_argument("--sizes", nargs="+", choices=names, default=names, help="of part studies")
    parser.add_argument("--output", type=Path, required=True, help="folder of speed.md and speed.json")
    args = parser.parse_args()
    about = machine()
    results: dict[str, list[Row]] = {}
    args.output.mkdir(parents=True, exist_ok=True)
    for part in args.parts:
        results[part] = []
        for row in globals()[f"part_{part}"](args):
            results[part].append(row)
            print(part, ", ".join(f"{key} {_shown(value)}" for key, value in row.items()), flush=True)
            # after every row, so that an interrupted run leaves what it has
            text = markdown(results, about)
            (args.output / "speed.md").write_text(text, encoding="utf-8")
            (args.output / "speed.json").write_text(
                json.dumps({"machine": about, **results}, indent=2), encoding="utf-8"
            )


if __name__ == "__main__":
    main()
