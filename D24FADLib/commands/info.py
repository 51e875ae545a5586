"""`d24fad info`: models and devices."""

from __future__ import annotations

import argparse
from typing import Any

from D24FADLib.commands.progress import Reporter


def add_parser(subparsers: Any) -> None:
    parser = subparsers.add_parser("info", help="list models and devices")
    parser.add_argument("--json", action="store_true", help="as one JSON line")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace, reporter: Reporter) -> int:
    from D24FADLib import __version__
    from D24FADLib.inference.cache import cache_folder, conversions_folder, references_folder, size_of
    from D24FADLib.inference.devices import available_devices
    from D24FADLib.inference.models import embedded_models, find_model
    from D24FADLib.network.checkpoints import read_metadata

    models = []
    for name in embedded_models():
        metadata = read_metadata(find_model(name))
        models.append(
            {"name": name, "version": metadata.get("version"), "teacher": metadata["d24fad"]["teacher"]}
        )
    devices = available_devices()
    lines = [f"d24fad {__version__}", "models:"]
    lines += [f"  {m['name']}  version {m['version']}, teacher {m['teacher']}" for m in models] or ["  none"]
    lines += [f"devices: {', '.join(devices)}"]
    networks, references = size_of(conversions_folder()), size_of(references_folder())
    lines += [
        f"cache (safe to delete): {cache_folder()}",
        f"  converted networks {networks / 1e6:.0f} MB, "
        f"kept references {references / 1e6:.0f} MB (these show patients)",
    ]
    cache = {"folder": str(cache_folder()), "conversions_bytes": networks, "references_bytes": references}
    result = {"version": __version__, "models": models, "devices": devices, "cache": cache}
    reporter.result({**result, "text": "\n".join(lines)})
    return 0
