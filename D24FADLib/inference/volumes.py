"""Volumes in gray: brightness, noise and texture of each place against the references', fused to one map.

Aligned references allow what pictures do not: a place has the references' own values beside it. `detect`
compares so where the model's metadata has it ("volumes"), from two references on. Colour and a single
reference are compared by `comparison.Evidence`; colours have no one brightness, and one reference no spread.

What depends on the references alone is learned once (`learn`) and may be kept (`reference_set`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from D24FADLib.inference.appearance import brightness_and_noise, centred
from D24FADLib.inference.calibration import Calibration, calibrate, depth_below_surface
from D24FADLib.inference.deviation import Usual, rim, usual
from D24FADLib.inference.fusion import KINDS, TEXTURE, both_sides, fuse, scale_of
from D24FADLib.inference.mahalanobis import Fitted
from D24FADLib.inference.threads import side_by_side

if TYPE_CHECKING:
    from D24FADLib.inference.preparation import Prepared

Array = NDArray[np.float32]
Mask = NDArray[np.bool_]
Pitch = tuple[float, float, float]
# What stands above and below, and spreads below which differences are numerical: of prepared intensities, and
# of log noise.
_SIDES = ((KINDS[:2], 2e-3), (KINDS[2:4], 2e-2))


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
class NormalVolume:
    """What the references of a volume give to its map, on the grid of comparison (n, h, w), K >= 2.

    texture: of their features; left_out: (K, n, h, w), its distance of each to the others, NaN where it was
    not judged; calibration: of these. values: brightness and noise, none where they do not count. depth_mm:
    below the surface of the reference that is the shallowest. scales: of each kind (`fusion`).
    support_scores: (K, n, h, w), each reference's own map. enough: where half of them have body.
    """

    texture: Fitted
    left_out: Array
    calibration: Calibration
    values: tuple[Usual, ...]
    depth_mm: Array
    scales: dict[str, float]
    support_scores: Array
    enough: Mask

    def map_of(
        self, texture: Array, appearance: Sequence[Array], body: Mask, pitch_mm: Pitch
    ) -> tuple[Array, dict[str, Array]]:
        """The map (n, h, w) of a query, and that of each kind alone. texture: z of its features; appearance:
        its brightness and noise, as `appearance_of`; body: where it has tissue."""
        depths = np.stack([depth_below_surface(body, pitch_mm), self.depth_mm])
        rims = rim(depths, pitch_mm)
        z: dict[str, Array] = {}
        if self.values:
            found = side_by_side(lambda usual, value: usual.z(value, body), self.values, appearance)
            for (kinds, _), one in zip(_SIDES, found, strict=True):
                z |= both_sides((kinds[0], kinds[1]), rims * one)
        if TEXTURE in self.scales:
            z[TEXTURE] = np.where(body & self.enough, rims * texture, 0).astype(np.float32)
        return fuse(z, self.scales)


def learn(
    evidence: VolumeEvidence,
    texture: Fitted,
    left_out: Array,
    appearance: Sequence[Array],
    bodies: Mask,
    pitch_mm: Pitch,
) -> NormalVolume:
    """From the references' features, `left_out` as `NormalVolume` has it, their brightness and noise, as
    `appearance_of`, and where they have tissue; (K, n, h, w) each."""
    # Other organs' pictures say nothing about the distances of aligned volumes' features.
    calibration = calibrate(left_out, pitch_mm)
    depth = np.min(side_by_side(lambda body: depth_below_surface(body, pitch_mm), bodies), axis=0)
    rims = rim(depth[None], pitch_mm)
    values: list[Usual] = []
    z: dict[str, Array] = {}
    weights: dict[str, float] = {}
    if evidence.appearance:
        for (kinds, least), value in zip(_SIDES, appearance, strict=True):
            found, own = usual(value, bodies, pitch_mm, least)
            values.append(found)
            z |= both_sides((kinds[0], kinds[1]), rims * own)
            weights |= dict.fromkeys(kinds, evidence.appearance)
    if evidence.mahalanobis:
        z[TEXTURE] = rims * calibration.support_scores
        weights[TEXTURE] = evidence.mahalanobis
    scales = dict(zip(z, side_by_side(scale_of, z.values(), weights.values()), strict=True))
    enough = bodies.sum(axis=0) >= (len(bodies) + 1) // 2
    support_scores = fuse(z, scales)[0]
    return NormalVolume(texture, left_out, calibration, tuple(values), depth, scales, support_scores, enough)


def pitch_of(prepared: Prepared, grid: tuple[int, ...]) -> Pitch:
    """mm of one position of the box's grid (n, h, w) along slice, row, column."""
    rows, cols = (side.stop - side.start for side in prepared.box[1:])
    return (
        prepared.spacing[0],
        prepared.spacing[1] * rows / grid[1],
        prepared.spacing[2] * cols / grid[2],
    )


def appearance_of(
    prepared: Prepared, volumes: Sequence[NDArray[np.floating]], bodies: Sequence[Mask]
) -> tuple[Array, Array]:
    """Brightness and noise of the box's part of some of its volumes, (volumes, n, h, w) each; bodies: where
    these have tissue, on the grid (n, h, w)."""
    grid = (bodies[0].shape[1], bodies[0].shape[2])
    bright, noise = brightness_and_noise(
        [v[prepared.box] for v in volumes], grid, pitch_of(prepared, (0, *grid)), prepared.modality != "CT"
    )
    return bright, np.stack(side_by_side(centred, noise, bodies))
