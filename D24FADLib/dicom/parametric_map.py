"""The anomaly map as a DICOM Parametric Map (PS3.3 A.75) of 32-bit floats."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from . import codes
from .writing import Context, finish, geometry

if TYPE_CHECKING:
    from highdicom.pm import ParametricMap


def anomaly_parametric_map(
    anomaly_map: NDArray[Any], threshold: float, calibrated: bool, context: Context
) -> ParametricMap:
    """The map's own values; the window shows what lies above half the threshold."""
    from highdicom import VOILUTTransformation
    from highdicom.pm import ParametricMap, RealWorldValueMapping

    values = context.placement.arranged(anomaly_map.astype(np.float32))
    low, high = float(values.min()), float(values.max())
    explanation = (
        "standard deviations of the references' variation" if calibrated else "residual, not calibrated"
    )
    mapping = RealWorldValueMapping(
        lut_label="ANOMALY",
        lut_explanation=f"Anomaly score: {explanation}",
        unit=codes.no_units(),
        value_range=(low, high if high > low else low + 1.0),
        slope=1.0,
        intercept=0.0,
        quantity_definition=codes.score(),
    )
    width = max(high, 2 * threshold if np.isfinite(threshold) else 0.0, low + 1e-3) - low
    dataset = ParametricMap(
        source_images=context.placement.source_images(),
        pixel_array=values,
        contains_recognizable_visual_features=False,
        real_world_value_mappings=[mapping],
        voi_lut_transformations=[VOILUTTransformation(window_center=low + width / 2, window_width=width)],
        content_label="ANOMALYMAP",
        content_description="Anomaly score, for research use",
        content_creator_name=None,
        **context.common("map"),
        **geometry(context.placement),
    )
    dataset.CodingSchemeIdentificationSequence = [codes.private_scheme()]
    finish(dataset)
    return dataset
