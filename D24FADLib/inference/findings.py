"""Candidate findings: the connected parts of the map above the threshold, strongest first."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from D24FADLib.imaging.planes import Plane, slice_axis
from D24FADLib.imaging.volume import Volume
from D24FADLib.inference.detection import Finding

MAX_FINDINGS = 50


def neighbourhood(shape: tuple[int, ...]) -> NDArray[np.bool_]:
    """Voxels that touch by a face or an edge belong together; in one slice, all eight neighbours."""
    return np.asarray(ndimage.generate_binary_structure(3, 2)) if min(shape) > 1 else np.ones((3, 3, 3), bool)


def find(
    scores: Volume, threshold: float, plane: Plane, min_volume_ml: float
) -> tuple[tuple[Finding, ...], NDArray[np.uint16]]:
    """Findings of a score map and their labels (k, j, i), 0 outside.

    Components smaller than `min_volume_ml` are no findings; at most MAX_FINDINGS are kept. Ranked by
    their peak.
    """
    array = np.asarray(scores.array())
    above, labels = array > threshold, np.zeros(array.shape, np.uint16)
    whole = ndimage.find_objects(above.view(np.int8), 1)[0]
    if whole is None:
        return (), labels
    components, count = ndimage.label(above[whole], neighbourhood(array.shape))
    sizes = np.bincount(components.ravel(), minlength=count + 1)
    least = max(1, round(min_volume_ml / scores.voxel_volume_ml))
    boxes = ndimage.find_objects(components)
    candidates = []
    for number in range(1, count + 1):
        if sizes[number] < least:
            continue
        inside = components[boxes[number - 1]] == number
        sides = zip(whole, boxes[number - 1], strict=True)
        box = tuple(slice(w.start + b.start, w.start + b.stop) for w, b in sides)
        candidates.append((float(array[box][inside].max()), number, box, inside))
    candidates.sort(key=lambda c: (-c[0], c[1]))
    findings = []
    for rank, (_, _, box, inside) in enumerate(candidates[:MAX_FINDINGS], start=1):
        labels[box][inside] = rank
        findings.append(_describe(rank, scores, array, box, inside, plane))
    return tuple(findings), labels


def _describe(
    rank: int,
    scores: Volume,
    array: NDArray[Any],
    box: tuple[slice, ...],
    inside: NDArray[np.bool_],
    plane: Plane,
) -> Finding:
    values = array[box][inside]
    places = np.argwhere(inside) + [side.start for side in box]  # (k, j, i)
    center = np.average(places, axis=0, weights=values - values.min() + 1e-6)
    peak = places[int(values.argmax())]
    flat = scores.is_single_image
    return Finding(
        rank=rank,
        peak=float(values.max()),
        mean=float(values.mean()),
        volume_ml=float(len(values) * scores.voxel_volume_ml),
        center_ras=_ras(scores, center),
        peak_ras=_ras(scores, peak),
        slice=int(peak[2 - slice_axis(scores.image, plane)]),
        pixels=len(values) if flat else None,
        area_mm2=float(len(values) * np.prod(scores.spacing[:2])) if flat and scores.info.sized else None,
    )


def _ras(volume: Volume, kji: NDArray[Any]) -> tuple[float, float, float]:
    left, posterior, superior = volume.image.TransformContinuousIndexToPhysicalPoint(
        [float(v) for v in kji[::-1]]
    )
    return (-left, -posterior, superior)
