"""The anomaly map as a DICOM Parametric Map (PS3.3 A.75) of 32-bit floats."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from . import codes, headers
from .writing import Context, finish, geometry

if TYPE_CHECKING:
    from highdicom.pm import ParametricMap


def anomaly_parametric_map(
    anomaly_map: NDArray[Any], threshold: float, calibrated: bool, context: Context
) -> ParametricMap:
    """The map's own values; the window shows what lies above half the threshold."""
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
        **_window(low + width / 2, width),
        content_label="ANOMALYMAP",
        content_description="Anomaly score, for research use",
        content_creator_name=None,
        **context.common("map"),
        **geometry(context.placement),
    )
    if context.placement.placed:
        _put_in_order(dataset, values)
    _add_anatomy(dataset, headers.text(context.placement.source.first, "BodyPartExamined"))
    dataset.CodingSchemeIdentificationSequence = [codes.private_scheme()]
    finish(dataset)
    return dataset


def _window(center: float, width: float) -> dict[str, Any]:
    """The window in highdicom's present way, or in that of 0.27, which Slicer bundles."""
    import inspect

    from highdicom import VOILUTTransformation
    from highdicom.pm import ParametricMap

    if "voi_lut_transformations" in inspect.signature(ParametricMap.__init__).parameters:
        return {"voi_lut_transformations": [VOILUTTransformation(window_center=center, window_width=width)]}
    return {"window_center": center, "window_width": width}


def _put_in_order(dataset: ParametricMap, values: NDArray[np.float32]) -> None:
    """Frames in the order of the slices: dcmqi and others take the order of frames for the order in space."""
    orientation = (
        dataset.SharedFunctionalGroupsSequence[0].PlaneOrientationSequence[0].ImageOrientationPatient
    )
    normal = np.cross(np.array(orientation[:3], dtype=float), np.array(orientation[3:], dtype=float))
    groups = list(dataset.PerFrameFunctionalGroupsSequence)
    heights = [
        float(np.array(g.PlanePositionSequence[0].ImagePositionPatient, dtype=float) @ normal) for g in groups
    ]
    ordered = [groups[index] for index in np.argsort(heights)]
    for number, group in enumerate(ordered, start=1):
        group.FrameContentSequence[0].DimensionIndexValues = number
    dataset.PerFrameFunctionalGroupsSequence = ordered
    dataset.FloatPixelData = np.ascontiguousarray(values, dtype="<f4").tobytes()


def _add_anatomy(dataset: ParametricMap, examined: str) -> None:
    """Frame Anatomy (PS3.3 C.7.6.16.2.8): readers such as dcmqi do without everything but this."""
    from pydicom.dataset import Dataset

    region = codes.body_part(examined)
    code, anatomy = Dataset(), Dataset()
    code.CodeValue, code.CodingSchemeDesignator = region.value, region.scheme_designator
    code.CodeMeaning = region.meaning
    anatomy.FrameLaterality = "U"
    anatomy.AnatomicRegionSequence = [code]
    dataset.SharedFunctionalGroupsSequence[0].FrameAnatomySequence = [anatomy]
