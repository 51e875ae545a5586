from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
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


@pytest.fixture(scope="session")
def options(small_model: Path) -> Callable:
    """Options of a quick detection: no alignment, torch on the CPU."""
    from D24FADLib.imaging.alignment import Alignment
    from D24FADLib.inference.options import DetectionOptions

    return partial(
        DetectionOptions, model=str(small_model), align=Alignment.NONE, device="cpu", runtime="torch"
    )


@pytest.fixture(scope="session")
def detected(simulated, options: Callable):
    """The axial detection of the simulated query; not to be changed."""
    from D24FADLib.imaging.planes import Plane
    from D24FADLib.inference.detector import detect

    return detect(simulated.query, simulated.supports, options(plane=Plane.AXIAL))
