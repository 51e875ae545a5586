"""A reference set prepared once for many studies of the same protocol.

Usually the references are brought onto each study's grid, which repeats their alignment and encoding for
every study. Here they are brought once onto the grid of the first of them, encoded and judged against each
other there; what comes out is kept (see `cache`). A new study is registered once, to that grid, and compared
there; its maps are taken back to its own grid. Its voxels are interpolated once, as the references' are.

Of gray volumes compared by `volumes` that is what `volumes.learn` makes of the references, and their student
features for the weights; else all of their features, and their maps.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from D24FADLib import __version__
from D24FADLib.errors import Cancelled
from D24FADLib.imaging.alignment import AlignedSupport, Aligning, Alignment
from D24FADLib.imaging.intensity import choose_ct_window, foreground_mask, guess_modality
from D24FADLib.imaging.masks import PackedMask
from D24FADLib.imaging.planes import slices, to_canonical, unslices
from D24FADLib.imaging.volume import Volume
from D24FADLib.inference.batches import Batches
from D24FADLib.inference.cache import kept_whole, references_folder, trim, used
from D24FADLib.inference.comparison import Comparer, input_size, inputs_of, learn_normal
from D24FADLib.inference.mahalanobis import smoothed_in_plane
from D24FADLib.inference.normal_files import read_normal, write_normal
from D24FADLib.inference.options import DetectionOptions
from D24FADLib.inference.preparation import (
    Home,
    Prepared,
    Preparing,
    body_box,
    low_similarity,
    matched_to,
    prepare_study,
)
from D24FADLib.inference.resident import Resident
from D24FADLib.inference.threads import side_by_side
from D24FADLib.inference.volumes import NormalVolume, VolumeEvidence, appearance_of

Progress = Callable[[str, int, int], None]
_FORMAT = 3


@dataclass(frozen=True, eq=False)
class ReferenceSet:
    """Everything about the references that does not depend on a study, on the first one's canonical grid.

    volumes, covered, bodies: K of (n, rows, cols), see `Prepared`. features: arrays (slices of the box, K, C,
    h, w) float16, the student's, three; before them the teacher's where the comparison looks at those.
    left_out: (K, slices, h, w), see `Comparison`, unmasked unless it is that of `normal`. facts: plane, box,
    spacing, CT window, and each support's similarity, overlap, method and note.
    """

    volumes: NDArray[np.float16]
    covered: tuple[PackedMask, ...]
    bodies: tuple[PackedMask, ...]
    features: tuple[NDArray[np.float16], ...]
    left_out: NDArray[np.float32]
    normal: NormalVolume | None
    facts: dict[str, Any]

    def known(self, chunk: slice, device: torch.device) -> list[Tensor]:
        """The features of slices of the box as the comparer takes them: (1 + K, B, C, h, w) each, with room
        in front for the query's."""
        return self._resident(chunk, device)

    @cached_property
    def _resident(self) -> Resident:
        return Resident(self.features)


def reference_key(
    supports: Sequence[Volume], options: DetectionOptions, comparer: Comparer, size: int, model: str
) -> str:
    """A checksum of what the set depends on; the supports' order counts, as the first gives the grid."""
    asked = [getattr(a, "value", a) for a in (options.plane, options.align, options.ct_window)]
    encoder = (comparer.encoder.name, comparer.encoder.precision, size)
    settings = [__version__, _FORMAT, model, encoder, comparer.evidence, comparer.volumes, asked]
    parts = list(map(repr, settings))
    parts += [v.content_hash() + v.info.modality + v.info.body_part for v in supports]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:40]


