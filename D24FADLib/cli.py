"""The `d24fad` command: one verb per file in D24FADLib/commands."""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Sequence
from types import FrameType

from D24FADLib import __version__
from D24FADLib.commands import train
from D24FADLib.errors import Cancelled, D24FADError

BAD_INPUT, CANCELLED = 2, 130


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="d24fad",
        description="Find anomalies in a study from a few normal references. "
        "Research use only; not a diagnosis.",
    )
    parser.add_argument("--version", action="version", version=f"d24fad {__version__}")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    for module in (train,):
        module.add_parser(verbs)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb. Returns 0, 2 for input that cannot be used, 130 when interrupted."""
    args = build_parser().parse_args(argv)
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        return int(args.run(args))
    except D24FADError as error:
        if isinstance(error, Cancelled):
            print("cancelled; nothing was written", file=sys.stderr)
            return CANCELLED
        print(f"d24fad: {error}", file=sys.stderr)
        return BAD_INPUT
    except KeyboardInterrupt:
        print("cancelled; nothing was written", file=sys.stderr)
        return CANCELLED


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
