"""overview.png: the worst slices as study, expected normal and map over study, the strongest findings with
their explanation, and the slice scores."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from D24FADLib.errors import InputError
from D24FADLib.imaging.planes import canonical_view, in_plane_spacing, slices
from D24FADLib.imaging.volume import Volume
from D24FADLib.inference.checks import REFUSE
from D24FADLib.inference.detection import Detection
from D24FADLib.inference.overview_findings import ROWS as FINDINGS
from D24FADLib.inference.overview_findings import draw_finding, patch_around
from D24FADLib.inference.record import NOTICE, score_meaning

ROWS = 4
_EXPLAINED = 1.9  # inches of a finding's row
_INK, _QUIET, _ACCENT = "#e8e8e8", "#9a9a9a", "#ff7a45"
_PAPER = "#161616"


def worst_slices(detection: Detection, count: int = ROWS) -> list[int]:
    """Positions in `detection.slices` of the highest peaks, not closer than a twentieth of the stack, in
    order of their place."""
    order = sorted(range(len(detection.slices)), key=lambda n: -detection.slices[n].peak)
    apart = max(2, len(order) // 20)
    chosen: list[int] = []
    for number in order:
        if len(chosen) < count and all(abs(number - other) >= apart for other in chosen):
            chosen.append(number)
    return sorted(chosen)


def draw_overview(detection: Detection, path: Path) -> None:
    """Write the picture; InputError if matplotlib is not installed."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        raise InputError("overview.png needs matplotlib: pip install 'd24fad[report]'") from None
    from D24FADLib.imaging.planes import slice_index

    def cut(volume: Volume) -> NDArray[Any]:
        return slices(canonical_view(volume.image), detection.plane)

    study, normal, scores = cut(detection.query), cut(detection.expected_normal), cut(detection.anomaly_map)
    row_mm, col_mm = in_plane_spacing(detection.query.image, detection.plane)
    chosen = worst_slices(detection)
    explained = detection.findings[:FINDINGS]
    height, width = study.shape[1] * row_mm, study.shape[2] * col_mm
    cell = 3.0
    tall = cell * min(1.6, max(0.5, height / width))
    curve = 1.7 if len(detection.slices) > 1 else 0.0
    figure = Figure(
        figsize=(3 * cell + 1.2, len(chosen) * tall + len(explained) * _EXPLAINED + curve + 1.3),
        facecolor=_PAPER,
        layout="constrained",
    )
    FigureCanvasAgg(figure)
    heights = [tall] * len(chosen) + [_EXPLAINED] * len(explained) + ([curve] if curve else [])
    grid = figure.add_gridspec(len(heights), 3, height_ratios=heights)
    window = _window(study)
    top = max(detection.threshold * 1.5, float(np.percentile(scores, 99.99)))
    shown = None
    for row, number in enumerate(chosen):
        # Slices are drawn in canonical order; their numbers are the query's own.
        own = detection.slices[number].index
        canonical = slice_index(detection.query, detection.plane, own)
        for column, picture in enumerate((study, normal, study)):
            axes = figure.add_subplot(grid[row, column])
            axes.set_facecolor("black")
            axes.set_xticks([])
            axes.set_yticks([])
            axes.imshow(picture[canonical], aspect=row_mm / col_mm, interpolation="bilinear", **window)
            if column == 0:
                axes.set_ylabel(f"slice {own}", color=_INK, fontsize=9)
            if row == 0:
                titles = ("study", "expected normal", "map over study")
                axes.set_title(titles[column], color=_INK, fontsize=10)
            if column == 2:
                section = scores[canonical]
                shown = axes.imshow(
                    np.ma.masked_less(section, 0.7 * detection.threshold),
                    cmap="inferno", vmin=0, vmax=top, alpha=0.65,
                    aspect=row_mm / col_mm, interpolation="bilinear",
                )  # fmt: skip
                if section.max() > detection.threshold and min(section.shape) > 1:
                    axes.contour(section, [detection.threshold], colors="#7fe3ff", linewidths=0.8)
    if shown is not None:
        images = [a for a in figure.axes if a.get_title() != ""] or figure.axes
        bar = figure.colorbar(shown, ax=images[-1:], shrink=0.9, pad=0.02)
        unit = "score against the references" if detection.calibrated else "raw residual"
        bar.set_label(unit, color=_QUIET, fontsize=8)
        bar.ax.tick_params(colors=_QUIET, labelsize=7)
    label_slices = cut(detection.query.with_array(detection.labels, "labels"))
    for row, finding in enumerate(explained, start=len(chosen)):
        at = slice_index(detection.query, detection.plane, finding.slice)
        sections = (label_slices[at], study[at], normal[at])
        draw_finding(
            tuple(figure.add_subplot(grid[row, column]) for column in range(3)),  # type: ignore[arg-type]
            detection, finding, patch_around(detection, finding, sections, (row_mm, col_mm)),
            row_mm / col_mm, window, _INK,
        )  # fmt: skip
    if curve:
        _draw_curve(figure.add_subplot(grid[-1, :]), detection, chosen)
    count = len(detection.findings)
    title = f"{count} candidate finding{'s' * (count != 1)} above {detection.threshold:.2f}, study score "
    title += f"{detection.score:.2f}: {score_meaning(detection)}."
    refused = [check.message for check in detection.checks if check.severity == REFUSE]
    figure.suptitle("\n".join([title, *refused, NOTICE]), color=_INK, fontsize=10, wrap=True)
    # No software or date stamp: the same detection gives the same file.
    figure.savefig(path, dpi=110, facecolor=_PAPER, metadata={"Software": None})


def _window(study: NDArray[Any]) -> dict[str, Any]:
    if study.ndim == 4:
        return {}
    low, high = np.percentile(study[:: max(1, len(study) // 16)], (1, 99.7))
    return {"cmap": "gray", "vmin": float(low), "vmax": float(max(high, low + 1e-6))}


def _draw_curve(axes: Any, detection: Detection, chosen: list[int]) -> None:
    x = [row.index for row in detection.slices]
    axes.set_facecolor(_PAPER)
    axes.plot(
        x, [row.peak for row in detection.slices], color=_ACCENT, linewidth=1.4, label="peak of the slice"
    )
    axes.axhline(detection.threshold, color="#7fe3ff", linewidth=0.8, linestyle="--", label="threshold")
    for number in chosen:
        axes.axvline(x[number], color=_QUIET, linewidth=0.6)
    axes.set_xlabel(f"{detection.plane.value} slice", color=_QUIET, fontsize=8)
    axes.set_ylabel("score", color=_QUIET, fontsize=8)
    axes.tick_params(colors=_QUIET, labelsize=7)
    axes.margins(x=0.01)
    for side in axes.spines.values():
        side.set_color("#444444")
    axes.legend(fontsize=7, labelcolor=_QUIET, frameon=False, loc="upper right", ncols=2)
