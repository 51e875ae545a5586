from __future__ import annotations

import pickle
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from D24FADLib.errors import ModelError
from D24FADLib.network.checkpoints import (
    load_official,
    read_torch_file,
)

Shapes = dict[str, tuple[int, ...]]

# --- the official files, written down from the architectures' descriptions ----------------------


def norm(name: str, channels: int) -> Shapes:
    vectors = {f"{name}.{part}": (channels,) for part in ("weight", "bias", "running_mean", "running_var")}
    return {**vectors, f"{name}.num_batches_tracked": ()}


def decoder_shapes() -> Shapes:
    """The student around Wide-ResNet-50-2: 2048 channels in; 1024, 512, 256 out; middle widths half of it.

    A transposed convolution's weight is (in, out, 2, 2).
    """
    shapes: Shapes = {}
    stages = (("layer1", 3, 2048, 512, 1024), ("layer2", 4, 1024, 256, 512), ("layer3", 6, 512, 128, 256))
    for stage, blocks, channels_in, width, channels_out in stages:
        for block in range(blocks):
            name, channels = f"{stage}.{block}", channels_in if block == 0 else channels_out
            shapes[f"{name}.conv1.weight"] = (width, channels, 1, 1)
            shapes.update(norm(f"{name}.bn1", width))
            shapes[f"{name}.conv2.weight"] = (width, width, 2, 2) if block == 0 else (width, width, 3, 3)
            shapes.update(norm(f"{name}.bn2", width))
            shapes[f"{name}.conv3.weight"] = (channels_out, width, 1, 1)
            shapes.update(norm(f"{name}.bn3", channels_out))
            if block == 0:
                shapes[f"{name}.upsample.0.weight"] = (channels, channels_out, 2, 2)
                shapes.update(norm(f"{name}.upsample.1", channels_out))
    return shapes


def weight_shapes() -> Shapes:
    shapes: Shapes = {}
    for index, channels in ((1, 256), (2, 512), (3, 1024)):
        shapes[f"proj_in{index}.weight"] = (channels, channels, 1, 1)
        shapes[f"proj_in{index}.bias"] = (channels,)
    return shapes


def teacher_shapes() -> Shapes:
    """torchvision's wide_resnet50_2: middle widths 128, 256, 512, 1024, classifier included."""
    shapes: Shapes = {"conv1.weight": (64, 3, 7, 7), **norm("bn1", 64)}
    stages = (
        ("layer1", 3, 64, 128, 256),
        ("layer2", 4, 256, 256, 512),
        ("layer3", 6, 512, 512, 1024),
        ("layer4", 3, 1024, 1024, 2048),
    )
    for stage, blocks, channels_in, width, channels_out in stages:
        for block in range(blocks):
            name, channels = f"{stage}.{block}", channels_in if block == 0 else channels_out
            shapes[f"{name}.conv1.weight"] = (width, channels, 1, 1)
            shapes.update(norm(f"{name}.bn1", width))
            shapes[f"{name}.conv2.weight"] = (width, width, 3, 3)
            shapes.update(norm(f"{name}.bn2", width))
            shapes[f"{name}.conv3.weight"] = (channels_out, width, 1, 1)
            shapes.update(norm(f"{name}.bn3", channels_out))
            if block == 0:
                shapes[f"{name}.downsample.0.weight"] = (channels_out, channels, 1, 1)
                shapes.update(norm(f"{name}.downsample.1", channels_out))
    return {**shapes, "fc.weight": (1000, 2048), "fc.bias": (1000,)}


def constants(shapes: Shapes, start: int) -> dict[str, Tensor]:
    """A tensor a name, each of one value of its own, stored as that value alone: files of some kilobytes."""
    return {
        name: torch.tensor(start + i, dtype=torch.long if name.endswith("tracked") else torch.float).expand(
            shape
        )
        for i, (name, shape) in enumerate(shapes.items())
    }


@pytest.fixture
def official(tmp_path: Path) -> dict[str, dict[str, Tensor]]:
    """The contents of the official files, for a test to damage before `write`."""
    return {
        "decoder": constants(decoder_shapes(), 1),
        "weight": constants(weight_shapes(), 1001),
        "teacher": constants(teacher_shapes(), 2001),
    }


def write(folder: Path, official: dict[str, Any]) -> tuple[Path, Path]:
    checkpoint, teacher = folder / "best_4_RSNA.pth", folder / "wide_resnet50_2-95faca4d.pth"
    torch.save({"decoder": official["decoder"], "weight": official["weight"]}, checkpoint)
    torch.save(official["teacher"], teacher)
    return checkpoint, teacher


