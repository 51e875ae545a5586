"""Scores per slice read off the finished volumes, where the comparison ran on another grid."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from D24FADLib.imaging.planes import Plane, canonical_view, slice_index, slices
from D24FADLib.imaging.volume import Volume
from D24FADLib.inference.detection import SliceScore


def scores_of_slices(
    query: Volume, plane: Plane, anomaly_map: Volume, numbers: Volume, shares: NDArray[np.float32]
) -> tuple[SliceScore, ...]:
    """Peak and mean of the judged voxels (not 0) and mean weights of each slice, in the order of the query's
    own slices. numbers: the slice that each voxel was compared in; shares: its weights, (slices, K)."""
    scores, places = (slices(canonical_view(v.image), plane) for v in (anomaly_map, numbers))
    rows = []
    for number, (section, place) in enumerate(zip(scores, places, strict=True)):
        judged = section[section != 0]
        peak, mean = (float(judged.max()), float(judged.mean())) if judged.size else (0.0, 0.0)
        own = np.bincount(place.ravel(), minlength=len(shares)) @ shares.astype(np.float64)
        weights = tuple((own / own.sum()).tolist())
        rows.append(SliceScore(slice_index(query, plane, number), peak, mean, weights))
    return tuple(sorted(rows, key=lambda row: row.index))
