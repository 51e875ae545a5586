"""Findings with their measurements as a structured report by template TID 1500 (PS3.16).

Each finding is a TID 1411 volumetric group that refers to its segment; the study's score and each normal
reference are TID 1501 groups. References are called by ordinals: no name, number or UID of theirs is in it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..inference.detection import Finding
from ..wording import counted
from . import codes
from .writing import Context, Reference, finish

if TYPE_CHECKING:
    from highdicom.seg import Segmentation
    from highdicom.sr import (
        AlgorithmIdentification,
        ComprehensiveSR,
        Measurement,
        MeasurementsAndQualitativeEvaluations,
        ObservationContext,
        VolumetricROIMeasurementsAndQualitativeEvaluations,
    )
    from pydicom.dataset import Dataset
    from pydicom.sr.coding import Code


def findings_report(
    findings: Sequence[Finding],
    references: Sequence[Reference],
    study_score: float,
    threshold: float,
    segmentation: Segmentation | None,
    context: Context,
) -> ComprehensiveSR:
    """A complete, unverified report; it may be written without any finding."""
    from highdicom.sr import ComprehensiveSR, MeasurementReport

    source = context.placement.source
    groups: list[
        VolumetricROIMeasurementsAndQualitativeEvaluations | MeasurementsAndQualitativeEvaluations
    ] = []
    if segmentation is not None:
        groups += [
            _finding_group(n, finding, segmentation, context)
            for n, finding in enumerate(sorted(findings, key=lambda f: f.rank), start=1)
        ]
    groups.append(_study_group(findings, study_score, threshold, context))
    groups += [_reference_group(reference) for reference in references]
    images = context.placement.source_images()
    content = MeasurementReport(
        observation_context=_observer(context),
        procedure_reported=codes.procedure(source.modality),
        imaging_measurements=groups,
        referenced_images=images if _describable(images) else None,
    )
    common = context.common("report")
    dataset = ComprehensiveSR(
        evidence=[*images, *([segmentation] if segmentation is not None else [])],
        content=content[0],
        is_complete=True,
        is_final=False,
        is_verified=False,
        coding_schemes=[codes.private_scheme()],
        **common,
    )
    finish(dataset)
    return dataset


def _describable(images: Sequence[Dataset]) -> bool:
    """Whether an image library (TID 1600) can be made; not all images have what its entries need."""
    from highdicom.sr.templates import ImageLibraryEntryDescriptors

    try:
        for image in images:
            ImageLibraryEntryDescriptors(image)
    except (AttributeError, TypeError, ValueError):
        return False
    return True


def _observer(context: Context) -> ObservationContext:
    from highdicom import UID
    from highdicom.sr import DeviceObserverIdentifyingAttributes, ObservationContext, ObserverContext
    from pydicom.sr.codedict import codes as dictionary

    device = ObserverContext(
        observer_type=dictionary.DCM.Device,
        observer_identifying_attributes=DeviceObserverIdentifyingAttributes(
            uid=UID(), name=codes.ALGORITHM, manufacturer_name=codes.MANUFACTURER, model_name=codes.MODEL
        ),
    )
    return ObservationContext(observer_device_context=device)


def _algorithm(context: Context) -> AlgorithmIdentification:
    """TID 4019."""
    from highdicom.sr import AlgorithmIdentification

    parameters = [f"{name}: {value}" for name, value in context.parameters.items()]
    return AlgorithmIdentification(codes.ALGORITHM, context.version, parameters or None)


def _number(name: Code, value: float, unit: Code, derivation: Code | None = None) -> Measurement:
    from highdicom.sr import Measurement

    # A decimal string holds 16 characters (PS3.5 section 6.2).
    return Measurement(name=name, value=float(f"{value:.8g}"), unit=unit, derivation=derivation)


def _extent(finding: Finding) -> list[Measurement]:
    """Its volume; of a single image its area, and nothing where its pixels have no known size."""
    size, unit = finding.size
    if unit == "px":
        return []
    name, code = (codes.volume(), codes.milliliter()) if unit == "ml" else (codes.area(), codes.square_mm())
    return [_number(name, size, code)]


def _finding_group(
    number: int, finding: Finding, segmentation: Segmentation, context: Context
) -> VolumetricROIMeasurementsAndQualitativeEvaluations:
    from highdicom.sr import (
        ReferencedSegment,
        TrackingIdentifier,
        VolumetricROIMeasurementsAndQualitativeEvaluations,
    )

    identifier, uid = context.tracking[finding.rank]
    return VolumetricROIMeasurementsAndQualitativeEvaluations(
        tracking_identifier=TrackingIdentifier(uid=uid, identifier=identifier),
        referenced_segment=ReferencedSegment.from_segmentation(segmentation, segment_number=number),
        finding_category=codes.category(),
        finding_type=codes.finding_type(),
        algorithm_id=_algorithm(context),
        measurements=[
            *_extent(finding),
            _number(codes.score(), finding.peak, codes.no_units(), codes.maximum()),
            _number(codes.score(), finding.mean, codes.no_units(), codes.mean()),
        ],
    )


def _study_group(
    findings: Sequence[Finding], study_score: float, threshold: float, context: Context
) -> MeasurementsAndQualitativeEvaluations:
    from highdicom import UID
    from highdicom.sr import MeasurementsAndQualitativeEvaluations, TrackingIdentifier

    count = counted(len(findings), "candidate finding") if findings else "no candidate findings"
    return MeasurementsAndQualitativeEvaluations(
        tracking_identifier=TrackingIdentifier(uid=UID(), identifier=f"Whole study: {count}"),
        algorithm_id=_algorithm(context),
        measurements=[
            _number(codes.score(), study_score, codes.no_units(), codes.maximum()),
            _number(codes.threshold(), threshold, codes.no_units()),
        ],
    )


def _reference_group(reference: Reference) -> MeasurementsAndQualitativeEvaluations:
    from highdicom import UID
    from highdicom.sr import MeasurementsAndQualitativeEvaluations, TrackingIdentifier

    label = reference.label + (", stands out from the others" if reference.stands_out else "")
    label += f", voxels sha256 {reference.digest}" if reference.digest else ""
    measurements = [
        _number(codes.weight(), reference.mean_weight, codes.no_units(), codes.mean()),
        _number(codes.similarity(), reference.similarity, codes.no_units()),
        _number(codes.overlap(), reference.overlap, codes.no_units()),
    ]
    if reference.leave_one_out_score is not None:
        measurements.append(
            _number(codes.score(), reference.leave_one_out_score, codes.no_units(), codes.maximum())
        )
    return MeasurementsAndQualitativeEvaluations(
        tracking_identifier=TrackingIdentifier(uid=UID(), identifier=label),
        measurements=measurements,
    )
