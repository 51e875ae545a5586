"""Comparing slices: the query against the supports, and every support against the others.

Two kinds of evidence are added up, in shares that the model's metadata sets:

student: the paper's residual, 1 - cosine between the query's student features and the learned weighted
    mean of the supports' (`D24FADModel.compare`).
teacher: 1 - cosine between the query's teacher features and the nearest support's, looked for within
    one position around (PatchCore's idea restricted to a neighbourhood, which aligned supports allow).
    The student decodes a 1/32 embedding and blurs what is small; the teacher's own features keep it.

Where the model's metadata has it so, pictures, which nothing aligns, are compared by `pictures` instead, and
gray volumes by `volumes` (its features by `mahalanobis`).

All maps live on the grid of the finest features (a quarter of the input's pixels): residuals are smooth,
and the study's own grid is reached by one interpolation at the very end.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from D24FADLib.errors import Cancelled
from D24FADLib.imaging.masks import PackedMask
from D24FADLib.inference.batches import Batches, Compares, Inputs, is_out_of_memory
from D24FADLib.inference.devices import exact_convolutions, sent
from D24FADLib.inference.mahalanobis import MOST_SLICES, WIDTH, Fitted, fit, smoothed_in_plane
from D24FADLib.inference.pictures import PictureComparer, PictureEvidence
from D24FADLib.inference.preparation import Box, Prepared, on_grid
from D24FADLib.inference.residuals import (
    judged,
    nearest_residuals,
    on_finest,
    subset_masks,
    subset_weights,
    weighted_residuals,
)
from D24FADLib.inference.runtimes import Encoder, TorchEncoder, choose_encoder
from D24FADLib.inference.volumes import NormalVolume, VolumeEvidence, appearance_of, learn, pitch_of
from D24FADLib.network.model import D24FADModel

_CPU = torch.device("cpu")


@dataclass(frozen=True)
class Evidence:
    """How much each residual counts in the map."""

    student: float = 1.0
    teacher: float = 0.0


@dataclass(frozen=True, eq=False)
class Comparison:
    """Residuals on the feature grid (n, h, w) of the box's slices.

    full: query against all K supports. reduced: query against K - 1 supports, the mean over the support
    left out; left_out: (K, n, h, w), each support against the K - 1 others, NaN outside its own body and
    where no other reaches. These two are what calibration compares, like with like. Both None for K = 1.
    weights: (n, scales, K).
    covered: how many supports reach each position, (n, h, w). notes: what the reader should know.
    overall: of pictures, what their score is read from in place of reduced and left_out.
    levels: of pictures, the distances to each support, (K, h, w) a local level.
    normal, appearance: of volumes compared by `volumes`, what the supports give and the query's brightness
    and noise, with the texture's distances as full, reduced and left_out, smoothed already.
    """

    full: NDArray[np.float32]
    reduced: NDArray[np.float32] | None
    left_out: NDArray[np.float32] | None
    weights: NDArray[np.float32]
    covered: NDArray[np.int16]
    notes: tuple[str, ...] = ()
    overall: tuple[NDArray[np.float32], NDArray[np.float32] | None] | None = None
    levels: tuple[NDArray[np.float32], ...] = ()
    normal: NormalVolume | None = None
    appearance: tuple[NDArray[np.float32], ...] = ()


def input_size(rows: float, cols: float, size: int, stride: int) -> tuple[int, int]:
    """Height and width for slices of rows x cols mm: the longer side `size`, the aspect kept to a stride."""
    scale = size / max(rows, cols)
    height, width = (max(stride, round(side * scale / stride) * stride) for side in (rows, cols))
    return height, width


def to_input(
    slices: NDArray[np.float32] | Tensor, size: tuple[int, int], device: torch.device = _CPU
) -> Tensor:
    """(n, rows, cols[, 3]) in [0, 1] -> (n, 3, H, W); gray ones share one channel's memory."""
    if not isinstance(slices, Tensor):
        # A copy: torch takes no flipped axis, and one of a single voxel counts as contiguous all the same.
        slices = torch.from_numpy(np.array(slices, order="C"))
    images = sent(slices, device)
    images = images.permute(0, 3, 1, 2) if images.dim() == 4 else images[:, None]
    if images.shape[-2:] != size:
        images = F.interpolate(images, size, mode="bilinear", antialias=True, align_corners=False)
    return images.expand(-1, 3, -1, -1)


