"""The `d24fad` command: one verb per file in D24FADLib/commands."""

from __future__ import annotations

import argparse
import errno
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

from D24FADLib import __version__
from D24FADLib.commands import benchmark, calibrate, demo, detect, info, send, series, train
from D24FADLib.commands.progress import JsonReporter, Reporter, TerminalReporter
from D24FADLib.errors import Cancelled, D24FADError, ModelError, OutputError
from D24FADLib.windows import take_utf8_paths

FAILED, BAD_INPUT, CANCELLED = 1, 2, 130
# What a folder that was named for results, or the cache, may be the cause of.
_OF_A_PLACE = (
    errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.ENOTDIR,
    errno.EEXIST,
)  # fmt: skip
_OUT_OF_MEMORY = "out of memory. Try --batch 1, --device cpu, or a coarser study"


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="d24fad",
        description="Find anomalies in a study from a few normal references. "
        "Research use only; not a diagnosis.",
    )
    parser.add_argument("--version", action="version", version=f"d24fad {__version__}")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    for module in (detect, demo, series, send, train, calibrate, benchmark, info):
        module.add_parser(verbs)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb. 0 when done, 2 for input that cannot be used, 130 when interrupted, 1 out of memory."""
    take_utf8_paths()
    args = build_parser().parse_args(argv)
    reporter: Reporter = JsonReporter() if getattr(args, "json", False) else TerminalReporter()
    # A polite kill ends as Ctrl-C does, so that nothing half-written stays behind.
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        code = int(args.run(args, reporter))
        sys.stdout.flush()
        return code
    except BrokenPipeError:  # who read the output, such as head, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # else Python's last flush complains
        return FAILED
    except (Cancelled, KeyboardInterrupt):
        reporter.error("cancelled", _cancelled(args.verb, reporter.written))
        return CANCELLED
    except D24FADError as error:
        kind = {ModelError: "model", OutputError: "output"}.get(type(error), "input")
        reporter.error(kind, str(error))
        return BAD_INPUT
    except MemoryError as error:
        reporter.error("memory", str(error) or _OUT_OF_MEMORY)
        return FAILED
    except OSError as error:
        if error.errno not in _OF_A_PLACE:
            raise
        name = f"{Path(os.fsdecode(error.filename)).name}: " if error.filename else ""
        reporter.error(
            "output", f"{name}{os.strerror(error.errno)}. Choose another place, or make room there."
        )
        return BAD_INPUT
    except Exception as error:
        if isinstance(reporter, JsonReporter):  # the listener must hear of it; the trace goes to stderr
            reporter.error("internal", f"internal error ({type(error).__name__})")
        raise


def _cancelled(verb: str, written: Sequence[str]) -> str:
    if written:
        return f"cancelled when the results were complete: {', '.join(written)}"
    # Other verbs keep what is worth keeping: features, series already sent.
    return "cancelled; nothing was written" if verb == "detect" else "cancelled"


def _interrupt(number: int, frame: FrameType | None) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # a second one must not break the tidying up
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
