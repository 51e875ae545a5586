"""How long a run will still take, from the steps it has gone through."""

from __future__ import annotations


class TimeLeft:
    """Estimates the seconds left in the current step from its own pace; None until that is known.

    Steps differ by orders of magnitude, so the pace of one says nothing of the next. The first unit of a
    step holds its start-up cost and is not counted.
    """

    _LEAST_SECONDS = 1.0
    _LEAST_UNITS = 2

    def __init__(self) -> None:
        self._step: str | None = None
        self._from: tuple[int, float] | None = None

    def update(self, step: str, done: int, total: int, now: float) -> float | None:
        if step != self._step or (self._from is not None and done < self._from[0]):
            self._step, self._from = step, None
        if total <= 0 or done <= 0:
            return None
        if self._from is None:
            self._from = (done, now)
            return None
        units, seconds = done - self._from[0], now - self._from[1]
        if units < self._LEAST_UNITS or seconds < self._LEAST_SECONDS:
            return None
        return (total - done) * seconds / units


def spoken(seconds: float) -> str:
    """A duration as one would say it: coarse, because it is an estimate."""
    if seconds < 10:
        return "a few seconds"
    if seconds < 55:
        return f"about {round(seconds / 5) * 5} s"
    if seconds < 3300:
        return f"about {max(1, round(seconds / 60))} min"
    return f"about {seconds / 3600:.1f} h"
