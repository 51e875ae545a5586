"""What a volume's references give (`volumes.NormalVolume`), as a file."""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path

import numpy as np
import torch

from D24FADLib.inference.calibration import Calibration
from D24FADLib.inference.deviation import Usual
from D24FADLib.inference.mahalanobis import Fitted
from D24FADLib.inference.volumes import NormalVolume

_NAME = "normal.npz"
_TEXTURE = ("whiten", "mean", "widened")
_CALIBRATION = ("local", "by_depth", "spread", "knots")
_OWN = ("left_out", "depth_mm", "support_scores", "enough")


def write_normal(folder: Path, normal: NormalVolume) -> None:
    """Into one file. The mean of the features is kept in float16, as features are."""
    arrays = {name: getattr(normal, name) for name in _OWN}
    arrays |= {f"texture_{name}": getattr(normal.texture, name).cpu().numpy() for name in _TEXTURE}
    arrays["texture_mean"] = arrays["texture_mean"].astype(np.float16)
    arrays |= {f"calibration_{name}": getattr(normal.calibration, name) for name in _CALIBRATION}
    for number, usual in enumerate(normal.values):
        arrays |= {f"value{number}_{field.name}": getattr(usual, field.name) for field in fields(Usual)}
    numbers = {"sigma": normal.texture.sigma, "scales": normal.scales, "values": len(normal.values)}
    np.savez(folder / _NAME, numbers=np.array(json.dumps(numbers)), **arrays)


def read_normal(folder: Path) -> NormalVolume | None:
    """None where there is none. Raises OSError, ValueError or KeyError for a damaged file."""
    if not (folder / _NAME).is_file():
        return None
    with np.load(folder / _NAME, allow_pickle=False) as kept:
        numbers = json.loads(str(kept["numbers"]))
        own = {name: kept[name] for name in _OWN}
        whiten, mean, widened = (torch.from_numpy(kept[f"texture_{name}"]).float() for name in _TEXTURE)
        calibration = {name: kept[f"calibration_{name}"] for name in _CALIBRATION}
        values = tuple(
            Usual(**{field.name: kept[f"value{number}_{field.name}"] for field in fields(Usual)})
            for number in range(numbers["values"])
        )
    texture = Fitted(whiten, mean, widened, float(numbers["sigma"]))
    fitted = Calibration(**calibration, support_scores=own["support_scores"])
    return NormalVolume(texture=texture, calibration=fitted, values=values, scales=numbers["scales"], **own)
