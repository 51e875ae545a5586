"""A row of overview.png for a finding: the study's patch, the expected normal's beside it, and why it is
one."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from D24FADLib.inference.detection import Detection, Finding
from D24FADLib.inference.explain import STRIDES

ROWS = 3
_HALF = 1 / 7  # of the slice's longer side, around the peak


def patch_around(
    detection: Detection, finding: Finding, sections: tuple[NDArray[Any], ...], spacing: tuple[float, float]
) -> tuple[NDArray[Any], ...]:
    """The parts of sections (rows, cols[, 3]) around a finding's peak; spacing: mm (row, col).

    The peak is looked for where the finding's own voxels are, on the section that shows it.
    """
    labels, *rest = sections
    hit = np.argwhere(labels == finding.rank)
    row, col = hit.mean(axis=0).round().astype(int) if len(hit) else np.array(labels.shape) // 2
    reach = _HALF * max(labels.shape[0] * spacing[0], labels.shape[1] * spacing[1])
    high, wide = (max(4, round(reach / mm)) for mm in spacing)
    rows = slice(max(0, row - high), min(labels.shape[0], row + high + 1))
    cols = slice(max(0, col - wide), min(labels.shape[1], col + wide + 1))
    return tuple(section[rows, cols] for section in (labels, *rest))


def reasons(detection: Detection, finding: Finding) -> str:
    """What is known of a finding, in a few lines."""
    size, unit = finding.size
    shown = f"{size:.2g}" if unit == "ml" else f"{size:.0f}"
    lines = [f"Finding {finding.rank}: peak {finding.peak:.1f}, {shown} {unit}"]
    if finding.false_positives is not None:
        lines.append(f"as high in a normal study: {finding.false_positives:.2g} on average")
    if finding.departs_by:
        heights = dict(zip(detection.kinds, finding.departures, strict=True))
        words = [f"{kind} ({heights[kind]:.1f})" for kind in finding.departs_by]
        lines.append("departs from the references as: " + ", ".join(words))
    if finding.weights:
        shares = [f"{k}: {w:.0%}" for k, w in enumerate(finding.weights, start=1)]
        lines += ["weight of references " + ", ".join(part) for part in (shares[:4], shares[4:]) if part]
    if finding.nearest_reference is not None:
        lines.append(f"most alike there: reference {finding.nearest_reference}")
    if finding.residuals:
        scales = ", ".join(
            f"{r:.2f} at {stride} px" for stride, r in zip(STRIDES, finding.residuals, strict=True)
        )
        lines.append(f"residual: {scales}")
    return "\n".join(lines)


def draw_finding(
    axes: tuple[Any, Any, Any],
    detection: Detection,
    finding: Finding,
    patches: tuple[NDArray[Any], ...],
    aspect: float,
    window: dict[str, Any],
    ink: str,
) -> None:
    """axes: for the two patches and the text; patches: labels, study, expected normal."""
    labels, study, normal = patches
    for one, picture, title in zip(axes[:2], (study, normal), ("study", "expected normal"), strict=True):
        one.imshow(picture, aspect=aspect, interpolation="bilinear", **window)
        if (labels == finding.rank).any() and min(labels.shape) > 1:
            one.contour(labels == finding.rank, [0.5], colors="#7fe3ff", linewidths=0.9)
        one.set_xticks([])
        one.set_yticks([])
        one.set_facecolor("black")
        one.set_title(title, color=ink, fontsize=8)
    axes[0].set_ylabel(f"finding {finding.rank}", color=ink, fontsize=9)
    axes[2].axis("off")
    axes[2].text(0.0, 0.5, reasons(detection, finding), color=ink, fontsize=8, va="center", linespacing=1.5)
