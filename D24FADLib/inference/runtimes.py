"""What runs the networks: torch everywhere, OpenVINO on CPUs, where it is about ten times as fast."""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor, nn

from D24FADLib.errors import InputError
from D24FADLib.network.model import D24FADModel

RUNTIMES = ("auto", "torch", "openvino")


class Encoder(Protocol):
    """Images (N, 3, H, W) in [0, 1] -> teacher and student features, three each, at strides 4, 8, 16."""

    name: str

    def __call__(self, images: Tensor) -> list[Tensor]: ...


class _Features(nn.Module):
    def __init__(self, model: D24FADModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        features, embedding = self.model.teacher(images)
        return (*features, *self.model.student(embedding))


class TorchEncoder:
    """The networks as they are."""

    name = "torch"

    def __init__(self, model: D24FADModel, device: torch.device) -> None:
        self._run = _Features(model)
        self._device = device

    def __call__(self, images: Tensor) -> list[Tensor]:
        return list(self._run(images.to(self._device)))


class OpenVinoEncoder:
    """The networks converted for the CPU in full f32 precision, once per input shape."""

    name = "openvino"

    def __init__(self, model: D24FADModel) -> None:
        self._model = model
        self._compiled: dict[tuple[int, int], Callable[..., list[Tensor]]] = {}

    def __call__(self, images: Tensor) -> list[Tensor]:
        height, width = images.shape[-2:]
        if (height, width) not in self._compiled:
            self._compiled[height, width] = self._compile(height, width)
        return self._compiled[height, width](images)

    def _compile(self, height: int, width: int) -> Callable[..., list[Tensor]]:
        import openvino

        with torch.no_grad(), warnings.catch_warnings():
            # The padding of the stride-2 layers is traced as a constant, which it is for one shape.
            warnings.simplefilter("ignore")
            converted = openvino.convert_model(
                _Features(self._model), example_input=torch.zeros(1, 3, height, width)
            )
        converted.reshape([-1, 3, height, width])
        # LATENCY keeps all cores on one batch, and the order of sums the same from run to run.
        settings = {"INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY"}
        compiled = openvino.Core().compile_model(converted, "CPU", settings)

        def run(images: Tensor) -> list[Tensor]:
            result = compiled(images.contiguous().numpy())
            return [torch.from_numpy(result[index].copy()) for index in range(len(result))]

        return run


def choose_encoder(runtime: str, model: D24FADModel, device: torch.device) -> Encoder:
    """InputError where OpenVINO is asked for and is not installed, or for a device it does not serve here."""
    if runtime not in RUNTIMES:
        raise InputError(f"--runtime {runtime}: choose one of {', '.join(RUNTIMES)}")
    installed = importlib.util.find_spec("openvino") is not None
    if runtime == "openvino" and not installed:
        raise InputError("--runtime openvino: not installed; pip install 'd24fad[openvino]'")
    if runtime == "openvino" and device.type != "cpu":
        raise InputError(f"--runtime openvino runs on the CPU, not on {device}; leave out --device")
    if device.type == "cpu" and installed and runtime != "torch":
        return OpenVinoEncoder(model)
    return TorchEncoder(model.to(device).eval(), device)
