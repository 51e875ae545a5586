"""How long a run will still take, from the pace of the step it is in and the shares of those to come."""

from __future__ import annotations

from collections.abc import Mapping


class TimeLeft:
    """Estimates the seconds left from the pace of the current step; None until that is known.

    `shares`, in the order of the steps, say how much of a run each step is: the steps to come are taken to
    be as long, compared with the current one, as their shares. Without shares, or in a step that has none,
    the estimate is for the current step alone. The first unit of a step holds its start-up cost and is not
    counted.
    """

    _LEAST_SECONDS = 1.0
    _LEAST_UNITS = 2

    def __init__(self, shares: Mapping[str, float] | None = None) -> None:
        self._shares = dict(shares or {})
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
        pace = seconds / units
        return (total - done) * pace + self._later(step) * total * pace

    def _later(self, step: str) -> float:
        """How many times as long as this step those after it take together."""
        names = list(self._shares)
        if not self._shares.get(step):
            return 0.0
        after = sum(self._shares[name] for name in names[names.index(step) + 1 :])
        return after / self._shares[step]
