"""Image and pixel metrics. Higher scores mean more abnormal; labels are 1 for abnormal."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import integrate, ndimage
from sklearn.metrics import average_precision_score, precision_recall_curve, roc_auc_score, roc_curve

Floats = NDArray[np.floating]
SPECIFICITY = 0.9
AUPRO_LIMIT = 0.3  # highest false-positive rate


def image_metrics(labels: NDArray[np.integer], scores: Floats) -> dict[str, float]:
    """auroc, auprc (average precision) and the sensitivity at 90 % specificity."""
    return {
        "auroc": float(roc_auc_score(labels, scores)),
        "auprc": float(average_precision_score(labels, scores)),
        "sensitivity_at_90": sensitivity_at(labels, scores, SPECIFICITY),
    }


def sensitivity_at(labels: NDArray[np.integer], scores: Floats, specificity: float) -> float:
    """The highest share of abnormal images found at a threshold that passes `specificity` of the normals."""
    false, true, _ = roc_curve(labels, scores, drop_intermediate=False)
    return float(true[false <= 1.0 - specificity + 1e-9].max())


def pixel_metrics(masks: NDArray[np.bool_], maps: Floats, threshold: float | None = None) -> dict[str, float]:
    """Over all pixels of all images (N, h, w), normals with empty masks included.

    pixel_auroc, pixel_ap; aupro; dice at the threshold that the method chose without the masks (NaN
    without one), and dice_oracle, the best over all thresholds.
    """
    truth, values = masks.ravel(), maps.ravel()
    precision, recall, _ = precision_recall_curve(truth, values)
    best = np.max(2 * precision * recall / np.maximum(precision + recall, 1e-12))
    return {
        "pixel_auroc": float(roc_auc_score(truth, values)),
        # step-wise sum, as scikit-learn's average_precision_score, from the curve at hand
        "pixel_ap": float(-np.sum(np.diff(recall) * precision[:-1])),
        "aupro": aupro(masks, maps),
        "dice": float("nan") if threshold is None else dice(masks, maps > threshold),
        "dice_oracle": float(best),
    }


def aupro(masks: NDArray[np.bool_], maps: Floats, limit: float = AUPRO_LIMIT) -> float:
    """Area under the per-region overlap (Bergmann et al. 2021) up to a false-positive rate, over `limit`.

    The mean overlap of the connected regions is a true-positive rate in which each region's pixels
    weigh one together.
    """
    weights = np.ones(masks.shape)
    for mask, weight in zip(masks, weights, strict=True):
        regions, count = ndimage.label(mask, np.ones((3, 3)))
        sizes = np.bincount(regions.ravel(), minlength=count + 1)
        weight[mask] = 1.0 / sizes[regions[mask]]
    false, overlap, _ = roc_curve(masks.ravel(), maps.ravel(), sample_weight=weights.ravel())
    end = np.interp(limit, false, overlap)
    kept = false <= limit
    x, y = np.append(false[kept], limit), np.append(overlap[kept], end)
    return float(integrate.trapezoid(y, x) / limit)


def dice(masks: NDArray[np.bool_], found: NDArray[np.bool_]) -> float:
    """Dice of all pixels together."""
    return float(2.0 * (masks & found).sum() / max(masks.sum() + found.sum(), 1))
