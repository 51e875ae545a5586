"""Volumes in gray: brightness, noise and texture of each place against the references', fused to one map.

Aligned references allow what pictures do not: a place has the references' own values beside it. `detect`
compares so where the model's metadata has it ("volumes"), from two references on. Colour and a single
reference are compared by `comparison.Evidence`; colours have no one brightness, and one reference no spread.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from D24FADLib.inference.appearance import brightness_and_noise, centred
from D24FADLib.inference.calibration import Calibration, depth_below_surface
from D24FADLib.inference.deviation import deviations, rim
from D24FADLib.inference.fusion import KINDS, TEXTURE, Channel, Fused, both_sides, fuse
from D24FADLib.inference.preparation import on_grid

if TYPE_CHECKING:
    from D24FADLib.inference.preparation import Prepared

Pitch = tuple[float, float, float]
# Spreads below which differences are numerical: of prepared intensities, and of log noise.
_LEAST_BRIGHTNESS, _LEAST_NOISE = 2e-3, 2e-2


@dataclass(frozen=True)
class VolumeEvidence:
    """Of a bundle's metadata ("volumes"): how much each kind counts (`fusion`); 0 leaves it out.

    mahalanobis: texture, from the teacher's finest features; appearance: brightness and noise.
    """

    mahalanobis: float = 1.0
    appearance: float = 1.0

    @classmethod
    def of(cls, kept: Mapping[str, Any] | None) -> VolumeEvidence | None:
        """From JSON; None where the bundle compares volumes by `comparison.Evidence`. ValueError where
        nothing counts."""
        if kept is None:
            return None
        found = cls(**{key: float(value) for key, value in kept.items()})
        if min(found.mahalanobis, found.appearance) < 0 or found.mahalanobis + found.appearance <= 0:
            raise ValueError("volumes: shares must not be negative, and one must be above 0")
        return found

    def applies(self, prepared: Prepared) -> bool:
        slices = prepared.box[0].stop - prepared.box[0].start
        return slices > 1 and prepared.query.ndim == 3 and len(prepared.supports) > 1


@dataclass(frozen=True, eq=False)
class Appearance:
    """Values (1 + K, n, h, w) on the grid of comparison, the query's first."""

    brightness: NDArray[np.float32]
    noise: NDArray[np.float32]


def pitch_of(prepared: Prepared, grid: tuple[int, ...]) -> Pitch:
    """mm of one position of the box's grid (n, h, w) along slice, row, column."""
    rows, cols = (side.stop - side.start for side in prepared.box[1:])
    return (
        prepared.spacing[0],
        prepared.spacing[1] * rows / grid[1],
        prepared.spacing[2] * cols / grid[2],
    )


def appearance_of(prepared: Prepared, grid: tuple[int, int]) -> Appearance:
    pitch = pitch_of(prepared, (0, *grid))
    bodies = [on_grid(prepared.body[prepared.box], grid), *prepared.support_body_on(grid)]
    bright, noise = [], []
    for volume, body in zip((prepared.query, *prepared.supports), bodies, strict=True):
        values = brightness_and_noise(volume[prepared.box], grid, pitch, prepared.modality != "CT")
        bright.append(values[0])
        noise.append(centred(values[1], body))
    return Appearance(np.stack(bright), np.stack(noise))


def fused(
    evidence: VolumeEvidence,
    appearance: Appearance | None,
    texture: NDArray[np.float32],
    calibration: Calibration,
    body: NDArray[np.bool_],
    bodies: NDArray[np.bool_],
    pitch_mm: Pitch,
) -> Fused:
    """The map of a volume. texture: z (n, h, w) of the query's features, calibration: that of the supports';
    body, bodies: where the query and supports (K, n, h, w) have tissue, on the grid."""
    depths = np.stack([depth_below_surface(b, pitch_mm) for b in (body, *bodies)])
    rims, own_rims = rim(depths, pitch_mm), rim(depths[1:], pitch_mm)
    judged = body & (bodies.sum(axis=0) >= (len(bodies) + 1) // 2)
    channels = []
    if evidence.appearance and appearance is not None:
        for kinds, values, least in (
            (KINDS[:2], appearance.brightness, _LEAST_BRIGHTNESS),
            (KINDS[2:4], appearance.noise, _LEAST_NOISE),
        ):
            z, own = deviations(values, body, bodies, pitch_mm, least)
            channels += both_sides((kinds[0], kinds[1]), rims * z, own_rims * own, evidence.appearance)
    if evidence.mahalanobis:
        z = np.where(judged, rims * texture, 0).astype(np.float32)
        channels.append(Channel(TEXTURE, z, own_rims * calibration.support_scores, evidence.mahalanobis))
    return fuse(channels)
