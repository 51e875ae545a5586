"""The defaults of a detection, in one place."""

from __future__ import annotations

from dataclasses import dataclass

from D24FADLib.imaging.alignment import Alignment
from D24FADLib.imaging.planes import Plane

DEFAULT_MODEL = "d24fad-lite0"


@dataclass(frozen=True)
class DetectionOptions:
    """What can be asked of `detect`.

    plane, align: None chooses by the study (acquisition plane; affine for volumes, none for pictures).
    model: an embedded model's name or a bundle folder. device: auto, cpu, cuda, mps or intel-gpu.
    runtime: what runs the networks; auto takes OpenVINO on a CPU where it is installed, else torch.
    precision: what the networks compute in, auto, f32, bf16 or f16; auto takes f32 on a CPU.
    threshold: on the map; None derives it from `false_positives_per_study`, the number of false findings
    that a normal study may have on average, as judged by the references themselves.
    batch: slices (of the query and each support) compared at a time; None fits it to the device.
    force_model: use a model whose weights are not those that its metadata names.
    drop_outliers: compare without the references that stand out against the others, as long as two are left.
    cache: keep converted networks in the user's cache folder. reference_cache: compare on the references'
    own grid and keep their features and voxels there too, for the next study (see `reference_set`).
    unsuitable_anyway: go on with references that the suitability check refuses, where that is possible.
    """

    plane: Plane | None = None
    align: Alignment | None = None
    model: str = DEFAULT_MODEL
    device: str = "auto"
    runtime: str = "auto"
    precision: str = "auto"
    threshold: float | None = None
    false_positives_per_study: float = 1.0
    ct_window: str = "auto"
    batch: int | None = None
    cache: bool = True
    reference_cache: bool = False
    drop_outliers: bool = False
    force_model: bool = False
    unsuitable_anyway: bool = False

    def __post_init__(self) -> None:
        # Names do as well as members.
        if self.plane is not None:
            object.__setattr__(self, "plane", Plane(self.plane))
        if self.align is not None:
            object.__setattr__(self, "align", Alignment(self.align))
