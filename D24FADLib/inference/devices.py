"""Which device computes."""

from __future__ import annotations

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
