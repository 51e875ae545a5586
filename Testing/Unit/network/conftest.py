from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from D24FADLib.network.model import D24FADModel

SIZES = {"efficientnet_lite0": (32, 64), "wide_resnet50_2": (32, 32)}
IMAGES = 12


@dataclass(frozen=True)
class Sample:
    """A model with random weights, images and their student features.

    The features are computed one image at a time, so that nothing in the code under test
    that mixes up batch and support axes can be in them.
    """

    model: D24FADModel
    images: Tensor
    features: list[list[Tensor]]  # per image, per scale (C, h, w)


def normalise_by_data(room: nn.Module, run: Callable[[], object]) -> None:
    """Set the batch norms' statistics from one pass: random weights then give features of unit size."""
    norms = [m for m in room.modules() if isinstance(m, nn.BatchNorm2d)]
    for norm in norms:
        norm.train()
        norm.momentum = 1.0
    with torch.no_grad():
        run()
    for norm in norms:
        norm.eval()
        norm.momentum = 0.1


def shake_batch_norms(room: nn.Module) -> None:
    """Scales and shifts other than 1 and 0, or a layer that ignores them would go unseen."""
    for norm in room.modules():
        if isinstance(norm, nn.BatchNorm2d):
            nn.init.uniform_(norm.weight, 0.5, 1.5)
            nn.init.uniform_(norm.bias, -0.3, 0.3)


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> Iterator[None]:
    """These images are so small that threads cost more than they give, on a busy machine many times more."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@functools.cache
def make_sample(architecture: str) -> Sample:
    torch.manual_seed(20)
    height, width = SIZES[architecture]
    model = D24FADModel.build(architecture).eval()
    # blobs of many sizes: noise alone gives deep features that differ by little more than rounding
    blobs = [
        F.interpolate(torch.rand(IMAGES, 3, n, 2 * n), (height, width), mode="bicubic") for n in (1, 2, 4, 16)
    ]
    images = torch.stack(blobs).sum(0).sub(1.0).div(2.0).clamp(0, 1)
    # random networks amplify rounding a thousandfold; in double precision the comparisons can be sharp
    model, images = model.double(), images.double()
    for room in (model.teacher, model.student):
        shake_batch_norms(room)
    normalise_by_data(model.teacher, lambda: model.teacher(images))
    with torch.no_grad():
        embedding = model.teacher(images)[1]
    normalise_by_data(model.student, lambda: model.student(embedding))
    with torch.no_grad():
        features = [[f[0] for f in model.student(model.teacher(image[None])[1])] for image in images]
        # logits of order 1: neither uniform nor one-takes-all, so that a wrong weight shows
        for scale in range(3):
            projection = model.weighting.get_submodule(f"proj_in{scale + 1}")
            keys = torch.stack([projection(f[scale][None])[0].flatten() for f in features])
            logits = keys @ features[0][scale].flatten() / features[0][scale].shape[0] ** 0.5
            projection.weight /= logits.std()
    return Sample(model, images, features)


@pytest.fixture(scope="session", params=sorted(SIZES))
def sample(request: pytest.FixtureRequest) -> Sample:
    """Of both teachers; not to be changed."""
    return make_sample(request.param)


@pytest.fixture(scope="session")
def small_sample() -> Sample:
    """Of the small teacher, for what does not depend on the teacher; not to be changed."""
    return make_sample("efficientnet_lite0")


@pytest.fixture(scope="session")
def wide_sample() -> Sample:
    """Of the paper's teacher; not to be changed."""
    return make_sample("wide_resnet50_2")


@pytest.fixture(scope="session")
def lite0() -> D24FADModel:
    """A Lite0 model with random weights; not to be changed."""
    torch.manual_seed(3)
    return D24FADModel.build("efficientnet_lite0").eval()
