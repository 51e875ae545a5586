"""The bundle beside the specification of MONAI Bundles, and in `monai.bundle`'s own hands."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from D24FADLib.inference.models import embedded_models, find_model
from D24FADLib.network.checkpoints import load_bundle, save_bundle
from D24FADLib.network.model import D24FADModel
from D24FADLib.training.bundle import (
    CARD,
    CURVE,
    CURVE_FIGURE,
    INFERENCE,
    inference_config,
    metadata,
    model_card,
    write_companions,
    write_curve,
)

pytest.importorskip("monai")

# The keys that the MONAI Bundle specification calls mandatory. Its JSON schema is on the web only.
_METADATA_KEYS = {
    "version", "monai_version", "pytorch_version", "numpy_version", "required_packages_version", "task",
    "description", "authors", "copyright", "network_data_format",
}  # fmt: skip
_TENSOR_KEYS = {
    "type", "format", "modality", "num_channels", "spatial_shape", "dtype", "value_range", "is_patch_data",
    "channel_def",
}  # fmt: skip
TRAINING = {"steps": 2, "data_note": "made up", "normal_images": {"liver": 7, "skin": 9}}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle of random weights, as a training writes it."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("bundles") / "made"
    save_bundle(D24FADModel.build("efficientnet_lite0", cosine_weights=True), folder, metadata(TRAINING))
    write_companions(folder)
    return folder


@pytest.fixture(scope="module", params=["made", "embedded"])
def bundle(request: pytest.FixtureRequest, made: Path) -> Path:
    if request.param == "made":
        return made
    if "d24fad-lite0" not in embedded_models():
        pytest.skip("the library has no embedded model")
    return find_model("d24fad-lite0")


def test_layout_is_that_of_the_specification(bundle: Path) -> None:
    for part in ("configs/metadata.json", "configs/inference.json", "models/model.pt", "docs/README.md"):
        assert (bundle / part).is_file(), part
    about = json.loads((bundle / "configs/metadata.json").read_text(encoding="utf-8"))
    assert about.keys() >= _METADATA_KEYS
    assert all(isinstance(about[key], str) and about[key] for key in _METADATA_KEYS if "data" not in key
               and "packages" not in key)  # fmt: skip
    formats = about["network_data_format"]
    for part in (*formats["inputs"].values(), *formats["outputs"].values()):
        assert part.keys() >= _TENSOR_KEYS
        assert sorted(map(int, part["channel_def"])) == list(range(part["num_channels"]))
        assert len(part["value_range"]) == len(part["spatial_shape"]) == 2
        assert part["dtype"] == "float32"
        assert part["is_patch_data"] is False


def test_monai_verifies_the_networks_input_and_output(bundle: Path) -> None:
    from monai.bundle import verify_net_in_out

    files = {"meta_file": bundle / "configs/metadata.json", "config_file": bundle / "configs/inference.json"}
    for n in (1, 2):
        verify_net_in_out(
            "network_def", **{k: str(v) for k, v in files.items()}, device="cpu", n=n, bundle_root=str(bundle)
        )


def test_monai_loads_the_network_with_its_weights(bundle: Path) -> None:
    """By the config and models/model.pt, without a network; the outcome is the model that we load."""
    import monai.bundle

    loaded = monai.bundle.load(
        bundle.name,
        bundle_dir=str(bundle.parent),
        source="github",
        workflow_type="inference",
        device="cpu",
        args_file={"bundle_root": str(bundle)},
    )
    own, _ = load_bundle(bundle)
    assert type(loaded) is D24FADModel
    assert all(torch.equal(value, own.state_dict()[name]) for name, value in loaded.state_dict().items())
    stored = torch.load(bundle / "models/model.pt", weights_only=True)
    trained = {n: v for n, v in own.state_dict().items() if not n.startswith("teacher.")}
    assert stored.keys() == trained.keys()
    assert all(torch.equal(stored[name], trained[name]) for name in stored)


def test_monais_workflow_runs_a_detection(made: Path, tmp_path: Path) -> None:
    """From picture files to result files, by configs/inference.json alone."""
    import numpy as np
    from monai.bundle import create_workflow

    image = pytest.importorskip("PIL.Image")
    rng = np.random.default_rng(0)
    base = np.kron(rng.integers(40, 200, (8, 8)), np.ones((12, 12)))
    for name in ("query", "one", "two"):
        pixels = base + rng.normal(0, 4, base.shape)
        if name == "query":
            pixels[30:50, 30:50] = 255
        image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(tmp_path / f"{name}.png")
    workflow = create_workflow(
        workflow_type="inference",
        config_file=str(made / "configs/inference.json"),
        bundle_root=str(made),
        query=str(tmp_path / "query.png"),
        supports=[str(tmp_path / "one.png"), str(tmp_path / "two.png")],
        output_dir=str(tmp_path / "out"),
        runtime="torch",
    )
    workflow.run()
    workflow.finalize()
    assert (tmp_path / "out" / "run.json").is_file()
    record = json.loads((tmp_path / "out" / "run.json").read_text(encoding="utf-8"))
    assert "query.png" in json.dumps(record)


def test_the_card_tells_what_the_metadata_says(made: Path) -> None:
    card = (made / CARD).read_text(encoding="utf-8")
    for text in (
        "# made", "efficientnet_lite0", "cosines with a learned temperature", "| liver | 7 |", "Made up.",
        "| steps | 2 |", "Not measured yet", "not a diagnosis", "Apache-2.0",
    ):  # fmt: skip
        assert text in card, text
    about = json.loads((made / "configs/metadata.json").read_text(encoding="utf-8"))
    about["d24fad"]["performance"] = {"liver": {"AUROC": 0.9, "AUPRO": 0.8}, "skin": {"AUROC": 0.7}}
    measured = model_card(about, "made", 12.0)
    assert (
        "| task | AUROC | AUPRO |\n| --- | --- | --- |\n| liver | 0.9 | 0.8 |\n| skin | 0.7 |  |" in measured
    )
    assert "Not measured" not in measured


def test_the_embedded_models_companions_are_up_to_date() -> None:
    """What the code writes today is what the repository holds."""
    if "d24fad-lite0" not in embedded_models():
        pytest.skip("the library has no embedded model")
    folder = find_model("d24fad-lite0")
    assert json.loads((folder / INFERENCE).read_text(encoding="utf-8")) == inference_config()
    about = json.loads((folder / "configs/metadata.json").read_text(encoding="utf-8"))
    assert about["network_data_format"] == metadata(TRAINING)["network_data_format"]
    megabytes = (folder / "models/teacher.safetensors").stat().st_size / 1e6
    assert (folder / CARD).read_text(encoding="utf-8") == model_card(about, folder.name, megabytes)


def test_the_curve_is_written_as_numbers_and_as_a_figure(tmp_path: Path) -> None:
    pytest.importorskip("pytorch_lightning")
    image = pytest.importorskip("PIL.Image")
    pytest.importorskip("matplotlib")
    from D24FADLib.training.distillation import CurvePoint

    curve = [
        CurvePoint(0, None, None, None, 0.3, 3.0, 1.0, 0.5, 0.5, 0.5),
        CurvePoint(5, 0.2, 2.5, None, 0.1, 2.0, 1.5, 0.7, 0.9, 0.8),
    ]
    write_curve(curve, tmp_path)
    rows = json.loads((tmp_path / CURVE).read_text(encoding="utf-8"))
    assert [CurvePoint(**row) for row in rows] == curve
    with image.open(tmp_path / CURVE_FIGURE) as figure:
        assert figure.size[0] > 2 * figure.size[1]
        assert len(figure.convert("RGB").getcolors(1 << 20)) > 10
