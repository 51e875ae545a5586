"""The assembled model: teacher, student and learn-to-weight, and the residual between query and supports."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from D24FADLib.network.efficientnet_lite import EfficientNetLite0
from D24FADLib.network.learn_to_weight import LearnToWeight
from D24FADLib.network.student import Student
from D24FADLib.network.wide_resnet import WideResNet50


class Teacher(Protocol):
    """What a frozen feature extractor has to offer."""

    architecture: str
    stride: int
    channels: tuple[int, int, int]
    embedding_channels: int
    signed_features: bool

    def __call__(self, x: Tensor) -> tuple[list[Tensor], Tensor]: ...

    def all_blocks(self, x: Tensor) -> list[Tensor]: ...


TEACHERS: dict[str, Callable[[], nn.Module]] = {
    WideResNet50.architecture: WideResNet50,
    EfficientNetLite0.architecture: EfficientNetLite0,
}


def weighted_supports(supports: Sequence[Tensor], weights: Tensor) -> list[Tensor]:
    """The weighted mean of the supports' features per scale.

    supports: per scale (K, C, h, w) or (K, B, C, h, w); weights (B, scales, K).
    Returns (B, C, h, w) per scale.
    """
    blended = []
    for scale, support in enumerate(supports):
        shares = weights[:, scale]
        if support.dim() == 4:
            blended.append((shares @ support.flatten(1)).unflatten(1, support.shape[1:]))
        else:
            blended.append(torch.einsum("bk,kbchw->bchw", shares, support))
    return blended


def residual(a: Sequence[Tensor], b: Sequence[Tensor]) -> list[Tensor]:
    """1 - cosine over channels at each position, per scale: (B, h, w) in [0, 2]."""
    return [1.0 - F.cosine_similarity(x, y, dim=1) for x, y in zip(a, b, strict=True)]


def joined_blocks(blocks: Sequence[Tensor]) -> Tensor:
    """Blocks of one stride as one feature (N, C, h, w), each position averaged with its 3 x 3 neighbours, of
    length 1. All blocks of a stride together tell more than its last one."""
    joined = F.avg_pool2d(torch.cat(list(blocks), 1), 3, 1, 1, count_include_pad=False)
    return F.normalize(joined, dim=1)


def upsampled_sum(residuals: Sequence[Tensor], size: tuple[int, int]) -> Tensor:
    """The scales' residuals, brought to the input's size (bilinear, aligned corners) and added: (B, H, W)."""
    maps = [F.interpolate(r[:, None], size, mode="bilinear", align_corners=True)[:, 0] for r in residuals]
    return torch.stack(maps).sum(dim=0)


class D24FADModel(nn.Module):
    """Dual distillation for few-shot anomaly detection (ICLR 2026).

    The frozen teacher's embedding is decoded by the student; a query's student features are compared
    with the learned weighted mean of the supports' student features.
    """

    def __init__(
        self, teacher: nn.Module, *, per_position_weights: bool = False, cosine_weights: bool = False
    ) -> None:
        super().__init__()
        description: Teacher = teacher  # type: ignore[assignment]
        self.teacher = teacher.eval().requires_grad_(False)
        self.student = Student(
            description.embedding_channels, description.channels, signed_features=description.signed_features
        )
        self.weighting = LearnToWeight(
            description.channels, per_position=per_position_weights, cosine=cosine_weights
        )

    @classmethod
    def build(
        cls, architecture: str, *, per_position_weights: bool = False, cosine_weights: bool = False
    ) -> D24FADModel:
        """An untrained model around the named teacher; ValueError for a name not in TEACHERS."""
        if architecture not in TEACHERS:
            raise ValueError(f"unknown teacher {architecture!r}; known: {', '.join(sorted(TEACHERS))}")
        return cls(
            TEACHERS[architecture](), per_position_weights=per_position_weights, cosine_weights=cosine_weights
        )

    @property
    def architecture(self) -> str:
        return str(self.teacher.architecture)

    @property
    def stride(self) -> int:
        """Height and width of the input must be multiples of this."""
        return int(self.teacher.stride)  # type: ignore[arg-type]

    def train(self, mode: bool = True) -> D24FADModel:
        """As nn.Module.train, but the teacher always stays frozen in evaluation mode."""
        super().train(mode)
        self.teacher.eval()
        return self

    def encode(self, images: Tensor) -> list[Tensor]:
        """Student features at strides 4, 8, 16 of images (..., N, 3, H, W) in [0, 1], leading axes kept."""
        if (
            images.dim() < 4
            or images.shape[-3] != 3
            or images.shape[-1] % self.stride
            or images.shape[-2] % self.stride
        ):
            raise ValueError(
                f"images must be (..., N, 3, H, W) with H and W multiples of {self.stride}, "
                f"got {tuple(images.shape)}"
            )
        leading = images.shape[:-3]
        _, embedding = self.teacher(images.flatten(0, -4) if len(leading) != 1 else images)
        return [feature.unflatten(0, leading) for feature in self.student(embedding)]

    def compare(self, query: Sequence[Tensor], supports: Sequence[Tensor]) -> tuple[list[Tensor], Tensor]:
        """Residual per scale (B, h, w) and weights (B, scales, K) of encoded query and supports."""
        weights = self.weighting(query, supports)
        return residual(query, weighted_supports(supports, weights)), weights

    def residual_map(self, query: Tensor, supports: Tensor) -> tuple[Tensor, Tensor]:
        """The anomaly map before smoothing, and the support weights.

        query: (B, 3, H, W) in [0, 1].
        supports: (K, 3, H, W), the same for all queries, or (K, B, 3, H, W), one set per query.
        Returns map (B, H, W), the sum over scales of 1 - cosine(query, weighted supports), in [0, 6];
        weights (B, 3, K), summing to 1 over K. Each support image is encoded once.
        Raises ValueError for shapes that do not fit together.
        """
        if query.dim() != 4 or supports.dim() not in (4, 5) or supports.shape[0] < 1:
            raise ValueError("query must be (B, 3, H, W), supports (K, 3, H, W) or (K, B, 3, H, W), K >= 1")
        if supports.shape[-2:] != query.shape[-2:] or (
            supports.dim() == 5 and supports.shape[1] != query.shape[0]
        ):
            raise ValueError(f"supports {tuple(supports.shape)} do not fit query {tuple(query.shape)}")
        residuals, weights = self.compare(self.encode(query), self.encode(supports))
        return upsampled_sum(residuals, (query.shape[-2], query.shape[-1])), weights

    def forward(self, image: Tensor) -> Tensor:
        """Map (B, 1, H, W) of queries stacked with their supports along the channels: (B, 3 (1 + K), H, W).

        One tensor in and one out is what `monai.bundle` expects of a network; otherwise as `residual_map`.
        """
        if image.dim() != 4 or image.shape[1] % 3 or image.shape[1] < 6:
            raise ValueError(f"image must be (B, 3 (1 + K), H, W) with K >= 1, got {tuple(image.shape)}")
        query, *supports = image.split(3, dim=1)
        return self.residual_map(query, torch.stack(supports))[0][:, None]
