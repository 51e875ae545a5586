"""What runs the networks: torch everywhere, OpenVINO on CPUs, where it is about half as fast again, and on
Intel's graphics processors.

Precision is a choice. f32 is exact; bf16 and f16 are for devices with instructions for them, and change the
features by about 1 % and 0.1 %. `auto` takes f16 on CUDA cards that have tensor cores, else f32.
"""

from __future__ import annotations

import hashlib
import importlib.util
import shutil
import threading
import warnings
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from D24FADLib import __version__
from D24FADLib.errors import InputError
from D24FADLib.inference.cache import conversions_folder, kept_whole
from D24FADLib.inference.devices import INTEL_GPU, exact_convolutions, sent
from D24FADLib.inference.folding import folded, reduced
from D24FADLib.network.model import D24FADModel

RUNTIMES = ("auto", "torch", "openvino")
PRECISIONS = ("auto", "f32", "bf16", "f16")
_TYPES = {"bf16": torch.bfloat16, "f16": torch.float16}
_AT_ONCE = 4  # images through torch on a processor: more do not stay in its cache
_CONVERSION = 3  # of the way networks are converted: another number makes kept ones stale


class Encoder(Protocol):
    """Images (N, 3, H, W) in [0, 1] -> teacher and student features, three each, at strides 4, 8, 16:
    float32, in memory of their own. `precision` is what it computes in, `device` where; notes: what the
    reader should know. Threads may call it side by side."""

    name: str
    precision: str
    notes: list[str]

    @property
    def device(self) -> str: ...

    def __call__(self, images: Tensor) -> list[Tensor]: ...