def find_or_make(
    supports: Sequence[Volume],
    options: DetectionOptions,
    comparer: Comparer,
    size: int,
    batch: int,
    model: str,
    progress: Progress,
    should_cancel: Callable[[], bool] | None,
) -> ReferenceSet:
    """The kept set of these supports, else a new one, kept now. Raises OSError where there is no room."""
    folder = references_folder() / reference_key(supports, options, comparer, size, model)
    if folder.is_dir():
        try:
            found = _read(folder)
            used(folder)
            return found
        except (OSError, ValueError, KeyError, BadZipFile):  # damaged, or being removed: make it anew
            shutil.rmtree(folder, ignore_errors=True)
    with kept_whole(folder) as aside:
        _make(aside, supports, options, comparer, size, batch, progress, should_cancel)
    made = _read(folder)
    trim(references_folder())
    return made


def _make(
    folder: Path,
    supports: Sequence[Volume],
    options: DetectionOptions,
    comparer: Comparer,
    size: int,
    batch: int,
    progress: Progress,
    should_cancel: Callable[[], bool] | None,
) -> None:
    first, others = supports[0], supports[1:]
    window = options.ct_window
    canonical = to_canonical(first.image)
    if guess_modality(first) == "CT" and window == "auto":
        window = choose_ct_window(canonical, foreground_mask(canonical, "CT"), first.info.body_part)
    base = prepare_study(first, others, options.plane, options.align, window, progress, should_cancel)
    bodies = (PackedMask.of(base.body), *map(_packed, base.support_bodies))
    anywhere = base.body.copy()
    for mask in bodies[1:]:
        anywhere |= mask[:]
    box = body_box(anywhere, base.spacing)
    volumes = [base.query, *base.supports]
    covered = (PackedMask.of(np.ones_like(base.body)), *map(_packed, base.covered))
    rows, cols = ((side.stop - side.start) * mm for side, mm in zip(box[1:], base.spacing[1:], strict=True))
    shape = input_size(rows, cols, size, comparer.model.stride)
    everyone = replace(base, supports=tuple(volumes), covered=covered, support_bodies=bodies, box=box)

    def keep_features(worker: _References) -> tuple[Tensor, Tensor]:
        return _keep_features(folder, everyone, worker, shape, batch, progress, should_cancel)

    if comparer.volumes and comparer.volumes.applies(everyone):
        texture, reach = keep_features(_References(comparer))
        _keep_normal(folder, everyone, comparer.volumes, texture.to(comparer.device), reach.numpy())
    else:
        against_others, _ = keep_features(_JudgedReferences(comparer))
        np.save(folder / "left_out.npy", against_others.transpose(0, 1).contiguous().numpy())
    kept = _new_file(folder / "volumes.npy", (len(volumes), *volumes[0].shape))
    for number, volume in enumerate(volumes):
        kept[number] = volume
    _close([kept])
    for name, masks in (("covered", covered), ("bodies", bodies)):
        np.save(folder / f"{name}.npy", np.stack([mask.bits for mask in masks]))
    facts = {
        "plane": base.plane.value,
        "window": window,
        "box": [[side.start, side.stop] for side in box],
        "spacing": list(base.spacing),
        "cols": base.body.shape[2],
        "warnings": list(base.warnings),
        "aligned": [
            {"similarity": 1.0, "overlap": 1.0, "method": Alignment.NONE.value, "note": ""},
            *(
                {"similarity": a.similarity, "overlap": a.overlap, "method": a.method.value, "note": a.note}
                for a in base.aligned
            ),
        ],
        "crc32": {path.name: _crc(path) for path in sorted(folder.glob("*.np[yz]"))},
    }
    (folder / "facts.json").write_text(json.dumps(facts), encoding="utf-8")


def _packed(mask: NDArray[np.bool_] | PackedMask) -> PackedMask:
    return mask if isinstance(mask, PackedMask) else PackedMask.of(mask)


class _References:
    """In the comparer's place, of images of the references alone: the teacher's finest features, smoothed in
    plane, and the student's, (B, K, C, h, w) each."""

    def __init__(self, comparer: Comparer) -> None:
        self.device = comparer.device
        self.results_on = torch.device("cpu")
        self._comparer = comparer

    def on_cpu(self) -> _References:
        return type(self)(self._comparer.on_cpu())

    @torch.inference_mode()
    def batch(
        self, images: Tensor, covered: Tensor, known: Sequence[Tensor] | None = None
    ) -> tuple[Tensor, ...]:
        features = self._comparer.encode(images)
        found = (smoothed_in_plane(features[0]), *features[3:])
        return tuple(f.transpose(0, 1).to(torch.float16) for f in found)


