"""A detection as DICOM objects in the query's own study. The public entry is `export_detection`."""

from __future__ import annotations

import dataclasses
import os
import re
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import InputError, OutputError
from ..inference.detection import Detection
from ..inference.outputs import require_place
from ..inference.undisturbed import undisturbed
from . import headers
from .placement import place
from .source import load_source
from .writing import Context, Reference

if TYPE_CHECKING:
    from highdicom.seg import Segmentation
    from pydicom.dataset import Dataset

KINDS = ("seg", "map", "fractional", "report", "overview", "pdf")
DEFAULT_KINDS = ("seg", "map", "fractional", "report", "overview")
_FILES = {
    "seg": "findings-seg.dcm",
    "map": "anomaly-map.dcm",
    "fractional": "anomaly-map-fractional-seg.dcm",
    "report": "report-sr.dcm",
    "overview": "overview-sc.dcm",
    "pdf": "overview-pdf.dcm",
}


def check_export(folder: Path, kinds: Sequence[str], overwrite: bool) -> None:
    """Raise InputError or OutputError before the work rather than after it."""
    _require_known(kinds)
    require_place(folder)
    if not overwrite and any((folder / name).exists() for name in _FILES.values()):
        raise OutputError(
            f"{folder.name}: holds DICOM results already; choose another folder or say --overwrite"
        )


@dataclass(frozen=True)
class Exported:
    """What was written, by kind, and what was left out and why."""

    files: dict[str, Path]
    notes: tuple[str, ...]


def export_detection(
    detection: Detection,
    source_files: Iterable[str | os.PathLike[str]],
    folder: str | os.PathLike[str],
    kinds: Sequence[str] = DEFAULT_KINDS,
    reference_digests: Sequence[str] = (),
) -> Exported:
    """Write DICOM objects for a detection into `folder`, all of them or none; those of an earlier one go.

    `source_files` are the files of the series that the query was read from; the results take patient and
    study from them, and refer to them by position. `reference_digests` (sha256 of the references' voxels)
    let the department tell later which references were used, without naming them. Raises InputError
    where the files are not the query's, OutputError where nothing can be written.
    """
    _require_known(kinds)
    import highdicom  # noqa: F401  its loggers must exist before they are silenced

    with headers.quiet():
        source = load_source(source_files)
        placement = place(detection.query, source)
        detection, dropped = _with_voxels(detection)
        context = Context(placement, _version(), _parameters(detection), _tracking(detection))
        try:
            datasets, notes = _objects(detection, context, kinds, reference_digests)
        except (ValueError, TypeError, AttributeError, LookupError, RuntimeError) as error:
            # highdicom checks the source's headers as it takes them over; its texts may quote patient data.
            raise InputError(
                f"The query's DICOM headers are too damaged to be inherited from ({type(error).__name__}). "
                "Fetch "
                "the series again, or write the results without DICOM."
            ) from error
        notes += dropped
        if placement.frames is None:
            notes.append(
                "the query's grid is not that of its slices, so the results lie on a grid of their own"
            )
        if not str(source.first.StudyInstanceUID).startswith(("1.", "2.")):
            notes.append("the query's own StudyInstanceUID is not valid; the results carry it all the same")
        return Exported(_write(datasets, Path(folder)), tuple(notes))


def _require_known(kinds: Sequence[str]) -> None:
    unknown = [kind for kind in kinds if kind not in KINDS]
    if unknown or not kinds:
        named = ", ".join(unknown) or "nothing"
        raise InputError(f"{named}: no kind of DICOM result. Choose from {', '.join(KINDS)}.")


def _with_voxels(detection: Detection) -> tuple[Detection, list[str]]:
    """Without findings whose voxels were all erased since (an editor may do so): a segment needs some."""
    present = set(np.unique(detection.labels).tolist())
    kept = tuple(finding for finding in detection.findings if finding.rank in present)
    dropped = len(detection.findings) - len(kept)
    if not dropped:
        return detection, []
    return dataclasses.replace(detection, findings=kept), [f"{dropped} findings without voxels are left out"]


