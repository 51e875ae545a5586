"""Features of images, computed once and kept on disk: every draw and method then reuses them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor, nn

from D24FADLib.training.images import load_picture

Features = list[Tensor]  # (N, C, h, w) each
_AT_ONCE = 8


def load_image(path: Path, size: int) -> Tensor:
    """(3, size, size) float32 in [0, 1]."""
    return load_picture(path, size).float() / 255.0


class ImageEncoder(Protocol):
    """Images (N, 3, size, size) in [0, 1] -> features. `key` names weights and layers: the cache's key."""

    key: str
    size: int

    def __call__(self, images: Tensor) -> Features: ...


class TeacherBlocks:
    """All blocks of a teacher from stride 4 on, in the network's order.

    The last one of each stride is what the teacher gives the student (strides 4, 8, 16: its features;
    stride 32: the embedding).
    """

    def __init__(self, teacher: nn.Module, weights: str, size: int) -> None:
        self.teacher = teacher.eval()
        self.size = size
        self.key = f"blocks {weights}"

    @torch.inference_mode()
    def __call__(self, images: Tensor) -> Features:
        blocks: Features = self.teacher.all_blocks(images)  # type: ignore[operator]
        return [f for f in blocks if f.shape[-1] <= images.shape[-1] // 4]


def of_stride(blocks: Features, size: int, stride: int) -> Features:
    """The blocks whose features lie on a grid of size / stride."""
    return [f for f in blocks if f.shape[-1] == size // stride]


def student_inputs(blocks: Features, size: int) -> tuple[Features, Tensor]:
    """What the teacher itself returns: features at strides 4, 8, 16 and the embedding at stride 32."""
    last = [of_stride(blocks, size, stride)[-1] for stride in (4, 8, 16, 32)]
    return last[:3], last[3]


class FeatureStore:
    """Features of image files in fp16, one file an image, keyed by content, encoder and size.

    A content that occurs under several names is computed once. Safe to delete.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._digests: dict[Path, str] = {}

    def load(
        self,
        encoder: ImageEncoder,
        images: Sequence[Path],
        progress: Callable[[int, int], None] | None = None,
    ) -> Features:
        """Features of the images in float32, in their order; what is not kept yet is computed."""
        from safetensors.torch import load_file

        files = [self._file(encoder, image) for image in images]
        missing = list({f: p for f, p in zip(files, images, strict=True) if not f.is_file()}.items())
        for start in range(0, len(missing), _AT_ONCE):
            if progress:
                progress(start, len(missing))
            self._compute(encoder, missing[start : start + _AT_ONCE])
        stored = [load_file(f) for f in files]
        return [torch.stack([s[name] for s in stored]).float() for name in sorted(stored[0])]

    def _compute(self, encoder: ImageEncoder, chunk: Iterable[tuple[Path, Path]]) -> None:
        from safetensors.torch import save_file

        files, images = zip(*chunk, strict=True)
        features = encoder(torch.stack([load_image(image, encoder.size) for image in images]))
        self._folder.mkdir(parents=True, exist_ok=True)
        for index, file in enumerate(files):
            partial = file.with_suffix(".partial")
            named = {f"{n:02d}": f[index].half().contiguous() for n, f in enumerate(features)}
            save_file(named, partial)
            partial.replace(file)

    def _file(self, encoder: ImageEncoder, image: Path) -> Path:
        if image not in self._digests:
            self._digests[image] = hashlib.sha256(image.read_bytes()).hexdigest()
        key = hashlib.sha256(f"{encoder.key} {encoder.size} {self._digests[image]}".encode())
        return self._folder / f"{key.hexdigest()[:40]}.safetensors"
