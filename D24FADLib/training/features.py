"""The frozen teacher's features of a data set, computed once: training then never runs the teacher."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from D24FADLib.errors import InputError

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff")
_PARTS = ("stride4", "stride8", "stride16", "embedding")


@dataclass(frozen=True)
class FeatureSet:
    """Teacher features of the normals of one task at one input size.

    `parts` are fp16 tensors (N, C, h, w) at strides 4, 8, 16 and the embedding at stride 32.
    """

    task: str
    size: int
    parts: tuple[Tensor, Tensor, Tensor, Tensor]

    def __len__(self) -> int:
        return int(self.parts[0].shape[0])

    def features(self, index: Sequence[int]) -> list[Tensor]:
        return [part[torch.as_tensor(index)].float() for part in self.parts[:3]]

    def embedding(self, index: Sequence[int]) -> Tensor:
        return self.parts[3][torch.as_tensor(index)].float()


def find_images(folder: Path) -> list[Path]:
    """The images of a folder, sorted by name; InputError if there are fewer than two."""
    images = (
        sorted(p for p in folder.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES) if folder.is_dir() else []
    )
    if len(images) < 2:
        raise InputError(
            f"{folder.name}: at least two images of normals are needed ({', '.join(IMAGE_SUFFIXES)})"
        )
    return images


def load_image(path: Path, size: int) -> Tensor:
    """(3, size, size) in [0, 1], resized with the Lanczos filter as in the paper."""
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(path) as image:
            if image.mode.startswith(("I", "F")):  # PIL would clip, not scale, to 8 bit
                raise InputError(f"{path.name}: more than 8 bit a channel; save it as an 8 bit image")
            pixels = np.asarray(image.convert("RGB").resize((size, size), Image.Resampling.LANCZOS))
    except (OSError, UnidentifiedImageError):
        raise InputError(f"{path.name}: not a readable image; remove it from the training folder") from None
    return torch.from_numpy(pixels.copy()).permute(2, 0, 1).float() / 255.0


def teacher_features(
    teacher: nn.Module,
    images: Sequence[Path],
    task: str,
    size: int,
    *,
    mirrored: bool = False,
    batch: int = 16,
    progress: Callable[[int], None] | None = None,
) -> FeatureSet:
    """Run the teacher over the images (left-right mirrored where asked) in fp16."""
    collected: list[list[Tensor]] = [[] for _ in _PARTS]
    with torch.inference_mode():
        for start in range(0, len(images), batch):
            chunk = torch.stack([load_image(path, size) for path in images[start : start + batch]])
            features, embedding = teacher(chunk.flip(-1) if mirrored else chunk)
            for store, part in zip(collected, (*features, embedding), strict=True):
                store.append(part.half())
            if progress:
                progress(len(chunk))
    a, b, c, d = (torch.cat(store) for store in collected)
    return FeatureSet(task, size, (a, b, c, d))


def cached_teacher_features(
    teacher: nn.Module,
    teacher_sha256: str,
    folder: Path,
    task: str,
    size: int,
    cache: Path,
    *,
    mirrored: bool,
) -> FeatureSet:
    """As `teacher_features` over a folder, kept on disk and keyed by teacher, files and size."""
    from safetensors.torch import load_file, save_file

    images = find_images(folder)
    key = hashlib.sha256(f"{teacher_sha256} {size} {mirrored}".encode())
    for path in images:
        stat = path.stat()
        key.update(f"{path.resolve()} {stat.st_size} {stat.st_mtime_ns}\n".encode())
    file = cache / f"{key.hexdigest()[:32]}.safetensors"
    if file.is_file():
        stored = load_file(file)
        a, b, c, d = (stored[part] for part in _PARTS)
        return FeatureSet(task, size, (a, b, c, d))
    made = teacher_features(teacher, images, task, size, mirrored=mirrored)
    cache.mkdir(parents=True, exist_ok=True)
    partial = file.with_suffix(".partial")
    save_file(dict(zip(_PARTS, made.parts, strict=True)), partial)
    partial.replace(file)
    return made
