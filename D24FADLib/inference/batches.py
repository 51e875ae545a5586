"""Running batches side by side, within the memory that the device has."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from functools import cache
from threading import Lock
from typing import Any, Protocol

import torch
from torch import Tensor

# what `Comparer.batch` takes, for some slices, made on a device where that is quicker: images, covered, the
# supports' known features
Inputs = Callable[[slice, torch.device], tuple[Tensor, Tensor, list[Tensor] | None]]
Result = tuple[Tensor, ...]


class Compares(Protocol):
    """Something that turns a batch into tensors, slices first (see `comparison.Comparer`). results_on: where
    they go from `device`."""

    device: torch.device
    results_on: torch.device

    def batch(
        self, images: Tensor, covered: Tensor, known: Sequence[Tensor] | None = None
    ) -> tuple[Tensor | None, ...]: ...

    def on_cpu(self) -> Compares: ...


def workers_on(device: torch.device) -> int:
    """Batches at a time: one a core, as small batches use one core better than many; on a graphics card
    one is prepared while another is computed."""
    return min(8, torch.get_num_threads()) if device.type == "cpu" else 2


_NO_ROOM = (
    "out of memory",
    "alloc_failed",  # of cuBLAS and cuDNN
    "nvml_success == r",  # torch fails at reporting it where the driver's library for that is missing
)


def is_out_of_memory(error: Exception) -> bool:
    """CUDA has an exception of its own for it, MPS and others only a text."""
    text = str(error).lower()
    return isinstance(error, torch.cuda.OutOfMemoryError) or any(one in text for one in _NO_ROOM)


class Batches:
    """A comparer at work on the slices of a study, as a context.

    Where a batch does not fit into the device's memory it is halved, and so are all that follow. Where not
    even one slice fits, the processor takes over, and `notes` says so. On a CUDA card each worker has a
    stream of its own, so that one's transfers run beside another's arithmetic, and stays for the process's
    next study: torch and cuDNN keep what they have planned and allocated by thread and by stream, and making
    it takes longer than a study.
    """

    def __init__(self, comparer: Compares, workers: int | None = None) -> None:
        self.notes: list[str] = []
        self._comparer = comparer
        self._workers = workers or workers_on(comparer.device)
        self._most: int | None = None  # slices that fit
        self._fell_back = False
        self._lock = Lock()

    def __enter__(self) -> Batches:
        self._threads = torch.get_num_threads()
        alone = 1 if self._workers > 1 else self._threads
        device = self._comparer.device
        self._stays = device.type == "cuda"
        self._pool = (
            _staying(self._workers, alone, device) if self._stays else _pool(self._workers, alone, device)
        )
        self._waiting: deque[Future[list[tuple[int, Result, Tensor]]]] = deque()
        return self

    def __exit__(self, *_: Any) -> None:
        if self._stays:
            for future in self._waiting:
                future.cancel()
            wait(self._waiting)
        else:
            self._pool.shutdown(cancel_futures=True)
        torch.set_num_threads(self._threads)

    def run(self, inputs: Inputs, count: int, batch: int) -> Iterator[tuple[int, Result, Tensor]]:
        """Slices done, the comparer's result without its Nones (where it wants it) and `covered`, piece by
        piece in order. Raises MemoryError where not even the processor has room."""
        # as many pieces, but alike, as a shape of its own is planned anew, and one for each worker
        pieces = max(-(-count // batch), min(count, self._workers))
        batch = -(-count // pieces)
        chunks = [slice(start, min(start + batch, count)) for start in range(0, count, batch)]
        waiting = self._waiting
        for chunk in chunks:
            waiting.append(self._pool.submit(self._piece_by_piece, inputs, chunk))
            if len(waiting) > self._workers:  # results do not pile up
                yield from waiting.popleft().result()
        while waiting:
            yield from waiting.popleft().result()

    def _piece_by_piece(self, inputs: Inputs, chunk: slice) -> list[tuple[int, Result, Tensor]]:
        done: list[tuple[int, Result, Tensor]] = []
        start = chunk.start
        while start < chunk.stop:
            piece = slice(start, min(chunk.stop, start + (self._most or chunk.stop)))
            comparer = self._comparer
            try:
                result, covered = _compared(comparer, inputs, piece)
            except RuntimeError as error:
                if not is_out_of_memory(error):
                    raise
            else:
                done.append((piece.stop, result, covered))
                start = piece.stop
                continue
            # here, where the error is gone and with it all that it held
            self._make_room(piece.stop - piece.start, comparer)
        return done

    def _make_room(self, slices: int, used: Compares) -> None:
        if used.device.type == "cuda":
            torch.cuda.empty_cache()
        with self._lock:
            if used is not self._comparer:
                return  # another batch met the same and has changed over
            if slices > 1:
                self._most = min(self._most or slices, slices // 2)
            elif self._fell_back:
                raise MemoryError("the memory does not hold even one slice; close other programs")
            else:
                self._fell_back = True
                self._comparer = self._comparer.on_cpu()
                self.notes.append(
                    f"The memory of {used.device} does not hold even one slice: the processor computed "
                    "instead."
                )


def _pool(workers: int, threads: int, device: torch.device) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(workers, initializer=_begin, initargs=(threads, device))


_staying = cache(_pool)


def _begin(threads: int, device: torch.device) -> None:
    torch.set_num_threads(threads)
    if device.type == "cuda":
        torch.cuda.set_stream(torch.cuda.Stream(device))


def _compared(comparer: Compares, inputs: Inputs, piece: slice) -> tuple[Result, Tensor]:
    images, covered, known = inputs(piece, comparer.device)
    found = comparer.batch(images, covered, known)
    result = tuple(t.to(comparer.results_on) for t in found if t is not None)
    if comparer.results_on.type == "cuda":  # complete before another thread looks at them
        torch.cuda.current_stream(comparer.results_on).synchronize()
    return result, covered
