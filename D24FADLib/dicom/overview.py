"""One page for archives and viewers that show nothing else: a secondary capture and an encapsulated PDF.

The page is drawn here, from the detection's numbers and voxels alone, so that no file or folder name of a
reference can come into its pixels.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..inference.detection import Finding
from . import codes
from .writing import Context, Reference, finish

if TYPE_CHECKING:
    from highdicom.sc import SCImage
    from matplotlib.figure import Figure
    from pydicom.dataset import Dataset

_SHOWN_FROM, _FULL_SCALE = 0.7, 2.0  # of the threshold
_ENCAPSULATED_PDF = "1.2.840.10008.5.1.4.1.1.104.1"


def draw(
    image: NDArray[Any],
    anomaly_map: NDArray[Any],
    labels: NDArray[Any],
    findings: Sequence[Finding],
    references: Sequence[Reference],
    threshold: float,
    step_ratio: float = 1.0,
    orientation: Sequence[float] = (),
) -> Figure:
    """The page as a figure. Arrays are (slice, row, column[, 3]) as arranged by the placement; `orientation`
    holds the direction cosines of rows and columns (LPS), where they are known."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11.69, 8.27), dpi=100, facecolor="white")
    FigureCanvasAgg(figure)
    figure.text(0.02, 0.955, f"D24FAD: candidate findings.  {codes.RESEARCH}, not a diagnosis", fontsize=14)
    sides = _sides(orientation)
    for place, index in enumerate(_shown_slices(anomaly_map, labels)):
        for row, overlay in enumerate((False, True)):
            axes = figure.add_axes((0.02 + 0.161 * place, 0.66 - 0.29 * row, 0.152, 0.27))
            _draw_slice(
                axes,
                image[index],
                anomaly_map[index] if overlay else None,
                labels[index],
                threshold,
                step_ratio,
            )
            axes.set_title(f"slice {index + 1}" if not overlay else "", fontsize=8, pad=2)
            for letter, (x, y) in zip(sides, ((0.03, 0.5), (0.5, 0.96)), strict=False):
                axes.text(x, y, letter, color="yellow", fontsize=8, va="center", transform=axes.transAxes)
    note = f"map from {_SHOWN_FROM:.1f} to {_FULL_SCALE:.1f} of the threshold; outlined: findings"
    figure.text(0.02, 0.35, note, fontsize=8, color="gray")
    figure.text(0.02, 0.33, _findings_text(findings), fontsize=9, va="top", family="monospace")
    figure.text(0.55, 0.33, _references_text(references, threshold), fontsize=9, va="top", family="monospace")
    return figure


def _sides(orientation: Sequence[float]) -> tuple[str, ...]:
    """The patient's side (PS3.3 C.7.6.1.1.1) at the left and at the top of the picture."""
    letters = (("R", "L"), ("A", "P"), ("F", "H"))
    directions = np.asarray(orientation, dtype=float).reshape(-1, 3)
    axes = [int(np.abs(direction).argmax()) for direction in directions]
    # The picture's left and top are where rows and columns come from.
    return tuple(letters[a][int(d[a] < 0)] for a, d in zip(axes, directions, strict=True))


