"""Normals to train on, as the teacher wants them: pictures and slices of volumes, by task."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from D24FADLib.errors import InputError

PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff")


@dataclass(frozen=True, eq=False)
class ImageSet:
    """Normal images of one task at one input size.

    pixels: (N, 3 or 1, H, W), uint8 (pictures) or float16 in [0, 1] (slices of volumes).
    studies: (N,) number of the study that each image belongs to; a picture is a study of its own.
    places: (N,) number of the slice on the grid that aligned volumes share, so that equal places show
    the same anatomy; None where nothing is aligned.
    """

    task: str
    pixels: Tensor
    studies: NDArray[np.int64]
    places: NDArray[np.int64] | None = None

    def __len__(self) -> int:
        return len(self.pixels)

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width of the input."""
        return int(self.pixels.shape[-2]), int(self.pixels.shape[-1])

    def images(self, index: Sequence[int] | slice) -> Tensor:
        """(n, 3, H, W) float32 in [0, 1]."""
        chosen = self.pixels[index if isinstance(index, slice) else torch.as_tensor(list(index))]
        scaled = chosen.float() / 255.0 if chosen.dtype == torch.uint8 else chosen.float()
        return scaled.expand(-1, 3, -1, -1)

    def mirrored(self) -> ImageSet:
        """The same images with left and right exchanged."""
        return replace(self, pixels=self.pixels.flip(-1))

    def fingerprint(self) -> str:
        """sha256 of the pixels and their order: what features computed from them depend on."""
        digest = hashlib.sha256(f"{self.pixels.dtype} {tuple(self.pixels.shape)}".encode())
        digest.update(self.pixels.contiguous().numpy().data)
        return digest.hexdigest()


def find_pictures(folder: Path) -> list[Path]:
    """The pictures of a folder, sorted by name."""
    return sorted(p for p in folder.iterdir() if p.suffix.lower() in PICTURE_SUFFIXES)


def load_picture(path: Path, size: int) -> Tensor:
    """(3, size, size) uint8, resized with the Lanczos filter as in the paper.

    Raises InputError for a file that is no picture or that has more than 8 bit a channel.
    """
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(path) as image:
            if image.mode.startswith(("I", "F")):  # PIL would clip, not scale, to 8 bit
                raise InputError(f"{path.name}: more than 8 bit a channel; save it as an 8 bit image")
            pixels = np.asarray(image.convert("RGB").resize((size, size), Image.Resampling.LANCZOS))
    except (OSError, UnidentifiedImageError):
        raise InputError(f"{path.name}: not a readable image; remove it from the training folder") from None
    return torch.from_numpy(pixels.copy()).permute(2, 0, 1)


def load_pictures(folder: Path, task: str, size: int) -> ImageSet:
    """All pictures of a folder; InputError if there are fewer than two."""
    pictures = find_pictures(folder) if folder.is_dir() else []
    if len(pictures) < 2:
        raise InputError(
            f"{folder.name}: at least two images of normals are needed ({', '.join(PICTURE_SUFFIXES)})"
        )
    pixels = torch.stack([load_picture(path, size) for path in pictures])
    if torch.equal(pixels[:, :1].expand_as(pixels), pixels):
        pixels = pixels[:, :1].clone()  # gray throughout: a third of the memory
    return ImageSet(task, pixels, np.arange(len(pictures)))
