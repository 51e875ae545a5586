"""Which device computes, and that a graphics processor that fails does not end a study."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from D24FADLib.errors import InputError
from D24FADLib.inference import devices
from D24FADLib.inference.devices import INTEL_GPU, available_devices, choose_device, openvino_device
from D24FADLib.inference.runtimes import OpenVinoEncoder, TorchEncoder, choose_encoder

CPU = torch.device("cpu")
CARD, WITHIN = ("GPU.1", True), ("GPU.0", False)


@pytest.fixture
def model(small_model):
    from D24FADLib.inference.models import load_model

    return load_model(str(small_model))[0]


@pytest.fixture
def images() -> torch.Tensor:
    return torch.rand(3, 3, 64, 32, generator=torch.Generator().manual_seed(0))


def there(monkeypatch: pytest.MonkeyPatch, *found: tuple[str, bool]) -> None:
    """What OpenVINO says of Intel's graphics processors."""
    monkeypatch.setattr(devices, "intel_gpus", lambda: found)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)


def test_a_card_is_taken_and_what_lies_within_the_processor_only_where_asked_for(monkeypatch) -> None:
    there(monkeypatch)
    assert available_devices() == ["cpu"]
    assert openvino_device("auto", "auto") == "CPU"
    there(monkeypatch, WITHIN)
    assert available_devices() == ["cpu", INTEL_GPU]
    assert openvino_device("auto", "auto") == "CPU"
    assert openvino_device(INTEL_GPU, "auto") == "GPU.0"
    there(monkeypatch, CARD, WITHIN)
    assert available_devices() == [INTEL_GPU, "cpu"]
    assert openvino_device("auto", "auto") == "GPU.1"
    assert openvino_device("auto", "openvino") == "GPU.1"
    assert openvino_device("auto", "torch") == "CPU"
    assert openvino_device("cpu", "auto") == "CPU"
    for wanted in ("auto", INTEL_GPU, "cpu"):  # the rest is torch's, on the processor
        assert choose_device(wanted) == CPU
    with pytest.raises(InputError, match="leave it out"):
        openvino_device(INTEL_GPU, "torch")


def test_a_device_that_is_not_there_is_refused(monkeypatch) -> None:
    there(monkeypatch)
    for wanted in ("cuda", "mps", INTEL_GPU):
        with pytest.raises(InputError, match="usable: cpu"):
            choose_device(wanted)
    with pytest.raises(InputError, match="choose one of auto, cpu, cuda, mps, intel-gpu"):
        choose_device("tpu")


def test_the_driver_is_not_asked_unless_it_may_serve(monkeypatch) -> None:
    def asked() -> None:
        raise AssertionError("asked")

    monkeypatch.setattr(devices, "intel_gpus", asked)
    assert choose_device("cpu") == CPU
    assert openvino_device("cpu", "auto") == openvino_device("auto", "torch") == "CPU"


def test_where_the_graphics_processor_fails_the_processor_takes_over_and_says_so(model, images) -> None:
    pytest.importorskip("openvino", reason="OpenVINO is not installed")
    if devices.intel_gpus():
        pytest.skip("an Intel graphics processor is here: it does not fail")
    encoder = OpenVinoEncoder(model, precision="f16", streams=2, on="GPU")
    assert encoder.device == INTEL_GPU
    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(encoder, [images, images.flip(0)]))
    assert (encoder.device, encoder.precision) == ("cpu", "f32")
    assert len(encoder.notes) == 1
    assert "the processor computed instead" in encoder.notes[0]
    with torch.inference_mode():
        expected = TorchEncoder(model, CPU)(images)
    for one, flipped, other in zip(*found, expected, strict=True):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=0)
        torch.testing.assert_close(flipped.flip(0), other, atol=1e-4, rtol=0)


def test_a_study_goes_on_where_the_graphics_processor_fails(simulated, options, monkeypatch) -> None:
    from D24FADLib.imaging.planes import Plane
    from D24FADLib.inference.detector import detect

    pytest.importorskip("openvino", reason="OpenVINO is not installed")
    if devices.intel_gpus():
        pytest.skip("an Intel graphics processor is here: it does not fail")
    there(monkeypatch, ("GPU", False))
    changes = {"plane": Plane.AXIAL, "device": INTEL_GPU, "runtime": "auto", "cache": False}
    detection = detect(simulated.query, simulated.supports, options(**changes))
    assert any("graphics processor" in warning for warning in detection.warnings)
    assert detection.record["device"]["networks_on"] == "cpu"
    assert detection.findings


def test_what_fails_on_the_processor_is_an_error(model) -> None:
    pytest.importorskip("openvino", reason="OpenVINO is not installed")
    encoder = choose_encoder("openvino", model, CPU)
    with pytest.raises(RuntimeError):
        encoder(torch.rand(1, 2, 64, 64))
    assert encoder.notes == []


def test_other_devices_of_openvino_have_settings_that_it_takes(model, images, monkeypatch, tmp_path) -> None:
    """No graphics processor is here: OpenVINO's own choice of devices stands in, which is given the same."""
    pytest.importorskip("openvino", reason="OpenVINO is not installed")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    encoder = OpenVinoEncoder(model, "0" * 64, "f32", 2, "AUTO:CPU")
    found = encoder(images)
    assert encoder.notes == []
    with torch.inference_mode():
        expected = TorchEncoder(model, CPU)(images)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=0)
