"""run.json: what went in, what was asked, what came out, with which versions. Holds no patient data."""

from __future__ import annotations

import datetime
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from D24FADLib import __version__
from D24FADLib.imaging.volume import Volume

if TYPE_CHECKING:
    from D24FADLib.inference.detection import Detection

NOTICE = "Research use only; not a diagnosis."


def describe_volume(volume: Volume) -> dict[str, Any]:
    """A volume for the record: identified by UIDs and checksum."""
    info = volume.info
    return {
        "name": volume.name,
        "modality": info.modality,
        "study_uid": info.study_uid,
        "series_uid": info.series_uid,
        "size": list(volume.size),
        "spacing_mm": [round(s, 6) for s in volume.spacing],
        "sha256": volume.content_hash(),
    }


def run_record(
    detection: Detection,
    supports: Sequence[Volume],
    options: Mapping[str, Any],
    metadata: Mapping[str, Any],
    seconds: Mapping[str, float],
    device: Mapping[str, Any],
) -> dict[str, Any]:
    """The record of one detection, ready for JSON."""
    import SimpleITK as sitk

    units = (
        "standard deviations of the log residual among the references (each judged by the others)"
        if detection.calibrated
        else "raw residual: sum over scales of 1 - cosine"
    )
    return {
        "notice": NOTICE,
        "written": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "versions": {
            "d24fad": __version__,
            "python": platform.python_version(),
            "SimpleITK": sitk.Version.VersionString(),
            "torch": device.get("torch"),
        },
        "device": dict(device),
        "model": {
            "name": metadata.get("name", ""),
            "version": metadata.get("version", ""),
            **{key: metadata["d24fad"].get(key) for key in ("teacher", "evidence", "input_size", "sha256")},
        },
        "options": {key: getattr(value, "value", value) for key, value in options.items()},
        "query": describe_volume(detection.query),
        "supports": [
            {**describe_volume(volume), **asdict(report)}
            for volume, report in zip(supports, detection.supports, strict=True)
        ],
        "plane": detection.plane.value,
        "map_units": units,
        "threshold": detection.threshold,
        "threshold_meaning": _threshold_meaning(detection, options),
        "score": detection.score,
        "min_volume_ml": detection.min_volume_ml,
        "findings": [asdict(finding) for finding in detection.findings],
        "warnings": list(detection.warnings),
        "seconds": dict(seconds),
    }


def _threshold_meaning(detection: Detection, options: Mapping[str, Any]) -> str:
    if options.get("threshold") is not None:
        return "as given"
    if not detection.calibrated:
        return "median + 6 robust standard deviations of the study's own residuals; not calibrated"
    return (
        f"the references, each judged by the others, have at most {options['false_positives_per_study']:g} "
        "findings a study on average at this threshold"
    )
