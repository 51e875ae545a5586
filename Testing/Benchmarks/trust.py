"""How far the scores and the checks can be trusted: the tables of Docs/trust.md.

    python Testing/Benchmarks/trust.py PART [PART ...] --data ../shared/data/bench2d --output DIR

PART is one or more of coverage, organ, contamination, repeatability, flipped (pictures, cached features),
shift, empty (the detector on changed pictures), volumes, spoilt, shift-volumes (a folder of aligned normal
volumes: coverage, a lesion in a reference, changed queries), signals, concurrent and storage (accidents).
Each writes DIR/PART.csv and prints it.
"""

from __future__ import annotations

import argparse
import csv
import sys
from pathlib import Path

import torch

PICTURES = ("coverage", "organ", "contamination", "repeatability", "flipped")
QUERIES = ("shift", "empty")
VOLUMES = ("volumes", "spoilt", "shift-volumes")
ACCIDENTS = ("signals", "concurrent", "storage")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "parts", nargs="+", choices=(*PICTURES, *QUERIES, *VOLUMES, *ACCIDENTS), metavar="PART"
    )
    parser.add_argument("--data", type=Path, default=Path("../shared/data/bench2d"))
    parser.add_argument("--volumes", type=Path, default=Path("../shared/data/volumes/ptbp_t1_slabs"))
    parser.add_argument("--output", type=Path, default=Path("build/trust"))
    parser.add_argument("--cache", type=Path, default=Path("~/.cache/d24fad/benchmark"))
    parser.add_argument("--model", default="d24fad-lite0")
    parser.add_argument("--tasks", nargs="+", help="default: all")
    parser.add_argument("--draws", type=int, default=40, help="of four supports")
    parser.add_argument("--images", type=int, default=48, help="supports' pool and test images a class")
    parser.add_argument("--queries", type=int, default=12, help="a class and draw; of volumes: draws")
    parser.add_argument("--runs", type=int, default=200, help="of the accidents")
    args = parser.parse_args()
    torch.set_num_threads(1)
    args.output.mkdir(parents=True, exist_ok=True)
    for part, rows in _rows(args):
        _write(rows, args.output / f"{part}.csv")
        print(f"\n{part}\n{_table(rows)}", flush=True)


def _rows(args: argparse.Namespace):  # type: ignore[no-untyped-def]
    wanted = [p for p in args.parts if p in PICTURES]
    if wanted:
        import trust_pictures as pictures

        from D24FADLib.benchmark.calibration_data import Workbench
        from D24FADLib.benchmark.datasets import read_tasks

        def tell(step: str, done: int, total: int) -> None:
            print(f"\r{step} {done}/{total}   ", end="", file=sys.stderr, flush=True)

        bench = Workbench(args.model, args.cache, args.images, args.draws, 111, tell)
        tasks = read_tasks(args.data)
        tested = [t for t in tasks if not args.tasks or t.name in args.tasks]
        priors = pictures.fits(bench, tasks) if set(wanted) - {"flipped"} else {}
        calls = {
            "coverage": lambda: pictures.coverage(bench, tested, priors, args.queries),
            "organ": lambda: pictures.organ(bench, tasks, priors),
            "contamination": lambda: pictures.contamination(bench, tested, priors, args.draws, args.queries),
            "repeatability": lambda: pictures.repeatability(bench, tested, priors, args.queries),
            "flipped": lambda: pictures.flipped(bench, tested, args.draws),
        }
        for part in wanted:
            yield part, calls[part]()
    if set(args.parts) & set(QUERIES):
        import trust_queries as queries

        for part in (p for p in args.parts if p in QUERIES):
            yield part, getattr(queries, part)(args)
    if set(args.parts) & set(VOLUMES):
        import trust_volumes as volumes

        for part in (p for p in args.parts if p in VOLUMES):
            yield part, getattr(volumes, part.replace("-", "_"))(args)
    if set(args.parts) & set(ACCIDENTS):
        import trust_accidents as accidents

        for part in (p for p in args.parts if p in ACCIDENTS):
            yield part, getattr(accidents, part)(args)


def _write(rows: list[dict[str, object]], path: Path) -> None:
    columns = list(dict.fromkeys(key for row in rows for key in row))
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(rows)


def _table(rows: list[dict[str, object]]) -> str:
    columns = list(dict.fromkeys(key for row in rows for key in row))

    def shown(value: object) -> str:
        return "" if value is None else f"{value:.3f}" if isinstance(value, float) else str(value)

    lines = [columns, ["---"] * len(columns), *([shown(r.get(c)) for c in columns] for r in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


if __name__ == "__main__":
    main()
