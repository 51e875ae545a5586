"""What is known of a study when it is compared with another: one description for DICOM series, files and
volumes of a scene alike, and how it follows from tags, grids and voxels."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..imaging.planes import acquired_axis
from . import kinds

if TYPE_CHECKING:
    from ..imaging.volume import Volume

_SAMPLES = 200_000
_LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0])
_NUMBERS = (
    "EchoTime",
    "RepetitionTime",
    "InversionTime",
    "MagneticFieldStrength",
    "DiffusionBValue",
)
_LISTS = ("ImageType", "ScanningSequence")


@dataclass(frozen=True)
class Voxels:
    """Cheap statistics of a volume's voxels.

    `digest` is equal for the same voxels, wherever they lie. `profile` holds the deciles of the brighter
    voxels between their own extremes, () where there are too few. `lowest` is the smallest value. All come
    of a sample.
    """

    constant: bool = False
    lowest: float = 0.0
    profile: tuple[float, ...] = ()
    digest: str = ""


@dataclass(frozen=True)
class Traits:
    """What matters for comparing one study with another. None or "" where it is not known, which is never a
    reason against it.

    `sequence` is T1, T2, PD, FLAIR, STIR, T2*, DWI, ADC or "" (MR), from TR, TE and TI; `said_sequence` what
    its name or description calls it. `kernel` is soft or sharp (CT); `view` the projection of a radiograph.
    `normal` is the direction (RAS) that clearly thicker slices are stacked along, None for isotropic voxels.
    `spacing`: mm in the plane, twice, and between slices. `extent`: millimetres covered along the patient's
    left-right, front-back and head-foot axes.
    """

    series_uid: str = ""
    study_uid: str = ""
    modality: str = ""
    body_part: str = ""
    sequence: str = ""
    said_sequence: str = ""
    contrast: bool | None = None
    kernel: str = ""
    view: str = ""
    plane: str = ""
    normal: tuple[float, float, float] | None = None
    slices: int = 0
    spacing: tuple[float, float, float] | None = None
    extent: tuple[float, float, float] | None = None
    echo_time: float | None = None
    repetition_time: float | None = None
    field_strength: float | None = None
    derived: str = ""
    color: bool = False
    voxels: Voxels | None = None


def traits_of_plain(plain: Mapping[str, Any]) -> Traits:
    """From `dataclasses.asdict` of traits without voxels, after a passage through JSON."""
    values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in plain.items()}
    return Traits(**values)


def traits_of_tags(tags: Mapping[str, Any], description: str = "") -> dict[str, Any]:
    """The traits that follow from technical attributes by keyword (see `kinds`) and from a description."""
    image_type = [str(value).upper() for value in tags.get("ImageType") or []]
    contrast = kinds.contrast_given(tags.get("ContrastBolusAgent"))
    view = " ".join(str(tags.get(keyword) or "") for keyword in ("Laterality", "ViewPosition"))
    return {
        "sequence": kinds.sequence_kind(tags),
        "said_sequence": kinds.said_sequence(description),
        "contrast": kinds.said_agent(description) if contrast is None else contrast,
        "kernel": kinds.kernel_kind(str(tags.get("ConvolutionKernel") or "")),
        "view": view.strip(),
        "echo_time": tags.get("EchoTime"),
        "repetition_time": tags.get("RepetitionTime"),
        "field_strength": tags.get("MagneticFieldStrength"),
        "derived": kinds.derived_kind(image_type),
    }


def tags_of_text(values: Mapping[str, str]) -> dict[str, Any]:
    """Attributes by keyword as `traits_of_tags` takes them, from their text in a header."""
    tags: dict[str, Any] = {}
    for keyword, value in values.items():
        text = value.strip()
        if not text:
            continue
        if keyword in _LISTS:
            tags[keyword] = [part.strip() for part in text.split("\\")]
        elif keyword in _NUMBERS:
            try:
                tags[keyword] = float(text.split("\\")[0])
            except ValueError:
                continue
        else:
            tags[keyword] = text
    return tags


def traits_of_grid(
    size: Sequence[int], spacing: Sequence[float], axes: NDArray[np.float64]
) -> dict[str, Any]:
    """The traits that follow from a grid: voxels and mm along i, j, k, and the (3, 3) matrix whose columns
    are the directions (RAS) of i, j, k."""
    found = acquired_axis(size, spacing)
    axis = 2 if found is None else found
    in_plane = [a for a in range(3) if a != axis]
    normal = np.asarray(axes, dtype=float)[:, axis]
    lengths = np.asarray(size, dtype=float) * np.asarray(spacing, dtype=float)
    extent = np.abs(axes) @ lengths
    return {
        "plane": plane_of(normal) if size[axis] > 1 else "",
        "normal": None if found is None else (float(normal[0]), float(normal[1]), float(normal[2])),
        "slices": int(size[axis]),
        "spacing": (float(spacing[in_plane[0]]), float(spacing[in_plane[1]]), float(spacing[axis])),
        "extent": (float(extent[0]), float(extent[1]), float(extent[2])),
    }


def plane_of(normal: Sequence[float] | NDArray[np.float64]) -> str:
    """axial, sagittal, coronal or oblique by the slice normal (LPS or RAS)."""
    parts = np.abs(np.asarray(normal, dtype=float))
    axis = int(parts.argmax())
    return ("sagittal", "coronal", "axial")[axis] if parts[axis] > 0.8 else "oblique"


def voxels_of(array: NDArray[Any]) -> Voxels:
    """Statistics of an array of any shape, from at most 200,000 of its values."""
    flat = array.reshape(-1)
    values = flat[:: max(1, flat.size // _SAMPLES)].astype(np.float64)
    if not values.size:
        return Voxels()
    digest = hashlib.sha256(repr(array.shape).encode() + values.tobytes()).hexdigest()
    low, high = np.percentile(values, (1, 99))
    inside = values[values > low + 0.15 * (high - low)]
    profile: tuple[float, ...] = ()
    if inside.size >= 50 and high > low:
        bottom, top = np.percentile(inside, (2, 98))
        deciles = np.percentile(inside, np.arange(10, 100, 10))
        profile = tuple(((deciles - bottom) / max(top - bottom, 1e-9)).clip(0, 1).tolist())
    return Voxels(bool(values.min() == values.max()), float(values.min()), profile, digest)


def traits_of_volume(volume: Volume) -> Traits:
    """The traits of a volume, its voxels' included; its name stands in for a description."""
    from ..imaging.intensity import guess_modality

    axes = _LPS_TO_RAS @ np.array(volume.image.GetDirection()).reshape(3, 3)
    return Traits(
        series_uid=volume.info.series_uid,
        study_uid=volume.info.study_uid,
        modality=guess_modality(volume),
        body_part=volume.info.body_part,
        color=volume.is_color,
        voxels=voxels_of(volume.array()),
        **traits_of_grid(volume.size, volume.spacing, axes),
        **traits_of_tags(volume.info.tags, volume.name.split(".")[0]),
    )
