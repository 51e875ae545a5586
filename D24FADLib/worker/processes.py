"""Ending a process with everything it started, on every system, without waiting for it."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from ..windows import NO_WINDOW


def is_alive(pid: int) -> bool:
    """Whether a process of this id runs. (Its id may have been given to another one since.)"""
    if pid <= 0:
        return False
    if sys.platform == "win32":
        listed = subprocess.run(
            ["tasklist", "/FI", f"PID eq {pid}", "/NH"],
            capture_output=True,
            text=True,
            check=False,
            creationflags=NO_WINDOW,
        )
        return str(pid) in listed.stdout
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def end_tree(pid: int, *, gently: bool = False) -> None:
    """Ask (`gently`) or force the process, its group and its descendants to end; unknown ids are ignored."""
    if pid <= 0:
        return
    if sys.platform == "win32":
        # Windows has no gentle way for a console process without a window.
        if not gently:
            subprocess.Popen(
                ["taskkill", "/PID", str(pid), "/T", "/F"],
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                creationflags=NO_WINDOW,
            )
        return
    signum = signal.SIGTERM if gently else signal.SIGKILL
    family = descendants(pid) if not gently else []
    try:
        leads = os.getpgid(pid) == pid
    except ProcessLookupError:
        # The leader is gone, but its group may live on.
        leads = True
    _signal(os.killpg if leads else os.kill, pid, signum)
    for child in family:
        _signal(os.kill, child, signum)


def _signal(send: Callable[[int, int], None], pid: int, signum: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        send(pid, signum)


def descendants(pid: int) -> list[int]:
    """The ids of all children's children, where the system tells them (Linux; elsewhere the group serves)."""
    found: list[int] = []
    pending = [pid]
    while pending:
        parent = pending.pop()
        for thread in Path(f"/proc/{parent}/task").glob("*"):  # a child is its thread's
            try:
                children = [int(word) for word in (thread / "children").read_text("ascii").split()]
            except (OSError, ValueError):
                continue
            found += children
            pending += children
    return found
