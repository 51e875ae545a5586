"""The one public entry: `detect(query, supports, ...) -> Detection`."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from D24FADLib.errors import Cancelled
from D24FADLib.imaging.planes import from_canonical, slice_index, unslices
from D24FADLib.imaging.volume import Volume
from D24FADLib.inference.calibration import (
    Calibration,
    calibrate,
    depth_below_surface,
    robust_maximum,
    smooth,
    threshold_for,
)
from D24FADLib.inference.detection import Detection, SliceScore, SupportReport
from D24FADLib.inference.findings import find, neighbourhood
from D24FADLib.inference.options import DetectionOptions
from D24FADLib.inference.record import run_record

if TYPE_CHECKING:
    from D24FADLib.inference.comparison import Comparison
    from D24FADLib.inference.preparation import Prepared

Progress = Callable[[str, int, int], None]

STEPS = ("model", "align", "prepare", "compare", "calibrate", "findings")
_STANDS_OUT = 3.0  # robust z of a support's own score among the supports
_UNJUDGED = 0.02  # share of the body from which on the reader is told


def detect(
    query: Volume,
    supports: Sequence[Volume],
    options: DetectionOptions | None = None,
    *,
    progress: Progress | None = None,
    should_cancel: Callable[[], bool] | None = None,
    **changes: Any,
) -> Detection:
    """Find where the query departs from the supports.

    `changes` are fields of DetectionOptions by name (plane="axial", align="rigid", device="cpu", ...), on
    top of `options`. TypeError for an unknown one, ValueError for a plane or alignment that does not exist.
    `progress(step, done, total)` is called in this thread with the STEPS. `should_cancel` is asked
    between batches. The same input gives the same output, bit for bit, on one machine's CPU.
    Raises InputError, ModelError, Cancelled, and MemoryError where the device is too small.
    """
    import torch

    from D24FADLib.inference.batches import workers_on
    from D24FADLib.inference.comparison import Comparer, Evidence, compare
    from D24FADLib.inference.devices import choose_device, default_batch
    from D24FADLib.inference.inputs import check_inputs
    from D24FADLib.inference.models import load_model
    from D24FADLib.inference.reference_set import prepare_for
    from D24FADLib.inference.runtimes import choose_encoder
    from D24FADLib.inference.slice_scores import scores_of_slices

    options = replace(options or DetectionOptions(), **changes)
    tell: Progress = progress or (lambda step, done, total: None)
    clock = _Clock()
    misfits = check_inputs(query, supports, options.unsuitable_anyway)
    device = choose_device(options.device)
    tell("model", 0, 1)
    model, metadata = load_model(options.model)
    about = metadata["d24fad"]
    clock.lap("model")
    tell("model", 1, 1)

    checksum = "".join(about["sha256"].values())
    encoder = choose_encoder(
        options.runtime,
        model,
        device,
        checksum if options.cache else None,
        options.precision,
        workers_on(device),
    )
    comparer = Comparer(model, Evidence(**about.get("evidence", {})), device, encoder)
    size = int(about.get("input_size", 256))
    batch = options.batch or default_batch(device, 1 + len(supports))
    prepared = prepare_for(query, supports, options, comparer, size, batch, checksum, tell, should_cancel)
    clock.lap("prepare")
    compared = compare(prepared, comparer, size, batch, tell, should_cancel)
    clock.lap("compare")

    tell("calibrate", 0, 1)
    scored = _Scored(prepared, compared)
    threshold = options.threshold
    if threshold is None:
        threshold = scored.threshold(options.false_positives_per_study)
    clock.lap("calibrate")
    tell("calibrate", 1, 1)
    if should_cancel and should_cancel():
        raise Cancelled("Detection was cancelled.")

    tell("findings", 0, 1)
    place = _Placement(query, prepared)
    anomaly_map = place.volume(scored.scores, "anomaly_map")
    findings, labels = find(anomaly_map, threshold, prepared.plane, scored.min_volume_ml)
    shares = _all_shares(compared.weights.mean(axis=1), prepared)
    warnings = [*misfits, *prepared.warnings, *compared.notes]
    reports = _support_reports(supports, prepared, scored, compared)
    warnings += [
        f"{r.name} stands out against the other references: is it normal, and of the same protocol?"
        for r in reports
        if r.stands_out
    ]
    if scored.unjudged > _UNJUDGED:
        warnings.append(
            f"{scored.unjudged:.0%} of the study's body was not judged: fewer than half of the references "
            "reach it."
        )
    if scored.calibration is None:
        warnings.append("The map is a raw residual: a meaning needs at least two references.")
    weights = tuple(place.per_slice(shares[:, k], f"weights_{k + 1:02d}") for k in range(len(supports)))
    detection = Detection(
        query=query,
        plane=prepared.plane,
        anomaly_map=anomaly_map,
        residual_map=place.volume(scored.residual, "residual_map"),
        weights=weights,
        expected_normal=place.expected_normal(shares),
        labels=labels,
        findings=findings,
        slices=(
            scores_of_slices(query, prepared.plane, anomaly_map, weights)
            if prepared.home
            else _slice_scores(query, prepared, scored, shares)
        ),
        supports=reports,
        threshold=float(threshold),
        calibrated=scored.calibration is not None,
        score=scored.score,
        min_volume_ml=scored.min_volume_ml,
        warnings=tuple(warnings),
        record={},
    )
    clock.lap("findings")
    tell("findings", 1, 1)
    detection.record.update(
        run_record(
            detection, supports, asdict(options), metadata, clock.seconds,
            {
                "type": str(device), "runtime": encoder.name, "precision": encoder.precision,
                "torch": torch.__version__, "batch": batch,
            },
        )
    )  # fmt: skip
    return detection


class _Clock:
    """Seconds per stage."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._last = time.perf_counter()

    def lap(self, stage: str) -> None:
        now = time.perf_counter()
        self.seconds[stage] = round(now - self._last, 3)
        self._last = now


