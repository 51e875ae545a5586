"""Runs that are interrupted, share a machine, or lose their disk.

Each run is the whole `d24fad detect` on a small simulated study, in a process forked from one that has
loaded the library, so that most of its time is the run's own.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import multiprocessing
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from trust_rows import keep, kept_rows

ALWAYS = {
    "anomaly_map.nrrd", "residual_map.nrrd", "expected_normal.nrrd", "findings.seg.nrrd", "findings.csv",
    "slices.csv", "run.json", "overview.png",
}  # fmt: skip
_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_FORK = multiprocessing.get_context("fork")


def signals(args: argparse.Namespace) -> list[dict[str, object]]:
    """SIGINT or SIGTERM at a random moment: outputs are complete or absent, what is said is so, and nothing
    else is left. The moment is a random one of the run's events and a little after it, so that a busy machine
    changes nothing. Each run is kept in DIR/signals-runs.csv: this part goes on where it ended."""
    kept = args.output / "signals-runs.csv"
    done = kept_rows(kept)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a process in the background ignores it
    with _study() as (folder, words):
        started = time.perf_counter()
        process = _start([*words, "--output", str(folder / "first"), "--json"], folder / "said.txt")
        process.join()
        usual = time.perf_counter() - started
        events = len((folder / "said.txt").read_text(encoding="utf-8").splitlines())
        for number in range(len(done), args.runs):
            rng = random.Random(number)
            after = rng.randint(0, events), rng.uniform(0, 2 * usual / events)
            keep(kept, done, _interrupted(words, folder, *after, rng.choice(_SIGNALS)))
    counts = Counter(row["outputs"] for row in done)
    return [
        {
            "runs": len(done), "events of a run": events,
            **{kind: counts[kind] for kind in ("complete", "none", "partial")},
            **{kind: sum(int(row[kind]) for row in done) for kind in ("left behind", "wrong code", "untrue")},
            "interrupted when complete": sum(r["outputs"] == "complete" and r["code"] == "130" for r in done),
        }
    ]  # fmt: skip


def _interrupted(
    words: Sequence[str], folder: Path, events: int, seconds: float, number: int
) -> dict[str, object]:
    """One run, sent a signal so many seconds after so many of its events: what it left and said."""
    place, temporary, said = folder / "place", folder / "temporary", folder / "said.txt"
    place.mkdir()
    temporary.mkdir()
    said.unlink(missing_ok=True)
    output = place / "results"
    process = _start([*words, "--output", str(output), "--json"], said, temporary)
    while process.is_alive() and (not said.is_file() or said.read_bytes().count(b"\n") < events):
        time.sleep(0.002)
    process.join(seconds)
    with contextlib.suppress(ProcessLookupError):
        os.kill(process.pid or 0, number)
    process.join(600)
    found = {p.name for p in output.iterdir()} if output.is_dir() else set()
    outputs = "complete" if found >= ALWAYS else "partial" if found else "none"
    shutil.rmtree(output, ignore_errors=True)
    left = [*place.iterdir(), *temporary.iterdir()]
    shutil.rmtree(place)
    shutil.rmtree(temporary)
    lines = said.read_text(encoding="utf-8").splitlines() if said.is_file() else []
    text = json.loads(lines[-1]).get("text", "") if lines else ""
    # Before the command heeds signals it says nothing, and ends as Python does.
    right = (0, 130) if outputs == "complete" else (130,) if lines else (130, 1, -number)
    untrue = ("nothing was written" in text and outputs != "none") or (
        "results were complete" in text and outputs != "complete"
    )
    return {
        "events": events, "seconds": round(seconds, 3), "signal": number, "outputs": outputs,
        "code": process.exitcode, "left behind": len(left), "wrong code": int(process.exitcode not in right),
        "untrue": int(untrue), "said": text,
    }  # fmt: skip


def concurrent(args: argparse.Namespace) -> list[dict[str, object]]:
    """Eight runs at once, with an empty cache to share, give the files of one alone."""
    with _study() as (folder, words):
        os.environ["XDG_CACHE_HOME"] = str(folder / "cache")
        together = [_start([*words, "--output", str(folder / f"r{n}")]) for n in range(8)]
        for process in together:
            process.join(600)
        _timed(words, folder / "alone")
        expected = _digests(folder / "alone")
        same = sum(_digests(folder / f"r{n}") == expected for n in range(8))
        failed = sum(p.exitcode != 0 for p in together)
        hidden = [p.name for p in folder.rglob(".d24fad*")]
    return [{"runs": 8, "failed": failed, "same as alone": same, "left behind": len(hidden)}]


def storage(args: argparse.Namespace) -> list[dict[str, object]]:
    """Output folders that cannot be written: what the run says, and what it leaves."""
    rows = []
    with _study() as (folder, words):
        for case, prepare in (
            ("file size limit", _limited), ("full disk", _full), ("exists with other files", _filled),
            ("is a file", _file), ("vanishes midway", None),
        ):  # fmt: skip
            place = folder / case.replace(" ", "-")
            place.mkdir()
            output, limit, undo = (place / "results", None, None) if prepare is None else prepare(place)
            before = sorted(p.name for p in place.rglob("*"))
            command = [sys.executable, "-m", "D24FADLib", *words, "--output", str(output), "--json"]
            process = subprocess.Popen(
                command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=limit
            )
            if prepare is None:
                assert process.stdout is not None
                for line in process.stdout:
                    if json.loads(line).get("step") == "compare":
                        shutil.rmtree(place)
                        break
            out, err = process.communicate()
            event = json.loads(out.splitlines()[-1]) if out.strip() else {}
            after = sorted(p.name for p in place.rglob("*")) if place.exists() else []
            if undo:
                undo()
            rows.append(
                {"case": case, "code": process.returncode, "kind": event.get("kind", ""),
                 "says": event.get("text", ""), "changed": before != after, "traceback": "Traceback" in err}
            )  # fmt: skip
    return rows


def _limited(place: Path):  # type: ignore[no-untyped-def]
    return place / "results", lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096)), None


def _full(place: Path):  # type: ignore[no-untyped-def]
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(place)], check=False)
    undo = (lambda: subprocess.run(["umount", str(place)], check=False)) if done.returncode == 0 else None
    return place / "results", None, undo


def _filled(place: Path):  # type: ignore[no-untyped-def]
    (place / "results").mkdir()
    (place / "results" / "letter.txt").write_text("mine")
    return place / "results", None, None


def _file(place: Path):  # type: ignore[no-untyped-def]
    (place / "results").write_text("mine")
    return place / "results", None, None


@contextlib.contextmanager
def _study() -> Iterator[tuple[Path, list[str]]]:
    """A folder with a small simulated study, and the words of a run but for its output."""
    import SimpleITK as sitk

    from D24FADLib.imaging.volume import Volume
    from D24FADLib.imaging.writing import write_volume
    from D24FADLib.simulation import Lesion, load_template, make_subject

    with tempfile.TemporaryDirectory(prefix="trust-") as name:
        folder = Path(name)
        template = load_template()
        words = ["detect"]
        for seed in range(3):
            lesion = Lesion((26.0, -20.0, 26.0), 22.0, "bright") if seed == 0 else None
            volume: Volume = make_subject(seed, spacing_mm=6.0, template=template, lesion=lesion)[0]
            x, y, z = volume.size
            cut = sitk.Image(volume.image[x // 4 : x // 4 + 12, y // 4 : y // 4 + 12, z // 2 : z // 2 + 4])
            path = write_volume(replace(volume, image=cut), folder / f"study{seed}.nrrd")
            words += [str(path)] if seed == 0 else ["--support", str(path)]
        yield folder, [*words, "--align", "none", "--runtime", "torch", "--device", "cpu", "--plane", "axial"]


def _run(words: Sequence[str], said: Path | None, temporary: Path | None) -> None:
    import torch

    from D24FADLib.cli import main

    torch.set_num_threads(1)
    tempfile.tempdir = str(temporary or tempfile.gettempdir())
    heard = os.open(said or os.devnull, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(heard, 1)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    os._exit(main(words))


def _start(
    words: Sequence[str], said: Path | None = None, temporary: Path | None = None
) -> multiprocessing.process.BaseProcess:
    # What a run needs is imported once, before the first fork.
    import matplotlib.figure  # noqa: F401
    import torch

    import D24FADLib.inference.comparison
    import D24FADLib.inference.detector
    import D24FADLib.inference.overview  # noqa: F401

    torch.set_num_threads(1)
    process = _FORK.Process(target=_run, args=(list(words), said, temporary))
    process.start()
    return process


def _timed(words: Sequence[str], output: Path) -> float:
    started = time.perf_counter()
    process = _start([*words, "--output", str(output)])
    process.join(600)
    if process.exitcode != 0:
        raise SystemExit(f"a run that nothing disturbs ends with {process.exitcode}")
    return time.perf_counter() - started


def _digests(folder: Path) -> dict[str, str]:
    """Of everything but run.json, which holds times."""
    return {
        p.name: hashlib.sha256(p.read_bytes()).hexdigest()
        for p in sorted(folder.glob("*"))
        if p.name != "run.json"
    }