class _Features(nn.Module):
    def __init__(self, model: D24FADModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        features, embedding = self.model.teacher(images)
        return (*features, *self.model.student(embedding))


class TorchEncoder:
    """The networks as they are; on the processor a folded copy, and below f32 one made for that precision
    (`folding`)."""

    name = "torch"

    def __init__(self, model: D24FADModel, device: torch.device, precision: str = "f32") -> None:
        self.precision = precision
        self.notes: list[str] = []
        self._device = device
        self._run: nn.Module = _Features(model)
        if precision != "f32":
            self._run = reduced(self._run, _TYPES[precision]).to(device)
        elif device.type == "cpu":
            self._run = folded(self._run).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        if device.type == "cuda":  # the copy is complete before other threads, with streams of their own, run
            torch.cuda.synchronize(device)

    @property
    def device(self) -> str:
        return str(self._device)

    def __call__(self, images: Tensor) -> list[Tensor]:
        if images.stride(1) == 0:  # gray: one channel travels
            images = images[:, :1]
        if self.precision == "f32" and self._device.type == "cpu":
            parts = [self._run(part.expand(-1, 3, -1, -1)) for part in images.split(_AT_ONCE)]
            return [torch.cat(scale).contiguous() for scale in zip(*parts, strict=True)]
        count = len(images)
        images = _few_shapes(sent(images, self._device))
        if self.precision != "f32":
            return [feature[:count].float() for feature in self._run(images)]
        with exact_convolutions():
            return [feature[:count] for feature in self._run(images.expand(-1, 3, -1, -1))]


def _few_shapes(images: Tensor) -> Tensor:
    """On a CUDA card more images, repeated, up to one of four numbers an octave: cuDNN plans for every number
    anew, which takes seconds."""
    count = len(images)
    missing = -count % (1 << max(0, count.bit_length() - 3)) if images.is_cuda else 0
    return torch.cat([images, images[:1].expand(missing, -1, -1, -1)]) if missing else images


class OpenVinoEncoder:
    """The networks converted, compiled once per input shape, run image by image: what lies between two layers
    of one image stays in a core's cache, that of a batch does not.

    The conversion takes many times as long as a study: it is kept in `conversions_folder()`, safe to
    delete, under `key`, the checksum of the model's weights (None: not kept). `streams` calls run at a
    time, each on its own share of the cores. on: "CPU", or another of OpenVINO's devices, for which the CPU
    takes over, and `notes` says so, where it fails: drivers of graphics processors do.
    """

    name = "openvino"

    def __init__(
        self,
        model: D24FADModel,
        key: str | None = None,
        precision: str = "f32",
        streams: int = 1,
        on: str = "CPU",
    ) -> None:
        self.precision = precision
        self.notes: list[str] = []
        self._on = on
        self._model = model
        self._key = key
        self._streams = streams
        self._network: Any = None
        self._compiled: dict[tuple[str, int, int], Any] = {}
        self._lock = threading.Lock()
        self._own = threading.local()  # a request serves one thread

    @property
    def device(self) -> str:
        return "cpu" if self._on == "CPU" else INTEL_GPU

    def __call__(self, images: Tensor) -> list[Tensor]:
        on = self._on
        try:
            return self._features(images, on)
        except RuntimeError:
            if on == "CPU":
                raise
        self._fall_back()
        return self._features(images, "CPU")

    def _fall_back(self) -> None:
        with self._lock:
            if self._on != "CPU":
                self._on, self.precision = "CPU", "f32"
                self.notes.append(
                    "Intel's graphics processor could not run the networks: the processor computed instead. "
                    "Update its driver, or choose another device."
                )

    def _features(self, images: Tensor, on: str) -> list[Tensor]:
        shape = (on, images.shape[-2], images.shape[-1])
        requests = self._own.__dict__.setdefault("requests", {})
        if shape not in requests:
            with self._lock:
                if shape not in self._compiled:
                    self._compiled[shape] = self._compile(*shape)
            requests[shape] = self._compiled[shape].create_infer_request()
        request, compiled = requests[shape], self._compiled[shape]
        features = [torch.empty(len(images), *output.shape[1:]) for output in compiled.outputs]
        for number, image in enumerate(images):
            result = request.infer([image[None].contiguous().numpy()], share_inputs=True, share_outputs=True)
            for index, feature in enumerate(features):
                feature[number] = torch.from_numpy(result[index][0])
        return features

    def _compile(self, on: str, height: int, width: int) -> Any:
        import openvino

        if self._network is None:
            self._network = self._kept() if self._key else self._converted()
        self._network.reshape([1, 3, height, width])
        settings = {"INFERENCE_PRECISION_HINT": self.precision}
        if on == "CPU":
            # A fixed number of streams keeps the order of sums the same from run to run.
            settings["NUM_STREAMS"] = str(self._streams)
            settings["INFERENCE_NUM_THREADS"] = str(max(self._streams, torch.get_num_threads()))
        else:
            settings["PERFORMANCE_HINT"] = "THROUGHPUT"
            if self._key:  # compiling takes a graphics processor's driver many seconds
                settings["CACHE_DIR"] = str(conversions_folder() / "compiled")
        compiled = openvino.Core().compile_model(self._network, on, settings)
        # The bindings set themselves up in their first call: two threads in it at once wait for each other
        # for ever (one holds the interpreter's lock, the other what it waits for). So it is made here, alone.
        compiled.create_infer_request().infer([np.zeros((1, 3, height, width), np.float32)])
        return compiled

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
        _fuse_pads(network, side)
        network.reshape([1, 3, -1, -1])
        return network

    def _kept(self) -> Any:
        import openvino

        parts = f"{self._key} {openvino.__version__} {__version__} {_CONVERSION}"
        folder = conversions_folder() / hashlib.sha256(parts.encode()).hexdigest()[:32]
        if not (folder / "network.xml").is_file():
            network = self._converted()
            try:
                with kept_whole(folder) as aside:
                    openvino.save_model(network, aside / "network.xml", compress_to_fp16=False)
            except (OSError, RuntimeError):  # a full disk: go on without
                return network
        try:
            return openvino.Core().read_model(folder / "network.xml")
        except RuntimeError:
            shutil.rmtree(folder, ignore_errors=True)
            return self._converted()


def _fuse_pads(network: Any, side: int) -> None:
    """Padding as a property of the convolution behind it, which costs nothing, not as a copy before it.

    How much is padded is worked out by the network itself: it is read off at an image of side x side.
    """
    import openvino
    from openvino import opset13 as ops

    makers = {"Convolution": ops.convolution, "GroupConvolution": ops.group_convolution}
    found = []
    for pad in network.get_ordered_ops():
        if pad.get_type_name() == "Pad" and pad.get_attributes().get("pad_mode") == "constant":
            users = [target.get_node() for target in pad.output(0).get_target_inputs()]
            if len(users) == 1 and users[0].get_type_name() in makers:
                found.append((pad, users[0]))
    if not found:
        return
    amounts = openvino.Model(
        [p.input_value(port) for p, _ in found for port in (1, 2)], network.get_parameters()
    )
    image = torch.zeros(1, 3, side, side).numpy()
    values = list(openvino.Core().compile_model(amounts, "CPU")([image]).values())
    for number, (pad, user) in enumerate(found):
        begin, end = (value.tolist() for value in values[2 * number : 2 * number + 2])
        if any(begin[:2] + end[:2]):
            continue
        has = user.get_attributes()
        fused = makers[user.get_type_name()](
            pad.input_value(0),
            user.input_value(1),
            has["strides"],
            [a + b for a, b in zip(has["pads_begin"], begin[2:], strict=True)],
            [a + b for a, b in zip(has["pads_end"], end[2:], strict=True)],
            has["dilations"],
        )
        for target in user.output(0).get_target_inputs():
            target.replace_source_output(fused.output(0))
    network.validate_nodes_and_infer_types()


def choose_precision(wanted: str, device: torch.device, openvino: str | None) -> str:
    """What the device, or this one of OpenVINO's, computes in. InputError where it has no instructions for
    what is asked for."""
    if wanted not in PRECISIONS:
        raise InputError(f"--precision {wanted}: choose one of {', '.join(PRECISIONS)}")
    if wanted == "auto":
        has_tensor_cores = device.type == "cuda" and torch.cuda.get_device_capability(device)[0] >= 7
        return "f16" if has_tensor_cores else "f32"
    if openvino and wanted != "f32":
        import openvino as library

        usable = library.Core().get_property(openvino, "OPTIMIZATION_CAPABILITIES")
        if {"bf16": "BF16", "f16": "FP16"}[wanted] not in usable:
            raise InputError(
                f"--precision {wanted}: this processor has no instructions for it; leave it out (f32)"
            )
    return wanted


def choose_encoder(
    runtime: str,
    model: D24FADModel,
    device: torch.device,
    key: str | None = None,
    precision: str = "auto",
    streams: int = 1,
    on: str = "CPU",
) -> Encoder:
    """The encoder for a model whose weights have the checksum `key`; on: see `openvino_device`.

    InputError where OpenVINO is asked for and is not installed, or for a device it does not serve here, and
    for a precision that the device does not have.
    """
    if runtime not in RUNTIMES:
        raise InputError(f"--runtime {runtime}: choose one of {', '.join(RUNTIMES)}")
    installed = importlib.util.find_spec("openvino") is not None
    if runtime == "openvino" and not installed:
        raise InputError("--runtime openvino: not installed; pip install 'd24fad[openvino]'")
    if runtime == "openvino" and device.type != "cpu":
        raise InputError(f"--runtime openvino runs on the CPU, not on {device}; leave out --device")
    through_openvino = device.type == "cpu" and installed and runtime != "torch"
    chosen = choose_precision(precision, device, on if through_openvino else None)
    if through_openvino:
        return OpenVinoEncoder(model, key, chosen, streams, on)
    return TorchEncoder(model.to(device).eval(), device, chosen)
