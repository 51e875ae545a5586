"""What runs the networks: torch everywhere, OpenVINO on CPUs, where it is about ten times as fast."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import shutil
import tempfile
import warnings
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from D24FADLib import __version__
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
    """The networks converted for the CPU in full f32 precision, compiled once per input shape.

    The conversion takes many times as long as a study: it is kept in `conversion_cache()`, safe to
    delete, under `key`, the checksum of the model's weights (None: not kept).
    """

    name = "openvino"

    def __init__(self, model: D24FADModel, key: str | None = None) -> None:
        self._model = model
        self._key = key
        self._network: Any = None
        self._compiled: dict[tuple[int, int], Any] = {}

    def __call__(self, images: Tensor) -> list[Tensor]:
        shape = (images.shape[-2], images.shape[-1])
        if shape not in self._compiled:
            self._compiled[shape] = self._compile(*shape)
        result = self._compiled[shape](images.contiguous().numpy())
        return [torch.from_numpy(result[index].copy()) for index in range(len(result))]

    def _compile(self, height: int, width: int) -> Any:
        import openvino

        if self._network is None:
            self._network = self._kept() if self._key else self._converted()
        self._network.reshape([-1, 3, height, width])
        # LATENCY keeps all cores on one batch, and the order of sums the same from run to run.
        settings = {"INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY"}
        return openvino.Core().compile_model(self._network, "CPU", settings)

    def _converted(self) -> Any:
        import openvino

        # A small example traces fast. It fixes the padding of the stride-2 layers, which is the same for
        # every size that is a multiple of the network's stride.
        side = 2 * self._model.stride
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            network = openvino.convert_model(
                _Features(self._model), example_input=torch.zeros(1, 3, side, side)
            )
        network.reshape([-1, 3, -1, -1])
        return network

    def _kept(self) -> Any:
        import openvino

        name = hashlib.sha256(f"{self._key} {openvino.__version__} {__version__}".encode()).hexdigest()[:32]
        folder = conversion_cache() / name
        if not (folder / "network.xml").is_file():
            network = self._converted()
            try:
                folder.parent.mkdir(parents=True, exist_ok=True)
                with tempfile.TemporaryDirectory(dir=folder.parent) as aside:
                    openvino.save_model(network, Path(aside) / "new" / "network.xml", compress_to_fp16=False)
                    os.replace(Path(aside) / "new", folder)
            except (OSError, RuntimeError):  # a full disk, or another run was first: go on without
                return network
        try:
            return openvino.Core().read_model(folder / "network.xml")
        except RuntimeError:
            shutil.rmtree(folder, ignore_errors=True)
            return self._converted()


def conversion_cache() -> Path:
    """Where converted networks are kept."""
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "d24fad" / "openvino"


def choose_encoder(runtime: str, model: D24FADModel, device: torch.device, key: str | None = None) -> Encoder:
    """The encoder for a model whose weights have the checksum `key`.

    InputError where OpenVINO is asked for and is not installed, or for a device it does not serve here.
    """
    if runtime not in RUNTIMES:
        raise InputError(f"--runtime {runtime}: choose one of {', '.join(RUNTIMES)}")
    installed = importlib.util.find_spec("openvino") is not None
    if runtime == "openvino" and not installed:
        raise InputError("--runtime openvino: not installed; pip install 'd24fad[openvino]'")
    if runtime == "openvino" and device.type != "cpu":
        raise InputError(f"--runtime openvino runs on the CPU, not on {device}; leave out --device")
    if device.type == "cpu" and installed and runtime != "torch":
        return OpenVinoEncoder(model, key)
    return TorchEncoder(model.to(device).eval(), device)
