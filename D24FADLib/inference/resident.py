"""Features of kept references, sent to a graphics card once and not with every batch."""

from __future__ import annotations

from collections.abc import Sequence
from threading import Lock

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from D24FADLib.inference.devices import sent

_SHARE = 0.4  # of a card's free memory that may be taken


class Resident:
    """Slices of arrays (n, K, ...) float16 on a device, as (1 + K, B, ...) float32, with room in front for
    the query's. Threads may call it side by side. What does not fit on a card with room to spare is sent
    slice by slice."""

    def __init__(self, arrays: Sequence[NDArray[np.float16]]) -> None:
        self._arrays = arrays
        self._lock = Lock()
        self._there: dict[torch.device, list[Tensor] | None] = {}

    def __call__(self, chunk: slice, device: torch.device) -> list[Tensor]:
        there = self._on(device) if device.type == "cuda" else None
        if there is not None:
            return [_with_room(array[chunk]) for array in there]
        parts = [torch.from_numpy(np.array(array[chunk])) for array in self._arrays]
        # to the card as they are, for half the bytes; a processor takes them from here
        return [_with_room(sent(part, device) if device.type == "cuda" else part) for part in parts]

    def _on(self, device: torch.device) -> list[Tensor] | None:
        with self._lock:
            if device not in self._there:
                self._there[device] = self._upload(device)
            return self._there[device]

    def _upload(self, device: torch.device) -> list[Tensor] | None:
        if sum(array.nbytes for array in self._arrays) > _SHARE * torch.cuda.mem_get_info(device)[0]:
            return None
        # an ordinary transfer: it is complete when it returns, whichever stream reads it then
        return [torch.from_numpy(np.array(array)).to(device) for array in self._arrays]


def _with_room(kept: Tensor) -> Tensor:
    slices, supports, *shape = kept.shape
    made = kept.new_empty(1 + supports, slices, *shape, dtype=torch.float32)
    made[1:] = kept.transpose(0, 1)
    return made
