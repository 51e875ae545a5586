from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from D24FADLib.errors import ModelError
from D24FADLib.network import checkpoints
from D24FADLib.network.checkpoints import (
    METADATA,
    MODEL_WEIGHTS,
    TEACHER_WEIGHTS,
    imagenet_teacher,
    load_bundle,
    read_metadata,
    save_bundle,
)
from D24FADLib.network.model import D24FADModel


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture(scope="session")
def saved(tmp_path_factory: pytest.TempPathFactory, lite0: D24FADModel) -> Path:
    folder = tmp_path_factory.mktemp("bundles") / "organs"
    save_bundle(lite0, folder, {"version": "1.2.3", "d24fad": {"training": {"steps": 7}}})
    return folder


@pytest.fixture
def bundle(tmp_path: Path, saved: Path) -> Path:
    """A bundle to damage."""
    shutil.copytree(saved, tmp_path / "organs")
    return tmp_path / "organs"


def test_bundle_returns_every_bit(lite0: D24FADModel, saved: Path) -> None:
    model, metadata = load_bundle(saved)
    assert metadata["version"] == "1.2.3"
    assert metadata["d24fad"]["training"] == {"steps": 7}
    assert metadata["d24fad"]["teacher"] == "efficientnet_lite0"
    assert metadata["d24fad"]["sha256"] == {
        "models/teacher.safetensors": digest(saved / "models" / "teacher.safetensors"),
        "models/model.safetensors": digest(saved / "models" / "model.safetensors"),
    }
    expected, got = lite0.state_dict(), model.state_dict()
    assert got.keys() == expected.keys()
    for name, value in expected.items():
        assert got[name].dtype == value.dtype, name
        assert torch.equal(got[name], value), name
    assert not any(m.training for m in model.modules())
    torch.manual_seed(0)
    images = torch.rand(3, 3, 32, 32)
    with torch.inference_mode():
        for a, b in zip(
            model.residual_map(images[:1], images[1:]),
            lite0.residual_map(images[:1], images[1:]),
            strict=True,
        ):
            assert torch.equal(a, b)


def test_saving_again_gives_the_same_files(tmp_path: Path, saved: Path) -> None:
    model, metadata = load_bundle(saved)
    save_bundle(model, tmp_path / "again", metadata)
    for path in (METADATA, MODEL_WEIGHTS, TEACHER_WEIGHTS):
        assert (tmp_path / "again" / path).read_bytes() == (saved / path).read_bytes()


def test_bundle_keeps_the_kind_of_weights(tmp_path: Path, bundle: Path) -> None:
    model = D24FADModel.build("efficientnet_lite0", per_position_weights=True)
    save_bundle(model, tmp_path / "mean", {})
    assert load_bundle(tmp_path / "mean")[0].weighting.per_position is True
    assert load_bundle(bundle)[0].weighting.per_position is False
    edit(bundle, lambda m: m["d24fad"].pop("per_position_weights"))  # a bundle from before there was a choice
    assert load_bundle(bundle)[0].weighting.per_position is False


def accept(bundle: Path, part: Path) -> None:
    """Enter the checksum of a weight file as it is now."""
    edit(bundle, lambda m: m["d24fad"]["sha256"].update({part.as_posix(): digest(bundle / part)}))


