"""Reading the headers of many files on several processors.

The workers are plain processes of this module (`python -m D24FADLib.dicom.scan`) that take paths on their
standard input and answer with one JSON line each: that works from a script, a terminal and Slicer alike,
and a file that brings a worker down costs that file only.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from queue import Empty, Queue
from threading import Thread
from typing import Any

from . import headers
from .records import record_of

Record = dict[str, Any]
Progress = Callable[[int, int], bool | None]

# Below this many files a second process costs more than it saves.
_PARALLEL_FROM = 800
_CHUNK = 8  # paths on the way at once: less than a pipe holds
_CRASHED = "damaged: reading it ended the program that read it"


def scan(paths: Sequence[str], salt: bytes, workers: int | None = None) -> Iterator[tuple[str, Record]]:
    """(path, record) for each path, in any order."""
    workers = workers if workers is not None else min(8, os.cpu_count() or 1)
    if workers < 2 or len(paths) < _PARALLEL_FROM:
        with headers.quiet():
            for path in paths:
                yield path, record_of(path, salt)
        return
    yield from _scan_parallel(paths, salt, workers)


def _scan_parallel(paths: Sequence[str], salt: bytes, workers: int) -> Iterator[tuple[str, Record]]:
    chunks: Queue[list[str]] = Queue()
    for start in range(0, len(paths), _CHUNK):
        chunks.put(list(paths[start : start + _CHUNK]))
    answers: Queue[tuple[str, Record] | None] = Queue()
    threads = [Thread(target=_feed, args=(chunks, answers, salt), daemon=True) for _ in range(workers)]
    for thread in threads:
        thread.start()
    running = len(threads)
    while running:
        answer = answers.get()
        if answer is None:
            running -= 1
        else:
            yield answer


def _feed(chunks: Any, answers: Any, salt: bytes) -> None:
    """One worker process and its replacements: chunks go in, answers come out, None at the end."""
    worker: subprocess.Popen[str] | None = None
    try:
        while not chunks.empty():
            try:
                chunk = chunks.get_nowait()
            except Empty:  # another thread took the last one
                break
            while chunk:
                worker = worker or _start(salt)
                records = _ask(worker, chunk)
                if len(records) < len(chunk):  # it died of the file after the last answered one
                    worker = None
                    records.append({"problem": _CRASHED})
                for answer in zip(chunk, records, strict=False):
                    answers.put(answer)
                chunk = chunk[len(records) :]
    finally:
        if worker is not None:
            _stop(worker)
        answers.put(None)


def _start(salt: bytes) -> subprocess.Popen[str]:
    root = str(Path(__file__).resolve().parents[2])
    paths = os.pathsep.join([root, *filter(None, [os.environ.get("PYTHONPATH")])])
    worker = subprocess.Popen(
        [sys.executable, "-m", "D24FADLib.dicom.scan"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        encoding="utf-8",
        errors="surrogateescape",
        env={**os.environ, "PYTHONPATH": paths, "PYTHONUTF8": "1"},
    )
    assert worker.stdin is not None
    worker.stdin.write(json.dumps(salt.hex()) + "\n")
    return worker


def _ask(worker: subprocess.Popen[str], chunk: Sequence[str]) -> list[Record]:
    """The records of some paths; fewer than asked for where the worker died."""
    assert worker.stdin is not None
    assert worker.stdout is not None
    records: list[Record] = []
    try:
        worker.stdin.write("".join(json.dumps(path) + "\n" for path in chunk))
        worker.stdin.flush()
        while len(records) < len(chunk) and (line := worker.stdout.readline()):
            records.append(json.loads(line))
    except (OSError, ValueError):
        pass
    if len(records) < len(chunk):
        _stop(worker)
    return records


def _stop(worker: subprocess.Popen[str]) -> None:
    with suppress(OSError):
        if worker.stdin is not None:
            worker.stdin.close()
    with suppress(subprocess.TimeoutExpired):
        worker.wait(timeout=5)
    if worker.poll() is None:
        worker.kill()


def main() -> int:
    """A worker: the salt, then one path a line, as JSON; one record a line back."""
    sys.stdin.reconfigure(encoding="utf-8", errors="surrogateescape")  # type: ignore[union-attr]
    salt = bytes.fromhex(json.loads(sys.stdin.readline()))
    with headers.quiet():
        for line in sys.stdin:
            record = record_of(json.loads(line), salt)
            sys.stdout.write(json.dumps(record) + "\n")
            sys.stdout.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main())
