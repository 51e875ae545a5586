"""Each runtime and precision against torch in f32, on made slices and, where they are there, on real ones."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from D24FADLib.errors import InputError
from D24FADLib.inference.comparison import Comparer, Evidence
from D24FADLib.inference.devices import INTEL_GPU, intel_gpus
from D24FADLib.inference.runtimes import Encoder, OpenVinoEncoder, TorchEncoder, choose_precision
from D24FADLib.network.model import D24FADModel

TASK = Path(__file__).parents[4] / "shared" / "data" / "bench2d" / "head_ct_hemorrhage"
CPU = torch.device("cpu")
SIZE = 128
SUPPORTS, QUERIES = 4, 12  # of each kind

# Largest and mean difference of maps (sums of six residuals, up to 12) and difference in AUROC.
BOUNDS = {
    "torch f32": (1e-4, 1e-5, 1e-6),
    "torch f16": (0.05, 0.003, 0.02),
    "torch bf16": (0.5, 0.02, 0.05),
    "openvino f32": (1e-4, 1e-5, 1e-6),
    "openvino bf16": (0.5, 0.02, 0.05),
    "intel-gpu f32": (1e-3, 1e-4, 1e-3),
    "intel-gpu f16": (0.05, 0.003, 0.02),
}


@pytest.fixture(scope="module")
def model():
    from D24FADLib.inference.models import load_model

    return load_model("d24fad-lite0")[0]


def made_slices() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Smooth pictures that share a pattern; the abnormal ones have a bright disc."""
    from scipy.ndimage import gaussian_filter

    rng = np.random.default_rng(0)
    pattern = gaussian_filter(rng.standard_normal((SIZE, SIZE)), 6)

    def some(count: int, disc: bool) -> np.ndarray:
        own = gaussian_filter(rng.standard_normal((count, SIZE, SIZE)), (0, 5, 5))
        values = 0.4 + 3.0 * pattern + 0.8 * own
        y, x = np.indices((SIZE, SIZE))
        for picture in values if disc else ():
            row, column = rng.integers(30, 98, 2)
            picture[(y - row) ** 2 + (x - column) ** 2 < 100] += 0.35
        return np.clip(values, 0, 1).astype(np.float32)

    return some(SUPPORTS, False), some(QUERIES, False), some(QUERIES, True)


def real_slices() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    image = pytest.importorskip("PIL.Image", reason="Pillow reads the pictures")

    def some(folder: str, count: int) -> np.ndarray:
        files = sorted((TASK / folder).iterdir())[:count]
        return np.stack(
            [np.asarray(image.open(f).convert("L").resize((SIZE, SIZE)), np.float32) / 255 for f in files]
        )

    return some("train_normal", SUPPORTS), some("test_normal", QUERIES), some("test_abnormal", QUERIES)


@pytest.fixture(scope="module", params=["made", "real"])
def pictures(request) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    if request.param == "made":
        return made_slices()
    if not TASK.is_dir():
        pytest.skip("the development data (shared/data/bench2d) is not here")
    return real_slices()


def maps(model, encoder: Encoder, pictures: tuple[np.ndarray, np.ndarray, np.ndarray]) -> torch.Tensor:
    supports, *queries = (torch.from_numpy(p)[:, None].expand(-1, 3, -1, -1) for p in pictures)
    query = torch.cat(queries)
    images = torch.cat([query[None], supports[:, None].expand(-1, len(query), -1, -1, -1)])
    reach = torch.ones(SUPPORTS, len(query), SIZE // 4, SIZE // 4, dtype=torch.bool)
    return Comparer(model, Evidence(1, 1), CPU, encoder).batch(images, reach)[0]


def auroc(found: torch.Tensor) -> float:
    scores = found.flatten(1).topk(20).values.mean(1)
    normal, abnormal = scores[:QUERIES], scores[QUERIES:]
    return float((abnormal[:, None] > normal[None]).float().mean())


class AsTheyAre:
    """The networks as they were trained: nothing folded, nothing converted."""

    name, precision, device = "as they are", "f32", "cpu"

    def __init__(self, model: D24FADModel) -> None:
        self.notes: list[str] = []
        self._model = model

    def __call__(self, images: torch.Tensor) -> list[torch.Tensor]:
        features, embedding = self._model.teacher(images)
        return [*features, *self._model.student(embedding)]


@pytest.fixture(scope="module")
def exact(model, pictures) -> torch.Tensor:
    return maps(model, AsTheyAre(model), pictures)


@pytest.mark.parametrize("combination", list(BOUNDS))
def test_maps_stay_within_their_bounds(model, pictures, exact, combination: str, record_property) -> None:
    runtime, precision = combination.split()
    encoder: Encoder
    if runtime == "openvino":
        openvino = pytest.importorskip("openvino", reason="OpenVINO is not installed")
        has = openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
        if precision == "bf16" and "BF16" not in has:
            pytest.skip("this processor has no instructions for bf16")
        encoder = OpenVinoEncoder(model, precision=precision)
    elif runtime == INTEL_GPU:
        if not intel_gpus():
            pytest.skip("no Intel graphics processor here")
        encoder = OpenVinoEncoder(model, precision=precision, on=intel_gpus()[0][0])
    else:
        encoder = TorchEncoder(model, CPU, precision)
    assert encoder.precision == precision
    found = maps(model, encoder, pictures)
    assert encoder.notes == []
    difference = (found - exact).abs()
    largest, mean, area = BOUNDS[combination]
    change = abs(auroc(found) - auroc(exact))
    print(f"{combination}: {difference.max():.2g}, mean {difference.mean():.2g}, AUROC {change:.3f}")
    assert difference.max() < largest
    assert difference.mean() < mean
    assert change <= area
    if precision != "f32":
        assert difference.max() > 1e-5  # it did compute in less


def test_precisions_that_a_device_lacks_are_refused() -> None:
    assert choose_precision("auto", CPU, "CPU") == "f32"
    assert choose_precision("auto", CPU, None) == "f32"
    with pytest.raises(InputError, match="f32, bf16, f16"):
        choose_precision("f8", CPU, None)
    openvino = pytest.importorskip("openvino", reason="OpenVINO is not installed")
    usable = openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    if "BF16" in usable:
        assert choose_precision("bf16", CPU, "CPU") == "bf16"
    else:
        with pytest.raises(InputError, match="no instructions"):
            choose_precision("bf16", CPU, "CPU")


def test_a_conversion_tells_nobody(tmp_path: Path) -> None:
    """OpenVINO's own conversion reports to a web service and keeps an id in the user's home."""
    pytest.importorskip("openvino", reason="OpenVINO is not installed")
    script = """
import torch
from D24FADLib.inference.devices import openvino_device
openvino_device("auto", "auto")
from D24FADLib.inference.models import load_model
from D24FADLib.inference.runtimes import OpenVinoEncoder
OpenVinoEncoder(load_model("d24fad-lite0")[0])(torch.zeros(1, 3, 64, 64))
"""
    environment = {k: v for k, v in os.environ.items() if k not in ("CI", "TF_BUILD", "JENKINS_URL")}
    environment |= {"HOME": str(tmp_path), "PYTHONPATH": str(Path(__file__).parents[3])}
    subprocess.run([sys.executable, "-c", script], cwd=tmp_path, env=environment, check=True, timeout=120)
    assert list(tmp_path.iterdir()) == []
