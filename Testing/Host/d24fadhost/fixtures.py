"""Fixtures of the suites that run on the host; a conftest imports them all."""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from d24fadhost import start

ROOT = Path(__file__).resolve().parents[3]
WORKER = ROOT / "Testing" / "Host" / "workers" / "fake_worker.py"
SCREENSHOTS = ROOT / "Testing" / "Screenshots"
AXIAL = ("R", "A", "S")

__all__ = ["host", "loaded", "logic", "module", "panel", "quiet_log", "screenshot", "temp", "volumes"]


def behaving(mode: str) -> Any:
    """Worker arguments that start the made-up worker in this mode."""

    def arguments(query: str, supports: list[str], output: str, options: Any) -> list[str]:
        last = [str(options.batch or 16)] if mode.startswith("batch") else []
        return [str(WORKER), mode, query, output, *supports, *last]

    return arguments


@pytest.fixture(scope="session")
def host() -> Any:
    return start()


@pytest.fixture(scope="session")
def module(host: Any) -> Any:
    import slicer

    slicer.modules.add("D24FAD", ROOT / "D24FAD" / "D24FAD.py")
    slicer.app.layoutManager()
    import D24FAD

    return D24FAD


@pytest.fixture
def temp(tmp_path: Path) -> Path:
    """Where runs put their private folders; a test may look that nothing is left in it."""
    folder = tmp_path / "runs"
    folder.mkdir()
    return folder


@pytest.fixture
def logic(host: Any, module: Any, temp: Path, tmp_path: Path) -> Any:
    """A logic over an empty scene, with the made-up worker behaving well and every package there."""
    import slicer

    host.new_scene()
    made = module.D24FADLogic()
    made.workerArguments = behaving("well")
    made.tempFolder = str(temp)
    made.referenceSetFolder = str(tmp_path / "sets")
    made.missingPackages = list
    yield made
    made.abandonDetection()
    made.abandonAdding()
    slicer.mrmlScene.Clear(False)


@pytest.fixture
def panel(host: Any, module: Any, temp: Path, tmp_path: Path) -> Any:
    """The module's widget over an empty scene, shown in a window of the usual width."""
    import slicer

    host.new_scene()
    widget = module.D24FADWidget()
    widget.logic.workerArguments = behaving("well")
    widget.logic.tempFolder = str(temp)
    widget.logic.referenceSetFolder = str(tmp_path / "sets")
    widget.logic.missingPackages = list
    widget.parent.resize(430, 900)
    widget.refresh()
    yield widget
    widget.cleanup()
    widget.parent.hide()
    slicer.mrmlScene.Clear(False)


@pytest.fixture
def screenshot(host: Any) -> Any:
    """`screenshot(widget, "name")` writes Testing/Screenshots/name.png."""

    def take(widget: Any, name: str) -> Path:
        host.process_events(0.15)
        SCREENSHOTS.mkdir(exist_ok=True)
        path = SCREENSHOTS / f"{name}.png"
        assert widget.grab().save(str(path))
        return path

    return take


@pytest.fixture
def quiet_log(caplog: Any) -> Any:
    """Fails the test where anything was logged as an error, or an exception was printed by a slot."""
    errors: list[str] = []
    before = sys.excepthook
    sys.excepthook = lambda kind, value, trace: errors.append(f"{kind.__name__}: {value}")
    with caplog.at_level(logging.DEBUG):
        yield caplog
    sys.excepthook = before
    errors += [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR]
    assert not errors, errors


class Volumes:
    """Adds small test volumes to the scene."""

    SIZE = (20, 48, 40)  # k, j, i
    SPACING = (2.0, 2.0, 4.0)  # i, j, k

    def grid(self, columns: Any = None, spacing: Any = None, center: Any = (5.0, -7.0, 11.0)) -> Any:
        """IJK to RAS with these axes (columns, RAS), so that the volume's middle lies at `center`."""
        axes = np.diag([-1.0, -1.0, 1.0]) if columns is None else np.asarray(columns, float)
        matrix = np.eye(4)
        matrix[:3, :3] = axes @ np.diag(spacing or self.SPACING)
        middle = (np.array(self.SIZE[::-1]) - 1) / 2
        matrix[:3, 3] = np.asarray(center) - matrix[:3, :3] @ middle
        return matrix

    def add(self, name: str, matrix: Any = None, seed: int = 0, ball: Any = None, radius: float = 7.0) -> Any:
        """A block of tissue in air; `ball` (RAS) adds a bright ball there."""
        import slicer

        matrix = self.grid() if matrix is None else matrix
        random = np.random.default_rng(seed)
        array = np.zeros(self.SIZE)
        array[2:-2, 6:-6, 6:-6] = 500 + 10 * random.standard_normal(array[2:-2, 6:-6, 6:-6].shape)
        if ball is not None:
            k, j, i = np.meshgrid(*(np.arange(size) for size in self.SIZE), indexing="ij")
            places = np.stack([i, j, k, np.ones_like(i)], -1) @ matrix.T
            array += 400 * np.clip(radius - np.linalg.norm(places[..., :3] - np.asarray(ball), axis=-1), 0, 1)
        return slicer.util.addVolumeFromArray(array.astype(np.int16), ijkToRAS=matrix, name=name)

    def study(
        self, references: int = 2, ball: Any = (14.0, 1.0, 15.0), matrix: Any = None
    ) -> tuple[Any, list[Any]]:
        """A study with a ball, and references without."""
        query = self.add("Study", matrix, 100, ball)
        return query, [self.add(f"Normal {n}", matrix, n) for n in range(1, references + 1)]


@pytest.fixture
def volumes() -> Volumes:
    return Volumes()


def alive(pid: int) -> bool:
    """Whether a process runs; one that has ended but was not waited for does not."""
    try:
        with open(f"/proc/{pid}/stat", encoding="ascii") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def left_in(folder: Path) -> list[str]:
    return sorted(os.listdir(folder))


@pytest.fixture
def loaded(panel: Any, volumes: Volumes, host: Any) -> Any:
    """(panel, study, three references) with the study chosen."""
    query, references = volumes.study(3)
    panel.ui.querySelector.setCurrentNode(query)
    host.process_events(0.05)
    return panel, query, references
