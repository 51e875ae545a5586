"""Scores per slice, read off the finished volumes: tables and plots say what the map shows."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from D24FADLib.imaging.planes import Plane, canonical_view, slice_index, slices
from D24FADLib.imaging.volume import Volume
from D24FADLib.inference.detection import SliceScore


def scores_of_slices(
    query: Volume,
    plane: Plane,
    anomaly_map: Volume,
    shares: NDArray[np.float32],
    numbers: Volume | None = None,
) -> tuple[SliceScore, ...]:
    """Peak and mean of the judged voxels (not 0) and mean weights of each slice, in the order of the query's
    own slices. shares: the weights of each compared slice, (slices, K); numbers: the slice that each voxel
    was compared in, where the comparison ran on another grid."""
    places = None if numbers is None else slices(canonical_view(numbers.image), plane)
    rows = []
    for number, section in enumerate(slices(canonical_view(anomaly_map.image), plane)):
        judged = section[section != 0]
        peak, mean = (float(judged.max()), float(judged.mean())) if judged.size else (0.0, 0.0)
        own = shares[number].astype(np.float64)
        if places is not None:
            own = np.bincount(places[number].ravel(), minlength=len(shares)) @ shares.astype(np.float64)
        weights = tuple((own / own.sum()).tolist())
        rows.append(SliceScore(slice_index(query, plane, number), peak, mean, weights))
    return tuple(sorted(rows, key=lambda row: row.index))
