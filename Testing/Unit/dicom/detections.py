"""Makes Detections for the tests of what is written: random maps and a few boxes as findings."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from dicom_factory import SeriesSpec, write_series

from D24FADLib.dicom.export import KINDS, Exported, export_detection
from D24FADLib.dicom.series import read_files
from D24FADLib.imaging.planes import Plane
from D24FADLib.imaging.volume import Volume
from D24FADLib.inference.detection import Detection, Finding, SupportReport

REFERENCE_NAMES = ("Nightingale^Florentina", "REF-PID-99812")


def detection_for(query: Volume, findings: int = 3, seed: int = 0) -> Detection:
    """A detection on the query's grid; each finding is a box at its own place."""
    rng = np.random.default_rng(seed)
    shape = query.array().shape[:3]
    values = (rng.random(shape) * 3).astype(np.float32)
    labels = np.zeros(shape, np.uint16)
    made = []
    for rank in range(1, findings + 1):
        k = int(rng.integers(shape[0]))
        j, i = (int(rng.integers(0, max(1, size - 4))) for size in shape[1:])
        box = (slice(k, k + 2), slice(j, j + 3), slice(i, i + 4))
        free = labels[box] == 0
        labels[box] = np.where(free, rank, labels[box])
        values[labels == rank] += 5 - 0.5 * rank
    for rank in range(1, findings + 1):
        inside = labels == rank
        if inside.any():
            made.append(
                Finding(
                    rank,
                    float(values[inside].max()),
                    float(values[inside].mean()),
                    float(inside.sum() * query.voxel_volume_ml),
                    (1.0, 2.0, 3.0),
                    (1.0, 2.0, 3.0),
                    0,
                    pixels=int(inside.sum()) if len(labels) == 1 else None,
                    area_mm2=float(inside.sum() * np.prod(query.spacing[:2]))
                    if len(labels) == 1 and query.info.sized
                    else None,
                )
            )
    return Detection(
        query=query,
        plane=Plane.AXIAL,
        anomaly_map=query.with_array(values, "map"),
        residual_map=query.with_array(values, "residual"),
        weights=(),
        expected_normal=query,
        labels=labels,
        findings=tuple(made),
        slices=(),
        supports=_supports(REFERENCE_NAMES),
        threshold=4.0,
        calibrated=True,
        score=6.5,
        warnings=(f"{REFERENCE_NAMES[0]} stands out",),
        record={"supports": list(REFERENCE_NAMES)},
    )


def _supports(names: Sequence[str]) -> tuple[SupportReport, ...]:
    return tuple(
        SupportReport(name, 0.9, 0.97, 1 / len(names), 1.5 if n else None, bool(n), f"note on {name}")
        for n, name in enumerate(names)
    )


def export(tmp_path: Path, spec: SeriesSpec, **kinds: Any) -> tuple[Exported, Detection, list[Path]]:
    """The objects of all kinds for a detection in a written series, in `tmp_path / "out"`; `kinds`: see
    `detection_for`. Also the detection and the series' files."""
    paths = write_series(tmp_path / "source", spec)
    detection = detection_for(read_files(paths, "query").volume, **kinds)
    return export_detection(detection, paths, tmp_path / "out", KINDS), detection, paths
