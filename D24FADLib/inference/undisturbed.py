"""Moments that an interruption must not cut in two."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

_ASKED = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def undisturbed() -> Iterator[None]:
    """SIGINT and SIGTERM wait until the body has ended, then do what they would have done.

    Handlers run in the main thread alone; in another one this does nothing. Masking would not do: the
    system hands a masked signal to any other thread of the process.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    waiting: list[tuple[int, FrameType | None]] = []
    before: dict[int, Any] = {}
    for asked in _ASKED:
        before[asked] = signal.signal(asked, lambda n, frame: waiting.append((n, frame)))
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)
        for number, frame in waiting[:1]:
            handler = before[number]
            if callable(handler):
                handler(number, frame)
            elif handler != signal.SIG_IGN:
                signal.raise_signal(number)
