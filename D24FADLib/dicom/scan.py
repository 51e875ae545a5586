"""Reading the headers of many files on several processors.

The workers are plain processes of this module (`python -m D24FADLib.dicom.scan`) that take paths on their
standard input and answer in JSON: that works from a script, a terminal and Slicer alike,
and a file that brings a worker down costs that file only.
"""

from __future__ import annotations

import gc
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

from ..windows import NO_WINDOW
from . import headers
from .records import Row, row_of

Progress = Callable[[int, int], bool | None]

# Below this many files a second process costs more than it saves.
_PARALLEL_FROM = 2000
_CHUNK = 32  # paths on the way at once: less than a pipe holds
_COMMAND = [sys.executable, "-m", "D24FADLib.dicom.scan"]
_COLLECT_AFTER = 100_000
_CRASHED = "damaged: reading it ended the program that read it"


def scan(paths: Sequence[str], salt: bytes, workers: int | None = None) -> Iterator[tuple[str, Row]]:
    """(path, row) for each path, in any order."""
    workers = workers if workers is not None else min(8, os.cpu_count() or 1)
    if workers < 2 or len(paths) < _PARALLEL_FROM:
        with headers.quiet():
            for path in paths:
                yield path, row_of(path, salt)
        return
    yield from _scan_parallel(paths, salt, workers)


def _scan_parallel(paths: Sequence[str], salt: bytes, workers: int) -> Iterator[tuple[str, Row]]:
    chunks: Queue[list[str]] = Queue()
    for start in range(0, len(paths), _CHUNK):
        chunks.put(list(paths[start : start + _CHUNK]))
    answers: Queue[list[tuple[str, Row]] | None] = Queue()
    threads = [Thread(target=_feed, args=(chunks, answers, salt), daemon=True) for _ in range(workers)]
    for thread in threads:
        thread.start()
    running = len(threads)
    while running:
        answer = answers.get()
        if answer is None:
            running -= 1
        else:
            yield from answer


def _feed(chunks: Any, answers: Any, salt: bytes) -> None:
    """One worker process and its replacements: chunks go in, answers come out, None at the end."""
    worker: _Worker | None = None
    try:
        while not chunks.empty():
            try:
                chunk = chunks.get_nowait()
            except Empty:  # another thread took the last one
                break
            pieces = [chunk]
            while pieces:
                piece = pieces.pop(0)
                worker = worker or _Worker(salt)
                rows = worker.ask(piece)
                if rows is None:  # it died of one of these
                    worker = None
                    pieces[:0] = [[path] for path in piece] if len(piece) > 1 else []
                    rows = [Row(_CRASHED)] if len(piece) == 1 else []
                answers.put(list(zip(piece, rows, strict=False)))
    finally:
        if worker is not None:
            worker.stop()
        answers.put(None)


class _Worker:
    """A process that reads headers, and what it has told that later answers only number."""

    def __init__(self, salt: bytes) -> None:
        root = str(Path(__file__).resolve().parents[2])
        paths = os.pathsep.join([root, *filter(None, [os.environ.get("PYTHONPATH")])])
        self._shared: list[str] = []
        self._process = subprocess.Popen(
            _COMMAND,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            encoding="utf-8",
            errors="surrogateescape",
            env={**os.environ, "PYTHONPATH": paths, "PYTHONUTF8": "1"},
            creationflags=NO_WINDOW,
        )
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(salt.hex()) + "\n")

    def ask(self, paths: Sequence[str]) -> list[Row] | None:
        """The rows of some paths; None where the process died over them."""
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None
        assert stdout is not None
        try:
            stdin.write(json.dumps(paths) + "\n")
            stdin.flush()
            answer = json.loads(stdout.readline())
        except (OSError, ValueError):
            self.stop()
            return None
        self._shared += answer["shared"]
        return [
            Row(problem, study, series, patient, self._shared[number], own)
            for problem, study, series, patient, number, own in answer["rows"]
        ]

    def stop(self) -> None:
        with suppress(OSError):
            if self._process.stdin is not None:
                self._process.stdin.close()
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout=5)
        if self._process.poll() is None:
            self._process.kill()
        if self._process.stdout is not None:
            self._process.stdout.close()


def main() -> int:
    """A worker: the salt, then a list of paths a line, as JSON; a line of their rows back."""
    sys.stdin.reconfigure(encoding="utf-8", errors="surrogateescape")  # type: ignore[union-attr]
    salt = bytes.fromhex(json.loads(sys.stdin.readline()))
    numbers: dict[str, int] = {}
    gc.set_threshold(_COLLECT_AFTER)  # headers hold no cycles worth looking for after each few
    with headers.quiet():
        for line in sys.stdin:
            rows, told = [], len(numbers)
            for path in json.loads(line):
                row = row_of(path, salt)
                number = numbers.setdefault(row.shared, len(numbers))
                rows.append((*row[:4], number, row.own))
            answer = {"rows": rows, "shared": list(numbers)[told:]}
            sys.stdout.write(json.dumps(answer) + "\n")
            sys.stdout.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main())
