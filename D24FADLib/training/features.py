"""The frozen teacher's features of a data set, computed once: training then never runs the teacher."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from D24FADLib.training.cache import cached
from D24FADLib.training.images import ImageSet

_PARTS = ("stride4", "stride8", "stride16", "embedding")


@dataclass(frozen=True, eq=False)
class FeatureSet:
    """Teacher features of an ImageSet, with its task, studies and places.

    `parts` are fp16 tensors (N, C, h, w) at strides 4, 8, 16 and the embedding at stride 32.
    """

    task: str
    parts: tuple[Tensor, Tensor, Tensor, Tensor]
    studies: NDArray[np.int64]
    places: NDArray[np.int64] | None = None

    def __len__(self) -> int:
        return len(self.parts[0])

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width of the input that these are the features of."""
        return 4 * int(self.parts[0].shape[-2]), 4 * int(self.parts[0].shape[-1])

    def features(self, index: Sequence[int]) -> list[Tensor]:
        return [part[torch.as_tensor(list(index))].float() for part in self.parts[:3]]

    def embedding(self, index: Sequence[int]) -> Tensor:
        return self.parts[3][torch.as_tensor(list(index))].float()


@torch.inference_mode()
def teacher_features(
    teacher: nn.Module,
    images: ImageSet,
    *,
    batch: int = 16,
    device: torch.device | str = "cpu",
    progress: Callable[[int], None] | None = None,
) -> FeatureSet:
    """Run the teacher over the images; `progress(n)` after every n of them."""
    collected: list[list[Tensor]] = [[] for _ in _PARTS]
    teacher = teacher.to(device)
    for start in range(0, len(images), batch):
        chunk = images.images(slice(start, start + batch))
        features, embedding = teacher(chunk.to(device))
        for store, part in zip(collected, (*features, embedding), strict=True):
            store.append(part.half().cpu())
        if progress:
            progress(len(chunk))
    a, b, c, d = (torch.cat(store) for store in collected)
    return FeatureSet(images.task, (a, b, c, d), images.studies, images.places)


def cached_teacher_features(
    teacher: nn.Module,
    teacher_sha256: str,
    images: ImageSet,
    cache: Path,
    *,
    device: torch.device | str = "cpu",
) -> FeatureSet:
    """As `teacher_features`, kept on disk by teacher and pixels."""

    def make() -> dict[str, Tensor]:
        return dict(zip(_PARTS, teacher_features(teacher, images, device=device).parts, strict=True))

    stored = cached(cache, f"features {teacher_sha256} {images.fingerprint()}", make)
    a, b, c, d = (stored[part] for part in _PARTS)
    return FeatureSet(images.task, (a, b, c, d), images.studies, images.places)
