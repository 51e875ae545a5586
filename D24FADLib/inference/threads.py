"""Array work side by side: numpy, scipy and torch leave the interpreter free while they compute."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

T = TypeVar("T")

MOST = min(8, os.cpu_count() or 1)


def side_by_side(function: Callable[..., T], *items: Iterable[Any], workers: int = MOST) -> list[T]:
    """`list(map(function, *items))`, `workers` at a time. Raises what the first call that fails raises."""
    if workers == 1:
        return list(map(function, *items))
    torch = sys.modules.get("torch")  # where it is in use: one thread for each of them
    before = torch.get_num_threads() if torch else 1
    try:
        with ThreadPoolExecutor(workers, initializer=_alone) as pool:
            return list(pool.map(function, *items))
    finally:
        if torch:
            torch.set_num_threads(before)


def _alone() -> None:
    if torch := sys.modules.get("torch"):
        torch.set_num_threads(1)