def _shown_slices(anomaly_map: NDArray[Any], labels: NDArray[Any]) -> list[int]:
    """Up to six slices, in order: the peaks of the strongest findings, then the highest of the map, not
    next to another."""
    chosen: list[int] = []
    for rank in range(1, int(labels.max()) + 1):
        inside = np.where(labels == rank, anomaly_map, -np.inf)
        if np.isfinite(inside).any():
            chosen.append(int(inside.reshape(len(labels), -1).max(axis=1).argmax()))
    peaks = anomaly_map.reshape(len(anomaly_map), -1).max(axis=1)
    apart = max(2, len(peaks) // 20)
    for index in np.argsort(-peaks):
        if all(abs(int(index) - other) >= apart for other in chosen):
            chosen.append(int(index))
    return sorted(list(dict.fromkeys(chosen))[:6])


def _draw_slice(
    axes: Any,
    image: NDArray[Any],
    score: NDArray[Any] | None,
    labels: NDArray[Any],
    threshold: float,
    ratio: float,
) -> None:
    axes.set_axis_off()
    low, high = np.percentile(image, (1, 99.5)) if image.ndim == 2 else (0, 255)
    axes.imshow(image, cmap="gray", vmin=low, vmax=max(high, low + 1e-6), aspect=ratio)
    if score is not None:
        shown = np.ma.masked_less(score, _SHOWN_FROM * threshold)
        top = max(_FULL_SCALE * threshold, 1e-6)
        axes.imshow(shown, cmap="inferno", vmin=0, vmax=top, alpha=0.6, aspect=ratio)
        if (labels > 0).any() and min(labels.shape) > 1:
            axes.contour(labels > 0, levels=[0.5], colors="cyan", linewidths=0.7)


def _findings_text(findings: Sequence[Finding]) -> str:
    if not findings:
        return "No candidate findings above the threshold."
    lines = ["rank   peak   mean     ml   centre R, A, S (mm)"]
    for finding in sorted(findings, key=lambda f: f.rank)[:12]:
        r, a, s = finding.center_ras
        lines.append(
            f"{finding.rank:4d} {finding.peak:6.2f} {finding.mean:6.2f} {finding.volume_ml:6.2f}   "
            f"{r:.0f}, {a:.0f}, {s:.0f}"
        )
    if len(findings) > 12:
        lines.append(f"and {len(findings) - 12} more in the segmentation")
    return "\n".join(lines)


def _references_text(references: Sequence[Reference], threshold: float) -> str:
    lines = [f"threshold {threshold:.2f}", "normal reference   weight   similarity"]
    for reference in references[:12]:
        note = "   stands out" if reference.stands_out else ""
        lines.append(
            f"{reference.ordinal:16d}   {reference.mean_weight:6.2f}   {reference.similarity:10.2f}{note}"
        )
    return "\n".join(lines)


def page_pixels(figure: Figure) -> NDArray[np.uint8]:
    """The drawn page as RGB."""
    canvas: Any = figure.canvas
    canvas.draw()
    return np.ascontiguousarray(np.asarray(canvas.buffer_rgba())[..., :3])


def _patient_and_study(context: Context) -> dict[str, Any]:
    """The query's patient and study, for objects that highdicom does not fill from a source image."""
    header = context.placement.source.first
    return {
        "study_instance_uid": header.StudyInstanceUID,
        "patient_id": header.PatientID,
        "patient_name": header.PatientName,
        "patient_birth_date": header.PatientBirthDate,
        "patient_sex": header.PatientSex or None,
        "accession_number": header.AccessionNumber,
        "study_id": header.StudyID,
        "study_date": header.StudyDate or None,
        "study_time": header.StudyTime or None,
        "referring_physician_name": header.ReferringPhysicianName,
    }


def secondary_capture(figure: Figure, context: Context) -> SCImage:
    """The page as a Secondary Capture Image (PS3.3 A.8.1)."""
    from highdicom.sc import SCImage

    image = SCImage(
        pixel_array=page_pixels(figure),
        photometric_interpretation="RGB",
        bits_allocated=8,
        coordinate_system="PATIENT",
        patient_orientation=("L", "F"),
        **_patient_and_study(context),
        **context.common("overview"),
    )
    image.BurnedInAnnotation = "NO"  # the page shows no identity
    finish(image)
    return image


def encapsulated_pdf(figure: Figure, context: Context) -> Dataset:
    """The page as an Encapsulated PDF (PS3.3 A.45.1), which highdicom has no class for."""
    from highdicom.base import SOPClass

    buffer = io.BytesIO()
    figure.savefig(buffer, format="pdf", metadata={"Title": "D24FAD overview", "CreationDate": None})
    document = buffer.getvalue()
    dataset = SOPClass(
        sop_class_uid=_ENCAPSULATED_PDF,
        modality="DOC",
        transfer_syntax_uid="1.2.840.10008.1.2.1",
        **_patient_and_study(context),
        **context.common("pdf"),
    )
    dataset.ConversionType = "WSD"
    dataset.BurnedInAnnotation = "NO"
    dataset.AcquisitionDateTime = ""
    dataset.DocumentTitle = "D24FAD overview, research use only"
    dataset.ConceptNameCodeSequence = []
    dataset.MIMETypeOfEncapsulatedDocument = "application/pdf"
    dataset.EncapsulatedDocument = document + b"\0" * (len(document) % 2)
    dataset.EncapsulatedDocumentLength = len(document)
    finish(dataset)
    return dataset
