"""The worker's language: one JSON object a line on its standard output."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

HOLD = "hold"  # the line that promises the worker an input held open as long as the application lives
RUN_FOLDER = "D24FAD_RUN_FOLDER"  # environment: the private folder to remove should the application die
_LONGEST_LINE = 4_000_000  # bytes; a longer one is nonsense, and must not fill the memory


@dataclass(frozen=True)
class Started:
    pid: int


@dataclass(frozen=True)
class Progress:
    step: str
    done: int
    total: int
    text: str


@dataclass(frozen=True)
class Warned:
    text: str


@dataclass(frozen=True)
class Finished:
    summary: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Failed:
    kind: str
    text: str


@dataclass(frozen=True)
class Noise:
    """A line that is no event: a library's print, or a worker gone wrong."""

    text: str


Event = Started | Progress | Warned | Finished | Failed | Noise


class EventReader:
    """Turns the bytes as they arrive into events; never raises on what the worker wrote."""

    def __init__(self) -> None:
        self._rest = b""
        self._skipping = False

    def feed(self, data: bytes) -> list[Event]:
        self._rest += data
        *lines, self._rest = self._rest.split(b"\n")
        events: list[Event] = []
        for line in lines:
            if self._skipping:
                self._skipping = False
            elif line.strip():
                events.append(parse(line))
        if len(self._rest) > _LONGEST_LINE:
            self._rest = b""
            if not self._skipping:
                events.append(Noise("a line without an end"))
            self._skipping = True
        return events

    def close(self) -> list[Event]:
        """What an unfinished last line means."""
        rest, self._rest = self._rest, b""
        return [parse(rest)] if rest.strip() and not self._skipping else []


def parse(line: bytes) -> Event:
    """One line's event."""
    text = line.decode("utf-8", "replace").strip()
    try:
        value = json.loads(text)
        return _event(value) if isinstance(value, dict) else Noise(text[:500])
    except (ValueError, TypeError, RecursionError):
        return Noise(text[:500])


def _event(value: dict[str, Any]) -> Event:
    kind = value.get("event")
    if kind == "progress":
        total = max(0, int(value.get("total") or 0))
        done = min(max(0, int(value.get("done") or 0)), total)
        return Progress(str(value.get("step") or ""), done, total, str(value.get("text") or ""))
    if kind == "warning":
        return Warned(str(value.get("text") or ""))
    if kind == "result":
        return Finished({key: item for key, item in value.items() if key != "event"})
    if kind == "error":
        return Failed(str(value.get("kind") or "internal"), str(value.get("text") or ""))
    if kind == "started":
        return Started(int(value["pid"])) if "pid" in value else Noise("started")
    return Noise(f"an unknown event {kind!r}"[:500])