def edit(bundle: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    metadata = json.loads((bundle / METADATA).read_text())
    change(metadata)
    (bundle / METADATA).write_text(json.dumps(metadata))


@pytest.mark.parametrize("part", [TEACHER_WEIGHTS, MODEL_WEIGHTS], ids=lambda part: part.stem)
@pytest.mark.parametrize("where", [0.0, 0.5, 1.0])
def test_a_flipped_byte_is_found(bundle: Path, part: Path, where: float) -> None:
    data = bytearray((bundle / part).read_bytes())
    data[int(where * (len(data) - 1))] ^= 1
    (bundle / part).write_bytes(data)
    with pytest.raises(ModelError, match=rf"organs: {part}.*checksum"):
        load_bundle(bundle)


def test_changed_weights_are_taken_by_force_and_said(bundle: Path) -> None:
    state = load_file(bundle / MODEL_WEIGHTS)
    name = sorted(state)[0]
    save_file({**state, name: state[name] + 1}, bundle / MODEL_WEIGHTS)
    with pytest.raises(ModelError, match="--force-model"):
        load_bundle(bundle)
    model, metadata = load_bundle(bundle, force=True)
    assert metadata["d24fad"]["changed"] == [MODEL_WEIGHTS.as_posix()]
    assert metadata["d24fad"]["sha256"][MODEL_WEIGHTS.as_posix()] == digest(bundle / MODEL_WEIGHTS)
    assert torch.equal(model.state_dict()[name], state[name] + 1)
    (bundle / MODEL_WEIGHTS).write_bytes(b"not safetensors at all")
    with pytest.raises(ModelError, match="cannot be read"):
        load_bundle(bundle, force=True)


def test_paths_in_the_metadata_lead_nowhere(tmp_path: Path, bundle: Path) -> None:
    """Only the files at their fixed places are read, whatever the metadata lists."""
    outside = tmp_path / "outside.safetensors"
    shutil.copy(bundle / MODEL_WEIGHTS, outside)
    edit(bundle, lambda m: m["d24fad"]["sha256"].update({"../outside.safetensors": digest(outside)}))
    outside.write_bytes(b"changed")
    load_bundle(bundle)
    (bundle / MODEL_WEIGHTS).unlink()
    with pytest.raises(ModelError, match=r"models/model\.safetensors is missing"):
        load_bundle(bundle, force=True)


@pytest.mark.parametrize(
    "part", [TEACHER_WEIGHTS, MODEL_WEIGHTS, METADATA], ids=["teacher", "model", "metadata"]
)
def test_a_missing_file_is_named(bundle: Path, part: Path) -> None:
    (bundle / part).unlink()
    with pytest.raises(ModelError, match=rf"organs: .*{part} is missing"):
        load_bundle(bundle)


def test_exchanged_weight_files_are_refused(bundle: Path) -> None:
    shutil.copy(bundle / MODEL_WEIGHTS, bundle / TEACHER_WEIGHTS)
    with pytest.raises(ModelError, match=r"organs: models/teacher.*exchanged"):
        load_bundle(bundle)
    edit(
        bundle,
        lambda m: m["d24fad"]["sha256"].update({TEACHER_WEIGHTS.as_posix(): digest(bundle / MODEL_WEIGHTS)}),
    )
    with pytest.raises(ModelError, match=r"organs, teacher: does not fit.*missing"):
        load_bundle(bundle)


def test_weights_that_fit_their_checksum_but_not_the_model_are_refused(bundle: Path) -> None:
    state = load_file(bundle / MODEL_WEIGHTS)
    save_file({k: v for k, v in state.items() if k != "weighting.proj_in2.bias"}, bundle / MODEL_WEIGHTS)
    accept(bundle, MODEL_WEIGHTS)
    with pytest.raises(ModelError, match=r"organs, model: .*missing: weighting\.proj_in2\.bias"):
        load_bundle(bundle)
    (bundle / MODEL_WEIGHTS).write_bytes(b"not safetensors at all")
    accept(bundle, MODEL_WEIGHTS)
    with pytest.raises(ModelError, match=r"organs: models/model\.safetensors cannot be read"):
        load_bundle(bundle)


@pytest.mark.parametrize(
    "change",
    [
        lambda m: m.pop("d24fad"),
        lambda m: m.update(d24fad=[]),
        lambda m: m.update(d24fad="efficientnet_lite0"),
        lambda m: m["d24fad"].pop("teacher"),
        lambda m: m["d24fad"].pop("sha256"),
        lambda m: m["d24fad"].update(sha256="0123"),
        lambda m: m["d24fad"].update(sha256=None),
        lambda m: m["d24fad"].update(teacher=["efficientnet_lite0"]),
    ],
)
def test_metadata_without_its_fields_is_refused(
    bundle: Path, change: Callable[[dict[str, Any]], Any]
) -> None:
    edit(bundle, change)
    with pytest.raises(ModelError, match=r"organs: configs/metadata\.json cannot be used"):
        load_bundle(bundle)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"null", b"\xff\xfe{}"])
def test_metadata_that_is_no_metadata_is_refused(bundle: Path, content: bytes) -> None:
    (bundle / METADATA).write_bytes(content)
    with pytest.raises(ModelError, match=r"organs: configs/metadata\.json cannot be used"):
        read_metadata(bundle)


def test_checksums_of_other_files_do_not_count(bundle: Path) -> None:
    edit(bundle, lambda m: m["d24fad"]["sha256"].pop(MODEL_WEIGHTS.as_posix()))
    with pytest.raises(ModelError, match=r"organs: models/model\.safetensors.*checksum"):
        load_bundle(bundle)


def test_unknown_teacher_and_no_bundle_are_refused(tmp_path: Path, bundle: Path) -> None:
    edit(bundle, lambda m: m["d24fad"].update(teacher="vit_huge"))
    with pytest.raises(ModelError, match=r"organs: unknown teacher 'vit_huge'"):
        load_bundle(bundle)
    with pytest.raises(ModelError, match=r"nowhere: not a model bundle"):
        load_bundle(tmp_path / "nowhere")


def test_file_checksum(tmp_path: Path) -> None:
    data = bytes(range(256)) * 9001  # more than one block
    (tmp_path / "file").write_bytes(data)
    assert checkpoints.file_sha256(tmp_path / "file") == hashlib.sha256(data).hexdigest()


def test_bundle_keeps_cosine_weights_and_their_sharpness(tmp_path: Path) -> None:
    model = D24FADModel.build("efficientnet_lite0", cosine_weights=True)
    with torch.no_grad():
        model.weighting.log_sharpness.copy_(torch.tensor([1.0, 2.0, 3.0]))
    save_bundle(model, tmp_path / "cosine", {})
    loaded, _ = load_bundle(tmp_path / "cosine")
    assert loaded.weighting.cosine is True
    assert loaded.weighting.per_position is False
    assert loaded.weighting.log_sharpness.tolist() == [1.0, 2.0, 3.0]


def test_teachers_come_from_local_files(tmp_path: Path) -> None:
    torch.manual_seed(4)
    wide = D24FADModel.build("wide_resnet50_2").teacher
    state = {**wide.state_dict(), "fc.weight": torch.zeros(1000, 2048), "fc.bias": torch.zeros(1000)}
    torch.save(state, tmp_path / "wide.pth")
    teacher, digest = imagenet_teacher("wide_resnet50_2", tmp_path / "wide.pth")
    assert len(digest) == 64
    assert all(torch.equal(v, wide.state_dict()[n]) for n, v in teacher.state_dict().items())
    with pytest.raises(ModelError, match=r"wide\.pth, teacher: does not fit"):
        imagenet_teacher("efficientnet_lite0", tmp_path / "wide.pth")
    with pytest.raises(ModelError, match="wide_resnet50_2: give its ImageNet weights"):
        imagenet_teacher("wide_resnet50_2")
    with pytest.raises(ModelError, match=r"unknown teacher 'vgg'.*efficientnet_lite0"):
        imagenet_teacher("vgg")