@pytest.fixture
def no_initial_values(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave new parameters as they come: drawing 94 million values that are then replaced takes seconds."""
    monkeypatch.setattr(nn.init, "kaiming_uniform_", lambda tensor, *args, **kwargs: tensor)
    monkeypatch.setattr(nn.init, "kaiming_normal_", lambda tensor, *args, **kwargs: tensor)


def test_parameters_counted_by_hand() -> None:
    """68.9, 24.9 and 1.4 million parameters, as the paper's networks have."""

    def count(shapes: Shapes) -> int:
        trained = (n for n in shapes if not n.endswith(("running_mean", "running_var", "tracked")))
        return sum(torch.Size(shapes[name]).numel() for name in trained)

    assert count(teacher_shapes()) == 68_883_240  # torchvision's published count
    assert round(count(decoder_shapes()) / 1e6, 1) == 24.9
    assert round(count(weight_shapes()) / 1e6, 1) == 1.4


def test_official_files_load_strictly(tmp_path: Path, official: dict[str, Any]) -> None:
    model = load_official(*write(tmp_path, official))
    assert model.architecture == "wide_resnet50_2"
    assert model.weighting.per_position is False
    assert not any(m.training for m in model.modules())
    del official["teacher"]["fc.weight"], official["teacher"]["fc.bias"]
    for room, values in zip((model.student, model.weighting, model.teacher), official.values(), strict=True):
        own = room.state_dict()
        assert own.keys() == values.keys()
        for name, value in values.items():
            assert torch.equal(own[name], value), name


Damage = Callable[[dict[str, Any]], Any]


def rename(values: dict[Any, Any], old: str, new: Any) -> None:
    values[new] = values.pop(old)


DAMAGES: dict[str, tuple[Damage, str]] = {
    "decoder shape": (
        lambda o: o["decoder"].update({"layer2.0.upsample.0.weight": torch.zeros(512, 1024, 2, 2)}),
        r"best_4_RSNA\.pth, decoder: .*wrong shape: layer2\.0\.upsample\.0\.weight is \(512, 1024, 2, 2\) "
        r"instead of \(1024, 512, 2, 2\)",
    ),
    "decoder key missing": (
        lambda o: o["decoder"].pop("layer3.5.bn3.running_var"),
        r"best_4_RSNA\.pth, decoder: .*missing: layer3\.5\.bn3\.running_var$",
    ),
    "decoder key unexpected": (
        lambda o: o["decoder"].update({"layer4.0.conv1.weight": torch.zeros(1)}),
        r"best_4_RSNA\.pth, decoder: .*unexpected: layer4\.0\.conv1\.weight$",
    ),
    "decoder of DataParallel": (
        lambda o: o.update(decoder={f"module.{name}": value for name, value in o["decoder"].items()}),
        r"best_4_RSNA\.pth, decoder: .*missing: .* and \d+ more; unexpected: module\..* and \d+ more",
    ),
    "decoder is no state_dict": (
        lambda o: o.update(decoder=[1, 2]),
        r"best_4_RSNA\.pth, decoder: .*found list",
    ),
    "decoder and weight exchanged": (
        lambda o: o.update(decoder=o["weight"], weight=o["decoder"]),
        r"best_4_RSNA\.pth, decoder: .*missing: .*unexpected: proj_in1\.bias",
    ),
    "weight shape": (
        lambda o: o["weight"].update({"proj_in3.weight": torch.zeros(1024, 1024)}),
        r"best_4_RSNA\.pth, weight: .*wrong shape: proj_in3\.weight is \(1024, 1024\)",
    ),
    "weight key missing": (
        lambda o: o["weight"].pop("proj_in2.bias"),
        r"best_4_RSNA\.pth, weight: .*missing: proj_in2\.bias$",
    ),
    "weight key is a number": (
        lambda o: (
            rename(o["weight"], "proj_in1.bias", 7),
            o["weight"].update({"proj_in4.bias": torch.zeros(1)}),
        ),
        r"best_4_RSNA\.pth, weight: expected parameters by name",
    ),
    "weight value is no tensor": (
        lambda o: o["weight"].update({"proj_in1.bias": 0.5}),
        r"best_4_RSNA\.pth, weight: expected parameters by name",
    ),
    "teacher shape": (
        lambda o: o["teacher"].update({"layer1.0.conv2.weight": torch.zeros(64, 64, 3, 3)}),
        r"wide_resnet50_2-95faca4d\.pth, teacher: .*wrong shape: layer1\.0\.conv2\.weight",
    ),
    "teacher key missing": (
        lambda o: o["teacher"].pop("layer4.2.conv3.weight"),
        r"wide_resnet50_2-95faca4d\.pth, teacher: .*missing: layer4\.2\.conv3\.weight$",
    ),
    "teacher key unexpected": (
        lambda o: o["teacher"].update({"layer4.3.conv1.weight": torch.zeros(1)}),
        r"wide_resnet50_2-95faca4d\.pth, teacher: .*unexpected: layer4\.3\.conv1\.weight$",
    ),
    "teacher is no state_dict": (
        lambda o: o.update(teacher=torch.zeros(3)),
        r"wide_resnet50_2-95faca4d\.pth, teacher: .*found Tensor",
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.usefixtures("no_initial_values")
def test_official_files_that_do_not_fit_are_refused(
    tmp_path: Path, official: dict[str, Any], damage: str
) -> None:
    apply, text = DAMAGES[damage]
    apply(official)
    with pytest.raises(ModelError, match=text):
        load_official(*write(tmp_path, official))


@pytest.mark.usefixtures("no_initial_values")
def test_exchanged_files_are_refused(tmp_path: Path, official: dict[str, Any]) -> None:
    checkpoint, teacher = write(tmp_path, official)
    with pytest.raises(ModelError, match=r"wide_resnet50_2-95faca4d\.pth: not an official checkpoint"):
        load_official(teacher, checkpoint)
    with pytest.raises(ModelError, match=r"best_4_RSNA\.pth, teacher: expected parameters by name"):
        load_official(checkpoint, checkpoint)


class Payload:
    """Unpickling it makes a folder: what a hostile checkpoint would do in earnest."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.mkdir, (self.folder,)


def save_with_torch(value: Any, path: Path) -> None:
    torch.save({"decoder": value, "weight": {}}, path)


def save_in_old_format(value: Any, path: Path) -> None:
    torch.save({"decoder": value, "weight": {}}, path, _use_new_zipfile_serialization=False)


def save_with_pickle(value: Any, path: Path) -> None:
    path.write_bytes(pickle.dumps(value))


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("save", [save_with_torch, save_in_old_format, save_with_pickle])
def test_pickled_code_is_refused_and_not_run(tmp_path: Path, save: Callable[[Any, Path], None]) -> None:
    file, mark = tmp_path / "evil.pth", tmp_path / "mark"
    save(Payload(mark), file)
    with pytest.raises(ModelError, match=r"evil\.pth: refused.*Python objects"):
        load_official(file, file)
    assert not mark.exists()
    if save is save_with_pickle:
        pickle.loads(file.read_bytes())
    else:
        torch.load(file, weights_only=False)
    assert mark.exists()  # the payload would have worked


def test_a_whole_pickled_network_is_refused(tmp_path: Path) -> None:
    torch.save({"decoder": nn.Conv2d(1, 1, 1), "weight": {}}, tmp_path / "network.pth")
    with pytest.raises(ModelError, match=r"network\.pth: refused.*state_dict"):
        load_official(tmp_path / "network.pth", tmp_path / "network.pth")


@pytest.mark.parametrize("old_format", [False, True])
@pytest.mark.parametrize("keep", [0.0, 0.0005, 0.2, 0.5, 0.9, 0.999])
def test_truncated_files_are_refused(
    tmp_path: Path, official: dict[str, Any], keep: float, old_format: bool
) -> None:
    file = tmp_path / "cut.pth"
    torch.save(
        {"decoder": official["decoder"], "weight": official["weight"]}, file,
        _use_new_zipfile_serialization=not old_format,
    )  # fmt: skip
    file.write_bytes(file.read_bytes()[: int(file.stat().st_size * keep)])
    with pytest.raises(ModelError, match=r"cut\.pth: (refused|cannot be read)"):
        load_official(file, file)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("old_format", [False, True])
def test_damaged_files_give_no_other_error(tmp_path: Path, old_format: bool) -> None:
    """A changed bit may go unseen by torch, in a value for one; where it is seen, it is a ModelError."""
    file, rng = tmp_path / "bits.pth", random.Random(4)
    state = {"decoder": {f"layer{i}.weight": torch.ones(2, 3) for i in range(6)}, "weight": {}}
    torch.save(state, file, _use_new_zipfile_serialization=not old_format)
    whole, refused = file.read_bytes(), 0
    for _ in range(150):
        data = bytearray(whole)
        for _ in range(rng.choice((1, 3, 9))):
            data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        file.write_bytes(data)
        try:
            read_torch_file(file)
        except ModelError:
            refused += 1
    assert 20 < refused < 150


@pytest.mark.usefixtures("no_initial_values")
def test_missing_and_unreadable_files_are_named(tmp_path: Path, official: dict[str, Any]) -> None:
    checkpoint, teacher = write(tmp_path, official)
    with pytest.raises(ModelError, match=r"absent\.pth: no such weight file"):
        load_official(tmp_path / "absent.pth", teacher)
    with pytest.raises(ModelError, match=r"absent\.pth: no such weight file"):
        load_official(checkpoint, tmp_path / "absent.pth")
    (tmp_path / "folder.pth").mkdir()
    with pytest.raises(ModelError, match=r"folder\.pth: cannot be read"):
        load_official(tmp_path / "folder.pth", teacher)
    (tmp_path / "page.pth").write_text("<html>blocked by the hospital's proxy</html>")
    with pytest.raises(ModelError, match=r"page\.pth: refused"):
        load_official(tmp_path / "page.pth", teacher)