class _Scored:
    """Residuals of the box turned into scores, all on the feature grid (n, h, w)."""

    def __init__(self, prepared: Prepared, compared: Comparison) -> None:
        from D24FADLib.inference.preparation import on_grid

        box_shape = [side.stop - side.start for side in prepared.box]
        grid = compared.full.shape
        # mm of one position along slice, row, column
        self.pitch = (
            prepared.spacing[0],
            prepared.spacing[1] * box_shape[1] / grid[1],
            prepared.spacing[2] * box_shape[2] / grid[2],
        )
        # One feature position is the paper's sigma of 4 pixels; across slices the same distance, one
        # slice at most, so that thin findings in thick slices survive.
        in_plane = (self.pitch[1] + self.pitch[2]) / 2
        sigma = (min(in_plane / self.pitch[0], 1.0) if grid[0] > 1 else 0.0, 1.0, 1.0)
        # With less than half of the references there, nothing of what follows would hold.
        reached = compared.covered >= max(1, (compared.weights.shape[-1] + 1) // 2)
        inside = on_grid(prepared.body[prepared.box], grid[1:])
        self.unjudged = float((inside & ~reached).sum() / max(inside.sum(), 1))
        self.body = inside & reached
        full = np.where(reached, compared.full, np.nan).astype(np.float32)
        self.residual = np.nan_to_num(smooth(full, sigma))
        self.calibration: Calibration | None = None
        if compared.left_out is not None and compared.reduced is not None:
            left_out = np.stack([smooth(one, sigma) for one in compared.left_out])
            self.calibration = calibrate(left_out, self.pitch)
            # Where one support reaches, K - 1 of them may be none: there the full comparison has to do.
            reduced = np.where(compared.covered > 1, compared.reduced, full)
            depth = depth_below_surface(inside, self.pitch)
            scores = np.nan_to_num(self.calibration.scores(smooth(reduced, sigma), depth))
        else:
            scores = self.residual
        self.scores = np.where(self.body, scores, 0).astype(np.float32)
        self.score = robust_maximum(self.scores[self.body])

    @property
    def min_volume_ml(self) -> float:
        """One feature position and slice: what is smaller is not resolved."""
        return float(np.prod(self.pitch)) / 1000.0

    def threshold(self, false_positives: float) -> float:
        if self.calibration is None:
            # Without a second reference only the study itself says what is usual in it.
            values = self.scores[self.body]
            if not values.size:
                return 1.0
            middle = float(np.median(values))
            return middle + 6.0 * 1.4826 * float(np.median(np.abs(values - middle)))
        return threshold_for(
            self.calibration.support_scores, false_positives, 2, neighbourhood(self.scores.shape)
        )


class _Placement:
    """Takes slices and feature grids back to exactly the query's grid."""

    def __init__(self, query: Volume, prepared: Prepared) -> None:
        self.query = query
        self.prepared = prepared

    def volume(self, grid: NDArray[np.float32], name: str) -> Volume:
        """A feature grid (n, h, w) of the box as a float32 volume, 0 outside the box."""
        import torch
        import torch.nn.functional as F

        slices_ = np.zeros(self.prepared.query.shape[:3], np.float32)
        part = slices_[self.prepared.box]
        size = part.shape[1:]
        for start in range(0, len(part), 64):  # bounded memory for large volumes
            chunk = torch.from_numpy(np.ascontiguousarray(grid[start : start + 64]))[:, None]
            up = F.interpolate(chunk, size, mode="bilinear", align_corners=True)[:, 0]
            part[start : start + 64] = up.numpy()
        return self.slices(slices_, name)

    def per_slice(self, values: NDArray[np.float32], name: str) -> Volume:
        """One value a slice."""
        shape = self.prepared.query.shape[:3]
        return self.slices(np.broadcast_to(values[:, None, None], shape).astype(np.float32), name, True)

    def slices(self, array: NDArray[Any], name: str, to_the_edge: bool = False) -> Volume:
        import SimpleITK as sitk

        canonical = np.ascontiguousarray(unslices(array, self.prepared.plane))
        image = sitk.GetImageFromArray(canonical, isVector=canonical.ndim == 4)
        image.CopyInformation(self.prepared.canonical)
        if self.prepared.home is not None:
            image = self.prepared.home.bring(image, to_the_edge)
        return Volume(from_canonical(image, self.query.image), name, self.query.info)

    def expected_normal(self, shares: NDArray[np.float32]) -> Volume:
        """The supports blended slice by slice with their weights, in the query's own intensities."""
        blended = np.zeros_like(self.prepared.query)
        for support, share in zip(self.prepared.supports, shares.T, strict=True):
            blended += support * share.reshape(-1, *[1] * (support.ndim - 1))
        if blended.ndim == 4:
            return self.slices(np.rint(blended * 255).astype(np.uint8), "expected_normal")
        return self.slices(self._own_intensities(blended), "expected_normal")

    def _own_intensities(self, prepared: NDArray[np.float32]) -> NDArray[np.float32]:
        from D24FADLib.imaging.planes import slices as cut
        from D24FADLib.imaging.volume import array_view

        raw = np.asarray(cut(array_view(self.prepared.canonical), self.prepared.plane))
        step = max(1, raw.size // 500_000)
        pairs = np.stack([self.prepared.query.reshape(-1)[::step], raw.reshape(-1)[::step]]).astype(
            np.float64
        )
        # Preparation rises with the intensity: its inverse is read off the query's own voxels.
        level, index = np.unique(np.round(pairs[0], 3), return_inverse=True)
        means = np.bincount(index, pairs[1]) / np.bincount(index)
        return np.interp(prepared, level, np.maximum.accumulate(means)).astype(np.float32)


def _all_shares(weights: NDArray[np.float32], prepared: Prepared) -> NDArray[np.float32]:
    """(all slices, K): the weights of the compared slices; their mean where nothing was compared."""
    count = prepared.query.shape[0]
    shares = np.tile(weights.mean(axis=0), (count, 1)).astype(np.float32)
    shares[prepared.box[0]] = weights
    return shares


def _slice_scores(
    query: Volume, prepared: Prepared, scored: _Scored, shares: NDArray[np.float32]
) -> tuple[SliceScore, ...]:
    first = prepared.box[0].start
    rows = []
    for canonical in range(prepared.query.shape[0]):
        peak = mean = 0.0
        if first <= canonical < first + len(scored.scores):
            values = scored.scores[canonical - first][scored.body[canonical - first]]
            if values.size:
                peak, mean = float(values.max()), float(values.mean())
        index = slice_index(query, prepared.plane, canonical)
        rows.append(SliceScore(index, peak, mean, tuple(float(w) for w in shares[canonical])))
    return tuple(sorted(rows, key=lambda row: row.index))


def _support_reports(
    supports: Sequence[Volume], prepared: Prepared, scored: _Scored, compared: Comparison
) -> tuple[SupportReport, ...]:
    weights = compared.weights.mean(axis=(0, 1))
    own: list[float] | None = None
    if scored.calibration is not None and len(supports) > 2:
        own = [float(maps[scored.body].mean()) for maps in scored.calibration.support_scores]
    reports = []
    for k, (support, moved) in enumerate(zip(supports, prepared.aligned, strict=True)):
        stands_out = False
        if own is not None:
            others = np.delete(own, k)
            # With few others their spread is uncertain: 0.25 is a floor seen between normal subjects.
            allowed = _STANDS_OUT * max(float(others.std(ddof=1)), 0.25)
            stands_out = bool(own[k] - others.mean() > allowed)
        reports.append(
            SupportReport(
                support.name, moved.similarity, moved.overlap, float(weights[k]),
                None if own is None else own[k], stands_out, moved.note,
            )
        )  # fmt: skip
    return tuple(reports)
