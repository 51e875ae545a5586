"""Which device computes, and what a graphics card wants done its own way."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock
from typing import TYPE_CHECKING

from D24FADLib.errors import InputError

if TYPE_CHECKING:
    import torch

DEVICES = ("auto", "cpu", "cuda", "mps")
_IMAGES_AT_ONCE = {"cpu": 16, "cuda": 256, "mps": 64}


def available_devices() -> list[str]:
    """The usable ones, best first."""
    import torch

    found = []
    if torch.cuda.is_available():
        found.append("cuda")
    if torch.backends.mps.is_available():
        found.append("mps")
    return [*found, "cpu"]


def choose_device(wanted: str) -> torch.device:
    """InputError where the wanted device is not there."""
    import torch

    if wanted not in DEVICES and not wanted.startswith("cuda:"):
        raise InputError(f"--device {wanted}: choose one of {', '.join(DEVICES)}")
    usable = available_devices()
    if wanted == "auto":
        return torch.device(usable[0])
    if wanted.split(":")[0] not in usable:
        raise InputError(f"--device {wanted}: not available here; usable: {', '.join(usable)}")
    device = torch.device(wanted)
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise InputError(f"--device {wanted}: there are {torch.cuda.device_count()} CUDA devices")
    return device


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