def inputs_of(
    volumes: Sequence[NDArray[np.float32]],
    covered: Sequence[NDArray[np.bool_] | PackedMask],
    box: Box,
    size: tuple[int, int],
    known: Callable[[slice, torch.device], list[Tensor] | None] = lambda chunk, device: None,
) -> Inputs:
    """Makes images (volumes, B, 3, H, W), where the supports reach (K, B, h, w) and their known features, for
    slices of the box. On a CUDA card the images are sent as they are and resized there."""
    grid = (size[0] // 4, size[1] // 4)
    inside = [v[box] for v in volumes]

    def inputs(chunk: slice, device: torch.device) -> tuple[Tensor, Tensor, list[Tensor] | None]:
        parts = [v[chunk] for v in inside]
        on_card = device.type == "cuda"  # which reads pinned memory by itself
        voxels = torch.empty(len(parts) * len(parts[0]), *parts[0].shape[1:], pin_memory=on_card)
        np.concatenate(parts, out=voxels.numpy())
        images = to_input(voxels, size, device if on_card else _CPU).unflatten(0, (len(parts), -1))
        section = (slice(box[0].start + chunk.start, box[0].start + chunk.stop), box[1], box[2])
        reaching = np.stack([on_grid(mask, section, grid) for mask in covered])
        return images, torch.from_numpy(reaching), known(chunk, device)

    return inputs


class Comparer:
    """Compares batches of slices with one model on one device."""

    def __init__(
        self,
        model: D24FADModel,
        evidence: Evidence,
        device: torch.device,
        encoder: Encoder | None = None,
        pictures: PictureEvidence | None = None,
        volumes: VolumeEvidence | None = None,
    ) -> None:
        self.model = model.to(device).eval()
        self.evidence = evidence
        self.device = device
        self.results_on = _CPU
        self.encoder = encoder or TorchEncoder(self.model, device)
        self.pictures = PictureComparer(self.model, pictures, device) if pictures else None
        self.volumes = volumes

    def on_cpu(self) -> Comparer:
        """The same on the processor."""
        cpu = torch.device("cpu")
        model = _on_cpu(self.model)
        pictures = self.pictures.evidence if self.pictures else None
        encoder = choose_encoder("auto", model, cpu)
        return Comparer(model, self.evidence, cpu, encoder, pictures, self.volumes)

    def batch(
        self, images: Tensor, covered: Tensor, known: Sequence[Tensor] | None = None
    ) -> tuple[Tensor, Tensor | None, Tensor | None, Tensor]:
        """One batch of slices, encoded and compared; images: (1 + K, B, 3, H, W), the query first, or the
        query's alone where the supports' features are `known` (see `encode`; left_out is None then, too). As
        `compare_features`, but for left_out, which has slices first, as the rest: (B, K, h, w)."""
        features = self.encode(images, known)
        full, reduced, left_out, weights = self.compare_features(features, covered, known is not None)
        return full, reduced, None if left_out is None else left_out.transpose(0, 1), weights

    @torch.inference_mode()
    def encode(self, images: Tensor, known: Sequence[Tensor] | None = None) -> list[Tensor]:
        """Features (1 + K, B, C, h, w), the teacher's and the student's, of the images of `batch`.

        known: the supports', with room for the query's in front, which are put there; the student's alone,
        then the teacher's are the query's alone, or the teacher's as well.
        """
        features = [f.unflatten(0, images.shape[:2]) for f in self.encoder(images.flatten(0, 1))]
        if known is None:
            return features
        joined = [k.to(self.device) for k in known]
        alone = len(features) - len(joined)
        for together, own in zip(joined, features[alone:], strict=True):
            together[0] = own[0]
        return [*features[:alone], *joined]

    @torch.inference_mode()
    @exact_convolutions()
    def compare_features(
        self, features: Sequence[Tensor], covered: Tensor, query_only: bool = False
    ) -> tuple[Tensor, Tensor | None, Tensor | None, Tensor]:
        """Compare slices whose features are known.

        features: teacher's and student's, three each, (1 + K, B, C, h, w), the query first (the teacher's are
        not looked at where they do not count). covered: (K, B, h, w) bool on the finest feature grid, where
        each support reaches. Returns full (B, h, w), reduced (B, h, w), left_out (K, B, h, w), weights
        (B, scales, K); see Comparison. reduced and left_out are None for K = 1, left_out with `query_only`
        as well.
        """
        supports = features[-1].shape[0] - 1
        weights = subset_weights(self.model.weighting, features[3:], query_only)
        volumes, masks = judged(supports), subset_masks(supports)
        if query_only:
            volumes = [volume for volume in volumes if volume == 0]
            masks = masks[: len(volumes)]
        finest = features[3]
        total = torch.zeros(len(volumes), finest.shape[1], *finest.shape[3:], device=finest.device)
        if self.evidence.student:
            scales = [
                weighted_residuals(f, weights[:, :, scale]).flatten(0, 1)
                for scale, f in enumerate(features[3:])
            ]
            total += self.evidence.student * on_finest(scales).unflatten(0, total.shape[:2])
        if self.evidence.teacher:
            distances = self._teacher_distances(features[:3], covered, 1 if query_only else None)
            for row, (volume, mask) in enumerate(zip(volumes, masks, strict=True)):
                others = [distances[volume, k] for k in mask.nonzero().flatten().tolist()]
                total[row] += self.evidence.teacher * torch.stack(others).amin(0)
        if supports < 2:
            return total[0], None, None, weights[0]
        reduced = total[1 : 1 + supports].mean(0)
        return total[0], reduced, None if query_only else total[1 + supports :], weights[0]

    def _teacher_distances(self, teacher: Sequence[Tensor], covered: Tensor, targets: int | None) -> Tensor:
        """(targets or 1 + K, K, B, h, w): of each volume's slices to each support's; large where a support
        does not reach."""
        scales = [nearest_residuals(features, targets) for features in teacher]
        distances = on_finest([d.flatten(0, 2) for d in scales]).unflatten(0, scales[0].shape[:3])
        return distances + ~covered.to(distances.device) * 6.0  # the worst residual of three scales


def _on_cpu(model: D24FADModel) -> D24FADModel:
    """A copy on the processor, made without another one on the model's device, which may be full."""
    moved: dict[int, Tensor] = {
        id(p): torch.nn.Parameter(p.detach().cpu(), p.requires_grad) for p in model.parameters()
    }
    moved |= {id(b): b.cpu() for b in model.buffers()}
    return copy.deepcopy(model, moved)


class FeatureKeeper:
    """In the comparer's place where all slices' features are needed together: `batch` gives the teacher's
    finest ones, smoothed in plane, (B, 1 + K, C, h, w) float16, and the weights (B, scales, K). They stay on
    a CUDA card: all of them together are what is worked with next (in double precision, which MPS lacks)."""

    def __init__(self, comparer: Comparer) -> None:
        self.device = comparer.device
        self.results_on = self.device if self.device.type == "cuda" else _CPU
        self._comparer = comparer

    def on_cpu(self) -> FeatureKeeper:
        return FeatureKeeper(self._comparer.on_cpu())

    @torch.inference_mode()
    @exact_convolutions()
    def batch(
        self, images: Tensor, covered: Tensor, known: Sequence[Tensor] | None = None
    ) -> tuple[Tensor, Tensor]:
        """known: the supports' student features, three, (1 + K, B, C, h, w), of which the first is unused."""
        features = self._comparer.encode(images)
        student = [f[0] for f in features[3:]]
        supports = [f[1:] for f in features[3:]] if known is None else [k[1:].to(self.device) for k in known]
        weights = self._comparer.model.weighting(student, supports)
        return smoothed_in_plane(features[0]).transpose(0, 1), weights


def compare(
    prepared: Prepared,
    comparer: Comparer,
    size: int,
    batch: int,
    progress: Callable[[str, int, int], None] | None = None,
    should_cancel: Callable[[], bool] | None = None,
) -> Comparison:
    """Compare all slices of the box, `batch` at a time, several batches side by side.

    Where the device's memory does not hold a batch, see `Batches`. Raises Cancelled between batches.
    """
    count = prepared.box[0].stop - prepared.box[0].start
    if comparer.pictures is not None and count == 1:
        if progress:
            progress("compare", 0, 1)
        compared = compare_pictures(prepared, comparer.pictures)
        if progress:
            progress("compare", 1, 1)
        return compared
    shape = _input_shape(prepared, comparer, size)

    def in_batches(worker: Compares) -> tuple[list[Tensor], NDArray[np.bool_], tuple[str, ...]]:
        return _in_batches(prepared, worker, shape, batch, progress, should_cancel)

    if comparer.volumes is not None and comparer.volumes.applies(prepared):
        return _compare_volume(prepared, comparer.volumes, *in_batches(FeatureKeeper(comparer)))
    parts, reach, notes = in_batches(comparer)
    full, weights = parts[0].numpy(), parts[-1].numpy()
    covered = reach.sum(axis=0).astype(np.int16)
    if len(prepared.supports) == 1:
        return Comparison(full, None, None, weights, covered, notes)
    known = prepared.references
    against_others = known.left_out if known else parts[2].transpose(0, 1).numpy()
    judged = prepared.support_body_on(full.shape[1:]) & (covered > 1)  # itself and at least one other
    left_out = np.where(judged, against_others, np.nan).astype(np.float32)
    return Comparison(full, parts[1].numpy(), left_out, weights, covered, notes)


def _input_shape(prepared: Prepared, comparer: Comparer, size: int) -> tuple[int, int]:
    rows, cols = (side.stop - side.start for side in prepared.box[1:])
    return input_size(rows * prepared.spacing[1], cols * prepared.spacing[2], size, comparer.model.stride)


def _in_batches(
    prepared: Prepared,
    worker: Compares,
    shape: tuple[int, int],
    batch: int,
    progress: Callable[[str, int, int], None] | None,
    should_cancel: Callable[[], bool] | None,
) -> tuple[list[Tensor], NDArray[np.bool_], tuple[str, ...]]:
    """What a worker gives of all slices of the box, slices first; where the supports reach (K, n, h, w); and
    notes."""
    count = prepared.box[0].stop - prepared.box[0].start
    known = prepared.references
    inputs = inputs_of(
        [prepared.query, *(() if known else prepared.supports)],
        prepared.covered,
        prepared.box,
        shape,
        known.known if known else lambda chunk, device: None,
    )
    parts: list[tuple[Tensor, ...]] = []
    reach: list[Tensor] = []
    done = 0
    with Batches(worker) as batches:
        results = batches.run(inputs, count, batch)
        while done < count:
            if should_cancel and should_cancel():
                raise Cancelled("Comparison was cancelled.")
            if progress:
                progress("compare", done, count)
            done, result, covered = next(results)
            parts.append(result)
            reach.append(covered)
    if progress:
        progress("compare", count, count)
    joined = [_joined(column) for column in zip(*parts, strict=True)]
    return joined, torch.cat(reach, dim=1).numpy(), tuple(batches.notes)


def _joined(parts: Sequence[Tensor]) -> Tensor:
    """One after the other, on the processor where they are not all on one device or have no room there."""
    if len({part.device for part in parts}) == 1:
        try:
            return torch.cat(list(parts))
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
    return torch.cat([part.cpu() for part in parts])


def _compare_volume(
    prepared: Prepared,
    evidence: VolumeEvidence,
    parts: list[Tensor],
    reach: NDArray[np.bool_],
    notes: tuple[str, ...],
) -> Comparison:
    """A volume by the texture's distances and its appearance; see `volumes`."""
    features, weights = parts
    grid = (int(features.shape[-2]), int(features.shape[-1]))
    body = on_grid(prepared.body, prepared.box, grid)
    normal = prepared.references.normal if prepared.references else None
    if normal is None:
        bodies = prepared.support_body_on(grid)
        volumes = (prepared.query, *prepared.supports)
        looks = appearance_of(prepared, volumes, [body, *bodies]) if evidence.appearance else ()
        normal = learn_normal(prepared, evidence, features[:, 1:], [v[1:] for v in looks], bodies, reach)
    else:
        looks = appearance_of(prepared, [prepared.query], [body]) if evidence.appearance else ()
    full = _distance(normal.texture, features[:, 0])
    return Comparison(
        full,
        full,
        normal.left_out,
        weights.cpu().numpy(),
        reach.sum(axis=0).astype(np.int16),
        notes,
        normal=normal,
        appearance=tuple(v[0] for v in looks),
    )


def learn_normal(
    prepared: Prepared,
    evidence: VolumeEvidence,
    features: Tensor,
    looks: Sequence[NDArray[np.float32]],
    bodies: NDArray[np.bool_],
    reach: NDArray[np.bool_],
) -> NormalVolume:
    """What the supports give, of their features (n, K, C, h, w), smoothed in plane, their brightness and
    noise, and where they have body and where they reach: (K, n, h, w) each, on the grid of the features."""
    pitch = pitch_of(prepared, (0, *bodies.shape[2:]))
    across = min(WIDTH * (pitch[1] + pitch[2]) / 2 / pitch[0], MOST_SLICES)
    judged = bodies & (reach.sum(axis=0) > 1)
    texture, own = _fitted(features, torch.from_numpy(reach), torch.from_numpy(judged), across)
    left_out = np.where(judged, own.cpu().numpy(), np.nan).astype(np.float32)
    return learn(evidence, texture, left_out, looks, bodies, pitch)


def _fitted(features: Tensor, reach: Tensor, judged: Tensor, sigma: float) -> tuple[Fitted, Tensor]:
    """`mahalanobis.fit`, on the processor where the features' device has no room for it."""
    try:
        return fit(features, reach, judged, sigma)
    except RuntimeError as error:
        if features.device.type == "cpu" or not is_out_of_memory(error):
            raise
    return fit(features.cpu(), reach, judged, sigma)


def _distance(texture: Fitted, features: Tensor) -> NDArray[np.float32]:
    """r of the query (n, h, w), where there is room for it."""
    try:
        return np.asarray(texture.on(features.device).distance(features).cpu().numpy())
    except RuntimeError as error:
        if features.device.type == "cpu" or not is_out_of_memory(error):
            raise
    cpu = torch.device("cpu")
    return np.asarray(texture.on(cpu).distance(features.to(cpu)).numpy())


def compare_pictures(prepared: Prepared, comparer: PictureComparer) -> Comparison:
    """The one slice of a picture against those of its supports, without regard to place."""
    part = prepared.box
    rows, cols = (side.stop - side.start for side in part[1:])
    shape = input_size(
        rows * prepared.spacing[1], cols * prepared.spacing[2], comparer.evidence.size, comparer.stride
    )
    images = torch.cat(
        [to_input(np.asarray(v[part], np.float32), shape) for v in (prepared.query, *prepared.supports)]
    )
    found = comparer.compare(comparer.encode(images[:1]), comparer.encode_supports(images[1:]))

    def array(values: Tensor) -> NDArray[np.float32]:
        return np.asarray(values.cpu().numpy(), np.float32)

    full, supports = array(found.full), len(prepared.supports)
    weights = np.broadcast_to(array(found.weights), (1, 1, supports)).astype(np.float32)
    # Wherever a support shows something, it is compared with all of the picture.
    covered = np.full(full.shape, supports, np.int16)
    levels = tuple(array(d[0]) for d in found.distances)
    if found.reduced is None or found.left_out is None:
        return Comparison(full, None, None, weights, covered, (), (array(found.overall[0]), None), levels)
    grid = (full.shape[1], full.shape[2])
    inside = prepared.support_body_on(grid)
    own, overall = (
        np.where(inside, array(maps)[:, None], np.nan).astype(np.float32)
        for maps in (found.left_out, found.overall[1])
        if maps is not None
    )
    return Comparison(
        full, array(found.reduced), own, weights, covered, (), (array(found.overall[0]), overall), levels
    )