class _JudgedReferences(_References):
    """Each reference against the others (B, K, h, w), and the features that a comparison looks at."""

    @torch.inference_mode()
    def batch(
        self, images: Tensor, covered: Tensor, known: Sequence[Tensor] | None = None
    ) -> tuple[Tensor, ...]:
        features = self._comparer.encode(images)
        # The first stands in for a query; what is wanted is each support against the others.
        against = self._comparer.compare_features([torch.cat([f[:1], f]) for f in features], covered)[2]
        assert against is not None
        kept = features if self._comparer.evidence.teacher else features[3:]
        return against.transpose(0, 1), *(f.transpose(0, 1).to(torch.float16) for f in kept)


def _keep_normal(
    folder: Path, everyone: Prepared, evidence: VolumeEvidence, texture: Tensor, reach: NDArray[np.bool_]
) -> None:
    """What the references of a gray volume give. texture: their features, (slices, K, C, h, w), smoothed in
    plane; reach: (K, slices, h, w)."""
    bodies = everyone.support_body_on((reach.shape[2], reach.shape[3]))
    looks = appearance_of(everyone, everyone.supports, list(bodies)) if evidence.appearance else ()
    write_normal(folder, learn_normal(everyone, evidence, texture, looks, bodies, reach))


def _keep_features(
    folder: Path,
    everyone: Prepared,
    worker: _References,
    shape: tuple[int, int],
    batch: int,
    progress: Progress,
    should_cancel: Callable[[], bool] | None,
) -> tuple[Tensor, Tensor]:
    """Keeps the features that a worker gives of all slices of the box; returns what it gives before them,
    slices first, and where the references reach, (K, slices, h, w)."""
    box = everyone.box
    count, done = box[0].stop - box[0].start, 0
    inputs = inputs_of(everyone.supports, everyone.covered, box, shape)
    stores: list[NDArray[np.float16]] = []
    firsts, reach = [], []
    with Batches(worker) as batches:
        results = batches.run(inputs, count, batch)
        while done < count:
            _go_on(done, count, progress, should_cancel)
            start = done
            done, (first, *features), covered = next(results)
            firsts.append(first)
            reach.append(covered)
            if not stores:
                stores = [_store(folder / f"features_{n}.npy", count, f) for n, f in enumerate(features)]
            for store, feature in zip(stores, features, strict=True):
                store[start:done] = feature.numpy()
    _close(stores)
    progress("references", count, count)
    return torch.cat(firsts), torch.cat(reach, dim=1)


def _go_on(done: int, count: int, progress: Progress, should_cancel: Callable[[], bool] | None) -> None:
    if should_cancel and should_cancel():
        raise Cancelled("Preparing the references was cancelled.")
    progress("references", done, count)


def _store(path: Path, count: int, features: Tensor) -> NDArray[np.float16]:
    """For all slices of features of which (B, K, C, h, w) are the first."""
    return _new_file(path, (count, *features.shape[1:]))


def _new_file(path: Path, shape: tuple[int, ...]) -> NDArray[np.float16]:
    return np.asanyarray(np.lib.format.open_memmap(path, "w+", np.float16, shape))


def _close(stores: Sequence[NDArray[np.float16]]) -> None:
    for store in stores:
        store.flush()  # type: ignore[attr-defined]


