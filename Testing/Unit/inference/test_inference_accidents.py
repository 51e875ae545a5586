"""Outputs are there whole or not at all, whatever interrupts the writing."""

from __future__ import annotations

import os
import resource
import signal
import tempfile
import threading
from pathlib import Path

import pytest

from D24FADLib.errors import OutputError
from D24FADLib.inference import outputs
from D24FADLib.inference.outputs import write_outputs
from D24FADLib.inference.undisturbed import undisturbed


@pytest.fixture(autouse=True)
def _heeding_interrupts():
    """A process started in the background ignores SIGINT."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture
def interrupting(monkeypatch: pytest.MonkeyPatch):
    """SIGINT is sent at the n-th move of a file into the output folder."""

    def at(number: int) -> None:
        moves = 0
        real = os.replace

        def replace(a, b) -> None:
            nonlocal moves
            moves += Path(b).parent.name == "results"
            if Path(b).parent.name == "results" and moves == number:
                signal.raise_signal(signal.SIGINT)
            real(a, b)

        monkeypatch.setattr(outputs.os, "replace", replace)

    return at


@pytest.mark.parametrize("number", [1, 4])
def test_an_interruption_while_files_move_over_comes_after_them(
    detected, tmp_path: Path, interrupting, number: int
) -> None:
    folder = tmp_path / "results"
    write_outputs(detected, str(folder))
    names = {p.name for p in folder.iterdir()}
    for path in folder.iterdir():
        path.write_bytes(b"of an earlier run")
    interrupting(number)
    said: list[str] = []
    with pytest.raises(KeyboardInterrupt):
        write_outputs(detected, folder, overwrite=True, complete=lambda: said.append("complete"))
    assert said == ["complete"]
    assert {p.name for p in folder.iterdir()} == names
    assert not [p.name for p in folder.iterdir() if p.read_bytes() == b"of an earlier run"]
    assert [p.name for p in tmp_path.iterdir()] == ["results"]


def test_an_interruption_before_that_leaves_nothing(detected, tmp_path: Path) -> None:
    def progress(done: int, total: int) -> None:
        if done == 2:
            raise KeyboardInterrupt

    said: list[str] = []
    with pytest.raises(KeyboardInterrupt):
        write_outputs(
            detected, tmp_path / "results", progress=progress, complete=lambda: said.append("complete")
        )
    assert said == []
    assert list(tmp_path.iterdir()) == []


def test_a_disk_without_room_is_said_and_nothing_is_left(detected, tmp_path: Path) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2048, before[1]))
    try:
        with pytest.raises(OutputError, match="cannot be written"):
            write_outputs(detected, tmp_path / "results")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert list(tmp_path.iterdir()) == []


def test_both_signals_wait_and_the_first_is_delivered() -> None:
    seen: list[str] = []

    def work() -> None:
        with undisturbed():
            signal.raise_signal(signal.SIGINT)
            seen.append("still here")
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        work()
    assert seen == ["still here"]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_another_thread_is_left_alone() -> None:
    done: list[bool] = []

    def work() -> None:
        with undisturbed():
            done.append(True)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert done == [True]


@pytest.mark.skipif(not os.access("/dev/shm", os.W_OK), reason="no second file system at /dev/shm")
def test_a_folder_on_another_file_system_than_the_one_above_it(detected, tmp_path: Path) -> None:
    with tempfile.TemporaryDirectory(dir="/dev/shm") as elsewhere:
        if os.stat(elsewhere).st_dev == tmp_path.stat().st_dev:
            pytest.skip("/dev/shm is no file system of its own")
        folder = tmp_path / "results"
        folder.symlink_to(elsewhere)
        files = write_outputs(detected, folder)
        assert {path.name for path in folder.iterdir()} == {path.name for path in files.values()}
        assert [path.name for path in tmp_path.iterdir()] == ["results"]
