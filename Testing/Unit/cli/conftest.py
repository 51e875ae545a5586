from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> Iterator[None]:
    """The images are so small that threads cost more than they give."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(autouse=True)
def own_signals() -> Iterator[None]:
    """`main` sets what SIGTERM does; the test run's own choice comes back afterwards."""
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


@pytest.fixture
def arguments(simulated, small_model: Path) -> Callable[..., list[str]]:
    """The words of a quick `d24fad detect` of the simulated query; other words and the output come last."""

    def words(output: Path, *more: str, query: Path | None = None, supports=None) -> list[str]:
        supports = simulated.support_files[:2] if supports is None else supports
        given = [word for path in supports for word in ("--support", str(path))]
        model = [] if "--model" in more else ["--model", str(small_model)]
        device = [] if "--device" in more else ["--device", "cpu"]
        quick = [] if "--runtime" in more else ["--runtime", "torch"]
        align = [] if "--align" in more else ["--align", "none"]
        return [
            "detect", str(query or simulated.query_file), *given, "--output", str(output),
            *model, *device, *quick, *align, *more,
        ]  # fmt: skip

    return words
