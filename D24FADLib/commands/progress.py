"""How a verb reports: a bar on a terminal, or one JSON object a line for machines.

Events of the JSON form, each with the key "event":
    progress  step, done, total, text
    note      text
    warning   text
    result    what the verb found, with the files written
    error     kind (input, model, output, memory, cancelled, internal), text
"""

from __future__ import annotations

import json
import sys
from typing import Any, Protocol

STEP_TEXTS = {
    "index": "Reading headers",
    "read": "Reading",
    "model": "Loading the model",
    "align": "Aligning references",
    "prepare": "Preparing intensities",
    "references": "Encoding references",
    "compare": "Comparing slices",
    "calibrate": "Calibrating",
    "findings": "Collecting findings",
    "write": "Writing",
    "simulate": "Making subjects",
    "features": "Teacher's features",
    "validation": "Validation cases",
    "train": "Training",
}


class Reporter(Protocol):
    written: list[str]  # folders of results that are complete, whatever happens after

    def progress(self, step: str, done: int, total: int) -> None: ...

    def note(self, text: str) -> None: ...

    def warning(self, text: str) -> None: ...

    def error(self, kind: str, text: str) -> None: ...

    def result(self, summary: dict[str, Any]) -> None: ...


class JsonReporter:
    """Line-delimited JSON on standard output."""

    def __init__(self) -> None:
        self.written: list[str] = []

    def _send(self, **event: Any) -> None:
        print(json.dumps(event), flush=True)

    def progress(self, step: str, done: int, total: int) -> None:
        text = STEP_TEXTS.get(step, step)
        self._send(event="progress", step=step, done=done, total=total, text=text)

    def note(self, text: str) -> None:
        self._send(event="note", text=text)

    def warning(self, text: str) -> None:
        self._send(event="warning", text=text)

    def error(self, kind: str, text: str) -> None:
        self._send(event="error", kind=kind, text=text)

    def result(self, summary: dict[str, Any]) -> None:
        self._send(event="result", **summary)


class TerminalReporter:
    """A tqdm bar a step on standard error where that is a terminal; plain lines elsewhere."""

    def __init__(self) -> None:
        self.written: list[str] = []
        self._bar: Any = None
        self._step = ""
        self._live = sys.stderr.isatty()

    def progress(self, step: str, done: int, total: int) -> None:
        if step != self._step:
            self.close()
            self._step = step
            if self._live:
                from tqdm import tqdm

                self._bar = tqdm(total=total, desc=STEP_TEXTS.get(step, step), leave=False)
        if self._bar is not None:
            self._bar.update(done - self._bar.n)

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    def note(self, text: str) -> None:
        if self._bar is not None:
            self._bar.clear()
        print(text, flush=True)

    def warning(self, text: str) -> None:
        self.close()
        print(f"warning: {text}", file=sys.stderr)

    def error(self, kind: str, text: str) -> None:
        self.close()
        print(f"d24fad: {text}", file=sys.stderr)

    def result(self, summary: dict[str, Any]) -> None:
        self.close()
        print(summary["text"])
