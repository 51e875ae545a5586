"""Scores per slice read off the finished volumes, where the comparison ran on another grid."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from D24FADLib.imaging.planes import Plane, slice_index, slices, to_canonical
from D24FADLib.imaging.volume import Volume, array_view
from D24FADLib.inference.detection import SliceScore


def scores_of_slices(
    query: Volume, plane: Plane, anomaly_map: Volume, weights: Sequence[Volume]
) -> tuple[SliceScore, ...]:
    """Peak and mean of the judged voxels (not 0) and mean weights of each slice, in the order of the query's
    own slices. Weights of a slice sum to 1."""
    scores = slices(array_view(to_canonical(anomaly_map.image)), plane)
    shares = np.stack(
        [slices(array_view(to_canonical(w.image)), plane).mean(axis=(1, 2)) for w in weights], axis=1
    )
    rows = []
    for number, section in enumerate(scores):
        judged = section[section != 0]
        peak, mean = (float(judged.max()), float(judged.mean())) if judged.size else (0.0, 0.0)
        own = shares[number] / shares[number].sum()
        rows.append(SliceScore(slice_index(query, plane, number), peak, mean, tuple(own.tolist())))
    return tuple(sorted(rows, key=lambda row: row.index))
