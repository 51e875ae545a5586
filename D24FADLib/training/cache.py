"""Tensors that take long to make, kept on disk. Safe where several processes want the same at once."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from D24FADLib.inference.cache import cache_folder

if TYPE_CHECKING:
    from torch import Tensor

DEFAULT_CACHE = cache_folder() / "training"


def cached(folder: Path, key: str, make: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
    """What `make` returned for this key, now or earlier. The key must name all that the result depends on.

    The processes of a training on several devices all come here: the first one makes, the others wait.
    """
    from filelock import FileLock
    from safetensors.torch import load_file, save_file

    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{hashlib.sha256(key.encode()).hexdigest()[:32]}.safetensors"
    with FileLock(file.with_suffix(".lock")):
        if file.is_file():
            return dict(load_file(file))
        made = make()
        partial = file.with_suffix(".partial")
        save_file({name: value.contiguous() for name, value in made.items()}, partial)
        partial.replace(file)
        return made
