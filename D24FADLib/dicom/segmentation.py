"""Findings and map as DICOM Segmentations (PS3.3 A.51)."""

from __future__ import annotations

import colorsys
import copy
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..inference.detection import Finding
from . import codes
from .writing import Context, finish, geometry, long_string, take_sides

if TYPE_CHECKING:
    from highdicom.color import CIELabColor
    from highdicom.seg import Segmentation, SegmentDescription


def findings_segmentation(
    labels: NDArray[Any], findings: Sequence[Finding], context: Context
) -> Segmentation:
    """BINARY, one segment per finding in order of rank; `labels` (k, j, i) holds the ranks."""
    from highdicom.seg import Segmentation, SegmentationTypeValues

    ordered = sorted(findings, key=lambda finding: finding.rank)
    placed = context.placement.arranged(labels)
    numbered = np.zeros(placed.shape, dtype=np.uint16)
    for number, finding in enumerate(ordered, start=1):
        numbered[placed == finding.rank] = number
    dataset = Segmentation(
        source_images=context.placement.source_images(),
        pixel_array=numbered if len(ordered) > 255 else numbered.astype(np.uint8),
        segmentation_type=SegmentationTypeValues.BINARY,
        segment_descriptions=[_finding_segment(n, f, context) for n, f in enumerate(ordered, start=1)],
        content_label="FINDINGS",
        content_description="Candidate findings, for research use",
        content_creator_name=None,
        **context.common("seg"),
        **geometry(context.placement),
    )
    _name_segment_per_frame(dataset)
    take_sides(dataset, context.placement)
    finish(dataset)
    return dataset


def _name_segment_per_frame(dataset: Segmentation) -> None:
    """With one segment highdicom names it once for all frames; most readers look for it in each frame."""
    shared = dataset.SharedFunctionalGroupsSequence[0]
    if "SegmentIdentificationSequence" in shared:
        for group in dataset.PerFrameFunctionalGroupsSequence:
            group.SegmentIdentificationSequence = copy.deepcopy(shared.SegmentIdentificationSequence)
        del shared.SegmentIdentificationSequence


def _finding_segment(number: int, finding: Finding, context: Context) -> SegmentDescription:
    from highdicom.seg import SegmentAlgorithmTypeValues, SegmentDescription

    identifier, uid = context.tracking[finding.rank]
    segment = SegmentDescription(
        segment_number=number,
        segment_label=f"Finding {finding.rank}",
        segmented_property_category=codes.category(),
        segmented_property_type=codes.finding_type(),
        algorithm_type=SegmentAlgorithmTypeValues.AUTOMATIC,
        algorithm_identification=context.algorithm(),
        tracking_uid=uid,
        tracking_id=identifier,
        display_color=_color(number),
    )
    segment.SegmentDescription = (
        f"Candidate finding, research use: peak score {finding.peak:.2f}, mean {finding.mean:.2f}, "
        f"{finding.volume_ml:.2f} ml"
    )
    return segment


def _color(number: int) -> CIELabColor:
    """Reds and oranges first, spread by the golden angle so that neighbours differ."""
    from highdicom.color import CIELabColor

    red, green, blue = colorsys.hsv_to_rgb(((number - 1) * 0.381966) % 1.0, 0.85, 0.95)
    return CIELabColor.from_rgb(round(red * 255), round(green * 255), round(blue * 255))


def map_scale(anomaly_map: NDArray[Any], threshold: float) -> float:
    """The score that a fractional segmentation shows as 1: twice the threshold, or the map's maximum."""
    peak = float(np.nanmax(anomaly_map)) if anomaly_map.size else 1.0
    return max(peak, 2 * threshold, 1e-6) if np.isfinite(threshold) else max(peak, 1e-6)


def fractional_map(anomaly_map: NDArray[Any], threshold: float, context: Context) -> Segmentation:
    """The map as a FRACTIONAL segmentation: score / scale from 0 to 1 in 255 steps."""
    from highdicom.seg import (
        SegmentAlgorithmTypeValues,
        Segmentation,
        SegmentationFractionalTypeValues,
        SegmentationTypeValues,
        SegmentDescription,
    )

    scale = map_scale(anomaly_map, threshold)
    values = context.placement.arranged((anomaly_map / scale).clip(0, 1).astype(np.float32))
    segment = SegmentDescription(
        segment_number=1,
        segment_label="Anomaly map",
        segmented_property_category=codes.category(),
        segmented_property_type=codes.finding_type(),
        algorithm_type=SegmentAlgorithmTypeValues.AUTOMATIC,
        algorithm_identification=context.algorithm(),
    )
    segment.SegmentDescription = (
        f"Anomaly score divided by {scale:.6g} (threshold {threshold:.6g}); no probability. For research use"
    )
    dataset = Segmentation(
        source_images=context.placement.source_images(),
        pixel_array=values[..., np.newaxis],
        segmentation_type=SegmentationTypeValues.FRACTIONAL,
        fractional_type=SegmentationFractionalTypeValues.OCCUPANCY,
        max_fractional_value=255,
        segment_descriptions=[segment],
        content_label="ANOMALYMAP",
        content_description=long_string("Anomaly score scaled to 0..1, for research use"),
        content_creator_name=None,
        omit_empty_frames=False,
        **context.common("fractional"),
        **geometry(context.placement),
    )
    _name_segment_per_frame(dataset)
    take_sides(dataset, context.placement)
    finish(dataset)
    return dataset
