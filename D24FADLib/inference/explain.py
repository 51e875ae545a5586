"""Why a finding is one: against which references it was judged, and at which scale it departs from them.

The finding's strongest slice is compared once more, teacher features alone and stride by stride: the
residual to the nearest position of each reference (`residuals.nearest_residuals`) at the finding's peak. Of
pictures, where place says nothing, the distances of the comparison itself tell the most similar reference. Of
volumes whose map is fused, the kinds of evidence at the peak say how the study departs: darker, noisier, ...
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from D24FADLib.imaging.planes import Plane
from D24FADLib.inference.batches import workers_on
from D24FADLib.inference.comparison import input_size, to_input
from D24FADLib.inference.fusion import named
from D24FADLib.inference.residuals import nearest_residuals
from D24FADLib.inference.threads import side_by_side

if TYPE_CHECKING:
    from D24FADLib.inference.comparison import Comparer
    from D24FADLib.inference.detection import Finding
    from D24FADLib.inference.preparation import Prepared

STRIDES = (4, 8, 16)
_MOST = 10  # findings that are explained


def explain(
    findings: Sequence[Finding],
    prepared: Prepared,
    comparer: Comparer,
    size: int,
    shares: NDArray[np.float32],
    kept: Sequence[int],
    levels: Sequence[NDArray[np.float32]] = (),
) -> tuple[Finding, ...]:
    """The findings with weights, residuals and nearest_reference filled in, the first ten of them.

    shares: (all slices, K) of the grid of comparison. kept: the references that were compared. levels: see
    `Comparison`, of those; with any, residuals stay empty.
    """

    def one(finding: Finding) -> Finding:
        if levels:
            return _of_picture(finding, prepared, shares, kept, levels)
        return _explained(finding, prepared, comparer, size, shares, kept)

    explained = side_by_side(one, findings[:_MOST], workers=workers_on(comparer.device))
    return (*explained, *findings[_MOST:])


def name_departures(
    findings: Sequence[Finding], prepared: Prepared, parts: Mapping[str, NDArray[np.float32]]
) -> tuple[Finding, ...]:
    """The findings with departs_by and departures filled in; parts: maps (n, h, w) of the box by kind of
    evidence, none where the map is not fused."""
    if not parts:
        return tuple(findings)
    described = []
    for finding in findings:
        number, row, col = _place(finding, prepared)
        within = min(max(number - prepared.box[0].start, 0), len(next(iter(parts.values()))) - 1)
        sections = [one[None, within] for one in parts.values()]
        heights = _at(sections, row, col, prepared)[:, 0].tolist()
        by = named(dict(zip(parts, heights, strict=True)))
        described.append(replace(finding, departs_by=by, departures=tuple(heights)))
    return tuple(described)


def _explained(
    finding: Finding,
    prepared: Prepared,
    comparer: Comparer,
    size: int,
    shares: NDArray[np.float32],
    kept: Sequence[int],
) -> Finding:
    number, row, col = _place(finding, prepared)
    box = prepared.box
    rows, cols = (side.stop - side.start for side in box[1:])
    shape = input_size(rows * prepared.spacing[1], cols * prepared.spacing[2], size, comparer.model.stride)
    images = torch.cat(
        [
            to_input(np.asarray(v[number : number + 1, box[1], box[2]], np.float32), shape)
            for v in (prepared.query, *(prepared.supports[k] for k in kept))
        ]
    )
    with torch.inference_mode():
        apart = [
            nearest_residuals(feature[:, None], 1)[0, :, 0].cpu().numpy()  # (K, h, w)
            for feature in comparer.encoder(images)[:3]
        ]
    stacked = _at(apart, row, col, prepared)
    return replace(
        finding,
        weights=tuple(float(w) for w in shares[number]),
        residuals=tuple(float(r) for r in stacked.min(axis=1)),
        nearest_reference=kept[int(stacked.sum(axis=0).argmin())] + 1,
    )


def _of_picture(
    finding: Finding,
    prepared: Prepared,
    shares: NDArray[np.float32],
    kept: Sequence[int],
    levels: Sequence[NDArray[np.float32]],
) -> Finding:
    number, row, col = _place(finding, prepared)
    apart = _at(levels, row, col, prepared).sum(axis=0)
    return replace(
        finding,
        weights=tuple(float(w) for w in shares[number]),
        nearest_reference=kept[int(apart.argmin())] + 1,
    )


def _at(maps: Sequence[NDArray[np.float32]], row: int, col: int, prepared: Prepared) -> NDArray[np.float32]:
    """(maps, K): the values of (K, h, w) maps of the box at a row and column of the slice."""
    found = []
    for apart in maps:
        at = [
            round(min(max((n - side.start) / max(side.stop - side.start - 1, 1), 0.0), 1.0) * (length - 1))
            for n, side, length in zip((row, col), prepared.box[1:], apart.shape[1:], strict=True)
        ]
        found.append(apart[:, at[0], at[1]])
    return np.stack(found)


def _place(finding: Finding, prepared: Prepared) -> tuple[int, int, int]:
    """Slice, row and column of the finding's peak on the grid of comparison (see `imaging.planes.slices`)."""
    right, anterior, superior = finding.peak_ras
    point = (-right, -anterior, superior)
    if prepared.home is not None:
        point = prepared.home.transform.TransformPoint(point)
    size = prepared.canonical.GetSize()
    found = prepared.canonical.TransformPhysicalPointToIndex(point)
    i, j, k = (min(max(v, 0), s - 1) for v, s in zip(found, size, strict=True))
    upright = size[2] - 1 - k
    by_plane = {Plane.AXIAL: (k, j, i), Plane.CORONAL: (j, upright, i), Plane.SAGITTAL: (i, upright, j)}
    return by_plane[prepared.plane]