def _read(folder: Path) -> ReferenceSet:
    facts = json.loads((folder / "facts.json").read_text(encoding="utf-8"))
    sums = facts["crc32"]
    if side_by_side(lambda name: _crc(folder / name), sums) != list(sums.values()):
        raise ValueError("damaged")
    load = {path.stem: np.load(path, mmap_mode="r") for path in folder.glob("*.npy")}
    normal = read_normal(folder)
    covered, bodies = (
        tuple(PackedMask(bits, facts["cols"]) for bits in load[name]) for name in ("covered", "bodies")
    )
    return ReferenceSet(
        load["volumes"],
        covered,
        bodies,
        tuple(load[name] for name in sorted(load) if name.startswith("features_")),
        load["left_out"] if normal is None else normal.left_out,
        normal,
        facts,
    )


def _crc(path: Path) -> int:
    value = 0
    for block in _blocks(path):
        value = zlib.crc32(block, value)
    return value


def _blocks(path: Path) -> Iterator[bytes]:
    with open(path, "rb") as file:
        while block := file.read(1 << 22):
            yield block


def prepare_query(
    query: Volume,
    supports: Sequence[Volume],
    references: ReferenceSet,
    aligning: Aligning[AlignedSupport],
    progress: Progress,
) -> Prepared:
    """The study on the references' grid, as `prepare_study` has it on its own. Raises as that does."""
    from D24FADLib.imaging.planes import Plane

    facts = references.facts
    plane = Plane(facts["plane"])
    warnings = list(facts["warnings"])
    with aligning:
        moved = aligning.results(lambda done, total: progress("align", done, total))[0]
    progress("prepare", 0, 1)
    warnings += [f"the study: {moved.note}."] if moved.note else low_similarity("the study", moved)
    modality = guess_modality(query)
    own_mask = foreground_mask(moved.image, modality) & moved.inside
    first = np.asarray(references.volumes[0], np.float32)
    ready = matched_to(
        moved,
        own_mask,
        unslices(first, plane),
        unslices(np.asarray(references.bodies[0]), plane),
        modality,
        facts["window"],
    )
    progress("prepare", 1, 1)
    low, high = (tuple(side[end] for side in facts["box"]) for end in (0, 1))
    box = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
    canonical = to_canonical(query.image)
    return Prepared(
        canonical=moved.image,
        plane=plane,
        modality=modality,
        query=slices(ready, plane),
        supports=tuple(np.asarray(v) for v in references.volumes),
        body=slices(own_mask, plane),
        covered=references.covered,
        support_bodies=references.bodies,
        aligned=tuple(
            AlignedSupport(
                moved.image, moved.inside, moved.transform, a["similarity"], a["overlap"],
                Alignment(a["method"]), a["note"],
            )
            for a in facts["aligned"]
        ),
        box=(box[0], box[1], box[2]),
        spacing=tuple(facts["spacing"]),
        warnings=tuple(warnings),
        home=Home(canonical, moved.transform.GetInverse()),
        references=references,
    )  # fmt: skip


def prepare_for(
    query: Volume,
    supports: Sequence[Volume],
    options: DetectionOptions,
    comparer: Comparer,
    size: int,
    batch: int,
    model: str,
    progress: Progress,
    should_cancel: Callable[[], bool] | None,
    aligning: Aligning[AlignedSupport] | Preparing,
) -> Prepared:
    """The study ready for comparison: on the references' grid where `options.reference_cache` asks for it and
    the study and the disk allow it, else on its own. `aligning`: see `begin_aligning`. Raises as
    `prepare_study`."""
    reason = ""
    if isinstance(aligning, Aligning):
        try:
            found = find_or_make(supports, options, comparer, size, batch, model, progress, should_cancel)
            return prepare_query(query, supports, found, aligning, progress)
        except OSError as error:
            reason = f"the cache folder cannot be written ({error.strerror})"
    elif options.reference_cache and options.cache:
        reason = "it needs volumes and two references or more"
    begun = aligning if isinstance(aligning, Preparing) else None  # else that was the study to the references
    prepared = prepare_study(
        query, supports, options.plane, options.align, options.ct_window, progress, should_cancel, begun
    )
    if not reason:
        return prepared
    note = f"The kept references were not used: {reason}."
    return replace(prepared, warnings=(*prepared.warnings, note))
