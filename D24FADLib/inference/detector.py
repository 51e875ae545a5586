"""The one public entry: `detect(query, supports, ...) -> Detection`."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from D24FADLib.errors import Cancelled
from D24FADLib.imaging.planes import Fill, from_canonical, image_of_slices, slices
from D24FADLib.imaging.volume import Volume, VolumeOnDemand
from D24FADLib.inference.checks import INFO, REFUSE
from D24FADLib.inference.detection import Detection
from D24FADLib.inference.findings import find
from D24FADLib.inference.options import DetectionOptions
from D24FADLib.inference.record import run_record

if TYPE_CHECKING:
    from D24FADLib.imaging.alignment import AlignedSupport, Aligning
    from D24FADLib.inference.preparation import Prepared, Preparing

Progress = Callable[[str, int, int], None]

STEPS = ("model", "align", "prepare", "compare", "calibrate", "findings")


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
    from D24FADLib.inference.preparation import begin_aligning

    options = replace(options or DetectionOptions(), **changes)
    with begin_aligning(query, supports, options, should_cancel) as aligning:
        return _detect(query, supports, options, aligning, progress, should_cancel)


def _detect(
    query: Volume,
    supports: Sequence[Volume],
    options: DetectionOptions,
    aligning: Aligning[AlignedSupport] | Preparing,
    progress: Progress | None,
    should_cancel: Callable[[], bool] | None,
) -> Detection:
    import torch  # takes a second, in which the alignment gets on

    from D24FADLib.inference.batches import workers_on
    from D24FADLib.inference.comparison import Comparer, Evidence, compare
    from D24FADLib.inference.devices import choose_device, default_batch, openvino_device
    from D24FADLib.inference.dropping import among_all
    from D24FADLib.inference.explain import explain, name_departures
    from D24FADLib.inference.inputs import check_inputs
    from D24FADLib.inference.judging import judge
    from D24FADLib.inference.models import load_model, load_priors
    from D24FADLib.inference.pictures import PictureEvidence
    from D24FADLib.inference.reference_set import prepare_for
    from D24FADLib.inference.runtimes import choose_encoder
    from D24FADLib.inference.slice_scores import scores_of_slices
    from D24FADLib.inference.volumes import VolumeEvidence

    tell: Progress = progress or (lambda step, done, total: None)
    clock = _Clock()
    misfits = check_inputs(query, supports, options.unsuitable_anyway)
    device = choose_device(options.device)
    tell("model", 0, 1)
    model, metadata = load_model(options.model, options.force_model)
    about = metadata["d24fad"]
    priors, unlearned = load_priors(options.model, metadata)
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
        openvino_device(options.device, options.runtime) if device.type == "cpu" else "CPU",
    )
    pictures = PictureEvidence.of(about.get("pictures"))
    volumes = VolumeEvidence.of(about.get("volumes"))
    comparer = Comparer(model, Evidence(**about.get("evidence", {})), device, encoder, pictures, volumes)
    size = int(about.get("input_size", 256))
    batch = options.batch or default_batch(device, 1 + len(supports))
    prepared = prepare_for(
        query, supports, options, comparer, size, batch, checksum, tell, should_cancel, aligning
    )
    if prepared.references:  # the study alone is encoded
        batch = options.batch or default_batch(device, 1)
    clock.lap("prepare")
    judged = judge(
        query,
        supports,
        prepared,
        comparer,
        priors,
        options.drop_outliers,
        lambda part: compare(part, comparer, size, batch, tell, should_cancel),
    )
    compared, scored = judged.compared, judged.scored
    clock.lap("compare")

    tell("calibrate", 0, 1)
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
    shares = among_all(_all_shares(compared.weights.mean(axis=1), prepared), judged.kept, len(supports))
    if about.get("changed"):
        misfits.append("The model's weights are not those that its metadata names: its results are unproven.")
    notes = [*misfits, *prepared.warnings, *compared.notes, *encoder.notes]
    checks = judged.checks(notes, unlearned)
    withheld = any(check.severity == REFUSE for check in checks) and not options.unsuitable_anyway
    findings, labels = find(
        anomaly_map, np.inf if withheld else threshold, prepared.plane, scored.min_volume_ml
    )
    findings = explain(scored.rated(findings), prepared, comparer, size, shares, judged.kept, compared.levels)
    findings = name_departures(findings, prepared, scored.parts)
    unusual = scored.unusual()
    expected_normal = place.expected_normal(shares)
    prepared.forget_supports()
    weights = tuple(place.per_slice(shares[:, k], f"weights_{k + 1:02d}") for k in range(len(supports)))
    detection = Detection(
        query=query,
        plane=prepared.plane,
        anomaly_map=anomaly_map,
        residual_map=place.volume(scored.residual, "residual_map"),
        weights=weights,
        expected_normal=expected_normal,
        labels=labels,
        findings=findings,
        slices=scores_of_slices(
            query, prepared.plane, anomaly_map, shares, place.numbers if prepared.home else None
        ),
        supports=judged.reports(),
        threshold=float(threshold),
        calibrated=scored.calibration is not None,
        score=scored.score,
        min_volume_ml=scored.min_volume_ml,
        warnings=tuple(check.message for check in checks if check.severity != INFO),
        record={},
        checks=tuple(checks),
        p_value=None if unusual is None else unusual.high,
        p_value_low=None if unusual is None else unusual.low,
        kinds=tuple(scored.parts),
        heights=scored.heights(),
    )
    clock.lap("findings")
    tell("findings", 1, 1)
    detection.record.update(
        run_record(
            detection, supports, asdict(options), metadata, clock.seconds,
            {
                "type": str(device), "runtime": encoder.name, "networks_on": encoder.device,
                "precision": encoder.precision, "torch": torch.__version__, "batch": batch,
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


class _Placement:
    """Takes slices and feature grids back to exactly the query's grid."""

    def __init__(self, query: Volume, prepared: Prepared) -> None:
        self.query = query
        self.prepared = prepared

    def volume(self, grid: NDArray[np.float32], name: str) -> Volume:
        """A feature grid (n, h, w) of the box as a float32 volume, 0 outside the box."""
        import torch
        import torch.nn.functional as F

        sections, *inside = self.prepared.box

        def fill(made: NDArray[Any], start: int) -> None:
            first, last = max(start, sections.start), min(start + len(made), sections.stop)
            if first < last:
                part = made[(slice(first - start, last - start), *inside)]
                own = np.ascontiguousarray(grid[first - sections.start : last - sections.start])
                chunk = torch.from_numpy(own)[:, None]
                up = F.interpolate(chunk, part.shape[1:], mode="bilinear", align_corners=True)[:, 0]
                part[...] = up.numpy()

        return self._filled(fill, np.float32, name)

    def per_slice(self, values: NDArray[np.float32], name: str) -> Volume:
        """One value a slice; where the comparison ran on another grid, a voxel has its nearest slice's."""
        numbers, values = self.numbers.array(), values.astype(np.float32)

        def voxels() -> NDArray[np.float32]:
            made = np.empty(numbers.shape, np.float32)
            for section, places in zip(made, numbers, strict=True):  # an index takes eight bytes a voxel
                section[...] = values[places]
            return made

        return VolumeOnDemand(voxels, self.query, name)

    @cached_property
    def numbers(self) -> Volume:
        """The slice that each of the query's voxels was compared in, uint16."""

        def fill(made: NDArray[Any], start: int) -> None:
            made[...] = np.arange(start, start + len(made), dtype=np.uint16)[:, None, None]

        return self._filled(fill, np.uint16, "numbers", True)

    def _filled(
        self, fill: Fill, dtype: DTypeLike, name: str, per_slice: bool = False, color: bool = False
    ) -> Volume:
        """A volume on the query's grid; `fill` writes slices of the grid of comparison. `per_slice`: see
        `Home`."""
        prepared, own = self.prepared, self.query.image
        if prepared.home is None:  # straight into the query's own order
            return Volume(image_of_slices(fill, own, prepared.plane, dtype, color), name, self.query.info)
        image = image_of_slices(fill, prepared.canonical, prepared.plane, dtype, color)
        image = prepared.home.bring(image, per_slice)
        return Volume(from_canonical(image, own), name, self.query.info)

    def expected_normal(self, shares: NDArray[np.float32]) -> Volume:
        """The supports blended slice by slice with their weights, in the query's own intensities."""
        query = self.prepared.query
        color = query.ndim == 4
        table = None if color else self._own_intensities()

        def fill(made: NDArray[Any], start: int) -> None:
            for number, section in enumerate(made, start):  # the supports of a large study are large
                blended = np.zeros(query.shape[1:], np.float32)
                for support, weight in zip(self.prepared.supports, shares[number], strict=True):
                    blended += support[number] * weight
                section[...] = np.rint(blended * 255) if table is None else table[_levels(blended)]

        return self._filled(fill, np.uint8 if color else np.float32, "expected_normal", color=color)

    def _own_intensities(self) -> NDArray[np.float32]:
        """The query's own intensity at each of 65,536 levels of the prepared ones."""
        from D24FADLib.imaging.volume import array_view

        raw = slices(array_view(self.prepared.canonical), self.prepared.plane)
        step = max(1, raw.size // 500_000)
        pairs = np.stack([self.prepared.query.flat[::step], raw.flat[::step]]).astype(np.float64)
        # Preparation rises with the intensity: its inverse is read off the query's own voxels.
        level, index = np.unique(np.round(pairs[0], 3), return_inverse=True)
        means = np.bincount(index, pairs[1]) / np.bincount(index)
        table = np.interp(np.linspace(0, 1, 2**16), level, np.maximum.accumulate(means))
        return table.astype(np.float32)


def _levels(prepared: NDArray[np.float32]) -> NDArray[np.uint16]:
    return np.rint(prepared * (2**16 - 1)).astype(np.uint16)


def _all_shares(weights: NDArray[np.float32], prepared: Prepared) -> NDArray[np.float32]:
    """(all slices, K): the weights of the compared slices; their mean where nothing was compared."""
    count = prepared.query.shape[0]
    shares = np.tile(weights.mean(axis=0), (count, 1)).astype(np.float32)
    shares[prepared.box[0]] = weights
    return shares
