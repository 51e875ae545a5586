"""run.json: what went in, what was asked, what came out, with which versions. Holds no patient data."""

from __future__ import annotations

import datetime
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from D24FADLib import __version__
from D24FADLib.imaging.volume import Volume
from D24FADLib.inference.checks import as_records

if TYPE_CHECKING:
    from D24FADLib.inference.detection import Detection

NOTICE = "Research use only; not a diagnosis."
_OF_MODEL = ("teacher", "evidence", "pictures", "volumes", "input_size", "sha256")
_BLAND = 0.01  # share of normal studies below which a low score is worth a word


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
        "departure from the references in brightness, noise and texture together; 4: a reference's own "
        "strongest departure from the others"
        if detection.kinds
        else "standard deviations of the log residual among the references (each judged by the others)"
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
            **{key: metadata["d24fad"].get(key) for key in _OF_MODEL},
        },
        "options": {key: getattr(value, "value", value) for key, value in options.items()},
        "query": describe_volume(detection.query),
        "supports": [
            {**describe_volume(volume), **asdict(report)}
            for volume, report in zip(supports, detection.supports, strict=True)
        ],
        "plane": detection.plane.value,
        "map_units": units,
        "map_kinds": list(detection.kinds),
        "map_heights": detection.heights,  # what so many of a normal study's positions exceed
        "threshold": detection.threshold,
        "threshold_meaning": _threshold_meaning(detection, options),
        "score": detection.score,
        "p_value": detection.p_value,
        "p_value_low": detection.p_value_low,
        "score_meaning": score_meaning(detection),
        "suitable": detection.suitable,
        "min_volume_ml": detection.min_volume_ml,
        "findings": [asdict(finding) for finding in detection.findings],
        "checks": as_records(detection.checks),
        "warnings": list(detection.warnings),
        "seconds": dict(seconds),
    }


def score_meaning(detection: Detection) -> str:
    """The study's score in words."""
    if not detection.suitable:
        return "none: the study does not suit its references"
    if detection.p_value is None or detection.p_value_low is None:
        return "not calibrated: a meaning needs at least two references"
    words = f"a normal study scores this high in {_percent(detection.p_value)} of cases"
    if detection.p_value_low < _BLAND:
        low = _percent(detection.p_value_low)
        words += f", and this low in only {low}: the study is unusually bland, or smoothed"
    return words


def _percent(share: float) -> str:
    if share > 0.99:
        return "more than 99 %"
    return "less than 0.1 %" if share < 0.001 else f"{100 * share:.2g} %"


def _threshold_meaning(detection: Detection, options: Mapping[str, Any]) -> str:
    if options.get("threshold") is not None:
        return "as given"
    if not detection.calibrated:
        return "median + 6 robust standard deviations of the study's own residuals; not calibrated"
    return (
        f"a normal study has {options['false_positives_per_study']:g} findings on average at this threshold, "
        "as far as the references, each judged by the others, tell"
    )
