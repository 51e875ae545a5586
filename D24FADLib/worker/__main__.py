"""`python -m D24FADLib.worker detect ...`: the command line, supervised for the application that started it.

Beside running the command it (1) makes itself the leader of a process group, so that it can be ended with
everything it started, (2) says its process id in a first event, and (3) ends itself when the application
dies, and removes the run's folder: the application writes one line to the worker's input and then holds it
open, and its closing means that nobody is listening any more.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import sys
import threading
from pathlib import Path
from typing import Any

from D24FADLib.worker.folder import PREFIX
from D24FADLib.worker.protocol import HOLD, RUN_FOLDER


def _emit(event: dict[str, Any]) -> None:
    print(json.dumps(event), flush=True)


def _lead_a_group() -> None:
    if hasattr(os, "setsid"):
        with contextlib.suppress(OSError):  # it already leads one
            os.setsid()


def _end_with_the_application() -> None:
    """Wait for the held input to close. Without the opening line nobody promised to hold it."""
    # Read below sys.stdin: its lock, held by a daemon thread, would abort the interpreter at its end.
    try:
        opening = os.read(0, len(HOLD) + 2)
        if opening.strip() != HOLD.encode():
            return
        while os.read(0, 1024):
            pass
    except OSError:
        return
    _remove_run_folder()
    if hasattr(os, "killpg"):
        with contextlib.suppress(OSError):
            os.killpg(os.getpgid(0), signal.SIGKILL)
    os._exit(130)


def _remove_run_folder() -> None:
    """Nobody else is left to do it. The name is looked at, lest a stray setting empty another folder."""
    folder = Path(os.environ.get(RUN_FOLDER) or os.devnull)
    if folder.name.startswith(PREFIX):
        shutil.rmtree(folder, ignore_errors=True)


def main() -> int:
    _lead_a_group()
    _emit({"event": "started", "pid": os.getpid()})
    threading.Thread(target=_end_with_the_application, daemon=True).start()
    try:
        from D24FADLib.cli import main as run

        return int(run(sys.argv[1:]) or 0)
    except MemoryError:
        _emit({"event": "error", "kind": "memory", "text": "The computer ran out of memory."})
        return 1
    except ModuleNotFoundError as error:
        _emit(
            {"event": "error", "kind": "dependency", "text": f"The Python package {error.name} is missing."}
        )
        return 1


if __name__ == "__main__":
    sys.exit(main())