def _objects(
    detection: Detection, context: Context, kinds: Sequence[str], digests: Sequence[str]
) -> tuple[dict[str, Dataset], list[str]]:
    from .parametric_map import anomaly_parametric_map
    from .report import findings_report
    from .segmentation import findings_segmentation, fractional_map

    notes: list[str] = []
    made: dict[str, Dataset] = {}
    references = _references(detection, digests)
    values = np.asarray(detection.anomaly_map.array(), dtype=np.float32)
    segmentation: Segmentation | None = None
    if detection.findings and ("seg" in kinds or "report" in kinds):
        segmentation = findings_segmentation(detection.labels, detection.findings, context)
        made["seg"] = segmentation
    elif "seg" in kinds:
        notes.append("no findings, so there is no segmentation")
    if "map" in kinds and not context.placement.placed:
        notes.append("the images have no positions in the patient, so there is no parametric map")
    elif "map" in kinds:
        made["map"] = anomaly_parametric_map(values, detection.threshold, detection.calibrated, context)
    if "fractional" in kinds:
        made["fractional"] = fractional_map(values, detection.threshold, context)
    if "report" in kinds:
        made["report"] = findings_report(
            detection.findings, references, detection.score, detection.threshold, segmentation, context
        )
    if "overview" in kinds or "pdf" in kinds:
        notes += _add_page(made, detection, references, context, kinds)
    return made, notes


def _add_page(
    made: dict[str, Dataset],
    detection: Detection,
    references: Sequence[Reference],
    context: Context,
    kinds: Sequence[str],
) -> list[str]:
    from .overview import draw, encapsulated_pdf, secondary_capture

    placement = context.placement
    image = np.asarray(detection.query.array())
    if image.ndim == 4:
        channels = [placement.arranged(image[..., c]) for c in range(3)]
        shown = np.stack(channels, axis=-1)
    else:
        shown = placement.arranged(image)
    try:
        figure = draw(
            shown,
            placement.arranged(np.asarray(detection.anomaly_map.array())),
            placement.arranged(detection.labels),
            detection.findings,
            references,
            detection.threshold,
            placement.spacing[0] / placement.spacing[1],
            placement.orientation if placement.placed else (),
        )
    except ImportError:
        return ["matplotlib is not installed, so there is no overview page; install d24fad[report]"]
    if "overview" in kinds:
        made["overview"] = secondary_capture(figure, context)
    if "pdf" in kinds:
        made["pdf"] = encapsulated_pdf(figure, context)
    return []


def _write(datasets: dict[str, Dataset], folder: Path) -> dict[str, Path]:
    """Through a folder in the target, so that the files appear whole and never beside another run's."""
    written: dict[str, Path] = {}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".d24fad-", dir=folder) as name:
            for kind, dataset in datasets.items():
                dataset.save_as(Path(name, _FILES[kind]), enforce_file_format=True)
            with undisturbed():
                for kind, file in _FILES.items():
                    if kind in datasets:
                        os.replace(Path(name, file), folder / file)
                        written[kind] = folder / file
                    else:
                        (folder / file).unlink(missing_ok=True)
    except OSError as error:
        why = error.strerror or error
        raise OutputError(f"{folder.name}: results cannot be written there ({why}).") from error
    return written


def _version() -> str:
    import D24FADLib

    return str(getattr(D24FADLib, "__version__", "0.1.0"))


def _tracking(detection: Detection) -> dict[int, tuple[str, str]]:
    from highdicom import UID

    return {f.rank: (f"D24FAD finding {f.rank}", str(UID())) for f in detection.findings}


def _parameters(detection: Detection) -> dict[str, str]:
    """What of the run belongs into the objects: numbers that were chosen, no names."""
    return {
        "Threshold": f"{detection.threshold:.6g}",
        "Calibrated": "yes" if detection.calibrated else "no",
        "Normal references": str(len(detection.supports)),
    }


def _references(detection: Detection, digests: Sequence[str]) -> list[Reference]:
    def finite(value: Any) -> float:
        return float(value) if value is not None and np.isfinite(value) else 0.0

    found = []
    for ordinal, support in enumerate(detection.supports, start=1):
        digest = digests[ordinal - 1] if ordinal <= len(digests) else ""
        found.append(
            Reference(
                ordinal,
                finite(support.mean_weight),
                finite(support.similarity),
                finite(support.overlap),
                support.leave_one_out_score,
                support.stands_out,
                digest[:16] if re.fullmatch(r"[0-9a-f]{16,64}", digest) else "",
            )
        )
    return found
