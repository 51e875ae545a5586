"""d24fad send: results, or any DICOM files, to an archive by C-STORE or STOW-RS."""

from __future__ import annotations

import argparse
import json
import math
import sys
from pathlib import Path
from typing import Any

from ..errors import InputError
from .progress import Reporter


def add_parser(subparsers: Any) -> None:
    parser = subparsers.add_parser(
        "send",
        help="send DICOM files to an archive",
        description="Send the DICOM files of a folder to an archive and check the answer to each of them.",
    )
    parser.add_argument("folder", type=Path, help="folder of DICOM files, or one file")
    target = parser.add_mutually_exclusive_group(required=True)
    target.add_argument("--to", metavar="HOST:PORT", help="archive that takes C-STORE")
    target.add_argument("--stow", metavar="URL", help="DICOMweb service that takes STOW-RS, up to its root")
    parser.add_argument(
        "--aec", default="ANY-SCP", metavar="TITLE", help="the archive's AE title (default ANY-SCP)"
    )
    parser.add_argument(
        "--aet", default="D24FAD", metavar="TITLE", help="this computer's AE title (default D24FAD)"
    )
    parser.add_argument(
        "--timeout", type=float, default=30.0, metavar="S", help="seconds to wait for an answer"
    )
    parser.add_argument(
        "--auth-file",
        type=Path,
        metavar="FILE",
        help="for --stow: a file that holds user:password, or a token alone",
    )
    parser.add_argument(
        "--tls",
        action="store_true",
        help="for --to: encrypt, and check the archive's certificate",
    )
    parser.add_argument(
        "--ca", type=Path, metavar="FILE", help="certificates to trust instead of the system's (PEM)"
    )
    parser.add_argument(
        "--cert", type=Path, metavar="FILE", help="one's own certificate, where asked for (PEM)"
    )
    parser.add_argument("--key", type=Path, metavar="FILE", help="its key, unless it is in the same file")
    parser.add_argument("--json", action="store_true", help="print the results as JSON")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace, reporter: Reporter) -> int:
    """0 when everything was stored, 1 otherwise."""
    from ..dicom.send import Tls, send_cstore, send_stow

    files = (args.ca, args.cert, args.key)
    if args.key is not None and args.cert is None:
        raise InputError("--key: give the certificate, too (--cert)")
    if args.auth_file is not None and args.stow is None:
        raise InputError("--auth-file goes with --stow: DICOM's own C-STORE knows no password. Leave it out.")
    if not 0 < args.timeout < math.inf:
        raise InputError("--timeout: give a number of seconds above 0")
    tls = Tls(*files) if args.tls or any(files) else None
    if args.stow is not None:
        results = send_stow(
            args.folder, args.stow, **_credentials(args.auth_file), timeout=args.timeout, tls=tls
        )
    else:
        results = send_cstore(args.folder, args.to, args.aec, args.aet, args.timeout, tls)
    failed = [result for result in results if not result.ok]
    if args.json:
        print(json.dumps([vars(result) for result in results], indent=1))
    else:
        for result in results:
            print(f"{'ok    ' if result.ok else 'FAILED'}  {result.file}: {result.answer}")
        print(
            f"{len(results) - len(failed)} of {len(results)} stored",
            file=sys.stderr if failed else sys.stdout,
        )
    return 1 if failed else 0


def _credentials(path: Path | None) -> dict[str, Any]:
    if path is None:
        return {}
    try:
        text = path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path.name}: cannot be read as a file of user:password.") from error
    user, found, password = text.partition(":")
    return {"user": user, "password": password} if found else {"token": text}
