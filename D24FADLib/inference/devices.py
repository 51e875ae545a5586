"""Which device computes, and what a graphics card wants done its own way."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from threading import Lock
from typing import TYPE_CHECKING

from D24FADLib.errors import InputError

if TYPE_CHECKING:
    import torch

# OpenVINO's telemetry would report each conversion to a web service and keep an id in the user's home. Found
# missing it is left out; so this stands before every import of OpenVINO.
sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]

INTEL_GPU = "intel-gpu"  # through OpenVINO, which encodes there; torch computes the rest on the processor
DEVICES = ("auto", "cpu", "cuda", "mps", INTEL_GPU)
_IMAGES_AT_ONCE = {"cpu": 16, "cuda": 256, "mps": 64}


def available_devices() -> list[str]:
    """The usable ones, best first."""
    found = torch_devices()
    for _, discrete in intel_gpus()[:1]:
        found.insert(len(found) - discrete, INTEL_GPU)
    return found


def torch_devices() -> list[str]:
    """Those of torch, best first, for which no driver is asked but its own."""
    import torch

    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    return [name for name, usable in there.items() if usable]


@cache
def intel_gpus() -> tuple[tuple[str, bool], ...]:
    """OpenVINO's names of Intel's graphics processors, and whether each is a card of its own; cards first."""
    if importlib.util.find_spec("openvino") is None:
        return ()
    import openvino

    core = openvino.Core()
    discrete = openvino.properties.device.Type.DISCRETE
    try:
        names = [name for name in core.available_devices if name.split(".")[0] == "GPU"]
        found = [(name, core.get_property(name, "DEVICE_TYPE") == discrete) for name in names]
    except RuntimeError:  # a driver that does not answer
        return ()
    return tuple(sorted(found, key=lambda one: not one[1]))


def choose_device(wanted: str) -> torch.device:
    """Where torch computes. InputError where the wanted device is not there."""
    import torch

    if wanted not in DEVICES and not wanted.startswith("cuda:"):
        raise InputError(f"--device {wanted}: choose one of {', '.join(DEVICES)}")
    usable = torch_devices()  # Intel's are asked after only where they are wanted: it takes their driver
    if wanted == "auto":
        return torch.device(usable[0])
    if wanted.split(":")[0] not in usable and not (wanted == INTEL_GPU and intel_gpus()):
        raise InputError(f"--device {wanted}: not available here; usable: {', '.join(available_devices())}")
    device = torch.device("cpu" if wanted == INTEL_GPU else wanted)
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise InputError(f"--device {wanted}: there are {torch.cuda.device_count()} CUDA devices")
    return device


def openvino_device(wanted: str, runtime: str) -> str:
    """OpenVINO's name of what it encodes on where `choose_device(wanted)` is the processor: one of Intel's
    graphics processors where that is asked for or where a card is there (one within the processor may well be
    slower than its cores), else "CPU"."""
    if runtime == "torch" and wanted == INTEL_GPU:
        raise InputError("--runtime torch does not run on Intel's graphics processors; leave it out")
    if runtime == "torch" or wanted not in ("auto", INTEL_GPU):
        return "CPU"
    return next((name for name, discrete in intel_gpus() if discrete or wanted == INTEL_GPU), "CPU")


def default_batch(device: torch.device, volumes: int) -> int:
    """Slices at a time so that query and supports together make a batch the device likes."""
    return max(1, _IMAGES_AT_ONCE.get(device.type, 16) // volumes)


def sent(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """The tensor on the device; to a CUDA card through memory that it reads by itself, without waiting."""
    if device.type != "cuda" or tensor.device.type != "cpu":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)


_exact = Lock()
_inside, _before = 0, True


@contextmanager
def exact_convolutions() -> Iterator[None]:
    """Meanwhile convolutions on CUDA cards compute in f32 as it is written, not in TF32 (10 bits), torch's
    default. The switch is the whole process's: the last of several threads to leave puts it back."""
    global _inside, _before
    import torch

    if not torch.cuda.is_available():
        yield
        return
    with _exact:
        if _inside == 0:
            _before = torch.backends.cudnn.allow_tf32
            torch.backends.cudnn.allow_tf32 = False
        _inside += 1
    try:
        yield
    finally:
        with _exact:
            _inside -= 1
            if _inside == 0:
                torch.backends.cudnn.allow_tf32 = _before
