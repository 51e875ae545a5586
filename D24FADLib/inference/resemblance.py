"""Does a study resemble its references at all? A query of another organ is no anomaly.

A study's descriptor is what the frozen teacher sees in it, averaged over positions (and a few slices): the
channel means at strides 8, 16 and 32, each part less the mean over many organs and scaled to length 1.
Centred directions of different organs point far apart, those of one protocol together, with or without a
lesion. Read off:

    r = log min_k |d(query) - d(reference k)|  -  shrinkage * mean_j log min_{k != j} |d(j) - d(k)|

Above `limit`, learned across organs, the study is unsuitable. Slices are taken small (128 pixels): what an
image shows needs no detail.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from D24FADLib.inference.checks import QUERY, REFUSE, Check
from D24FADLib.inference.comparison import input_size, to_input
from D24FADLib.inference.threads import side_by_side

if TYPE_CHECKING:
    from D24FADLib.inference.preparation import Prepared
    from D24FADLib.inference.priors import Resemblance
    from D24FADLib.network.model import D24FADModel

SIZE = 128
_SLICES = 5
_CLOSEST = 1e-3


@torch.inference_mode()
def descriptor(model: D24FADModel, images: torch.Tensor) -> NDArray[np.float64]:
    """(N, channels) of images (N, 3, H, W) in [0, 1]: channel means at strides 8, 16 and 32."""
    features, embedding = model.teacher(images)
    parts = [f.mean((2, 3)) for f in (features[1], features[2], embedding)]
    return torch.cat(parts, 1).cpu().double().numpy()  # MPS has no double


def directions(
    descriptors: NDArray[np.float64], centre: NDArray[np.float64], splits: Sequence[int]
) -> NDArray[np.float64]:
    """Centred, each part of length 1."""
    parts = np.split(descriptors - centre, np.cumsum(splits)[:-1], axis=1)
    return np.concatenate(
        [p / np.maximum(np.linalg.norm(p, axis=1, keepdims=True), 1e-9) for p in parts], axis=1
    )


def nearest_logs(vectors: NDArray[np.float64]) -> NDArray[np.float64]:
    """Log distance of each of (K, channels) to the nearest other; empty for K = 1."""
    if len(vectors) < 2:
        return np.empty(0)
    apart = np.linalg.norm(vectors[:, None] - vectors[None], axis=2)
    np.fill_diagonal(apart, np.inf)
    return np.log(np.maximum(apart.min(axis=1), _CLOSEST))


def mean_logs(vectors: NDArray[np.float64]) -> NDArray[np.float64]:
    """Log of the mean distance of each of (K, channels) to the others; empty for K = 1."""
    if len(vectors) < 2:
        return np.empty(0)
    apart = np.linalg.norm(vectors[:, None] - vectors[None], axis=2)
    return np.log(np.maximum(apart.sum(axis=1) / (len(vectors) - 1), _CLOSEST))


def distance(
    query: NDArray[np.float64], references: NDArray[np.float64], shrinkage: float, single: float = 0.0
) -> float:
    """r of the module's text, of directions (channels,) and (K, channels). Of one reference, which has no
    distance of its own, `single` is taken off instead."""
    nearest = float(np.log(max(float(np.linalg.norm(references - query, axis=1).min()), _CLOSEST)))
    own = nearest_logs(references)
    return nearest - (shrinkage * float(own.mean()) if own.size else single)


def describe(
    prepared: Prepared, model: D24FADModel, space: Resemblance, device: torch.device
) -> NDArray[np.float64]:
    """Directions (1 + K, channels) of the prepared query and references."""
    part = prepared.box
    count, rows, cols = (side.stop - side.start for side in part)
    shape = input_size(rows * prepared.spacing[1], cols * prepared.spacing[2], SIZE, model.stride)
    places = np.unique((np.linspace(0.2, 0.8, _SLICES) * (count - 1)).round().astype(int))

    def seen(volume: NDArray[np.floating]) -> NDArray[np.float64]:
        images = to_input(np.asarray(volume[part][places], np.float32), shape).to(device)
        return np.asarray(descriptor(model, images).mean(axis=0))

    found = side_by_side(seen, (prepared.query, *prepared.supports))
    return directions(np.stack(found), space.centre, space.splits)


def check_resemblance(name: str, vectors: NDArray[np.float64], space: Resemblance) -> list[Check]:
    """The study called unsuitable where it does not resemble its references."""
    value = distance(vectors[0], vectors[1:], space.shrinkage, space.single)
    if value <= space.limit:
        return []
    text = (
        f"{name} does not resemble its references: another organ, view or kind of image? What the map shows "
        "is not about anomalies, and no findings are given."
    )
    return [Check("unsuitable", REFUSE, QUERY, text, float(np.exp(value - space.limit)))]
