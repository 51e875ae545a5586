"""A reference set prepared once for many studies of the same protocol.

Usually the references are brought onto each study's grid, which repeats their alignment and encoding for
every study. Here they are brought once onto the grid of the first of them, encoded and judged against each
other there; what comes out is kept (see `cache`). A new study is registered once, to that grid, and compared
there; its maps are taken back to its own grid. Its voxels are interpolated once, as the references' are.
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

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from D24FADLib import __version__
from D24FADLib.errors import Cancelled
from D24FADLib.imaging.alignment import AlignedSupport, Aligning, Alignment
from D24FADLib.imaging.intensity import choose_ct_window, foreground_mask, guess_modality
from D24FADLib.imaging.planes import slices, to_canonical, unslices
from D24FADLib.imaging.volume import Volume
from D24FADLib.inference.cache import kept_whole, references_folder, trim, used
from D24FADLib.inference.comparison import Comparer, input_size, inputs_of
from D24FADLib.inference.options import DetectionOptions
from D24FADLib.inference.preparation import (
    Home,
    Prepared,
    body_box,
    low_similarity,
    matched_to,
    on_references_grid,
    prepare_study,
)
from D24FADLib.inference.resident import Resident

Progress = Callable[[str, int, int], None]
_FORMAT = 1
_SCALES = 6  # teacher's and student's, three each


@dataclass(frozen=True, eq=False)
class ReferenceSet:
    """Everything about the references that does not depend on a study, on the first one's canonical grid.

    volumes, covered, bodies: (K, n, rows, cols), see `Prepared`. features: six arrays (slices of the box,
    K, C, h, w) float16. left_out: (K, slices, h, w), see `Comparison`, unmasked. facts: plane, box, spacing,
    CT window, and each support's similarity, overlap, method and note.
    """

    volumes: NDArray[np.float16]
    covered: NDArray[np.bool_]
    bodies: NDArray[np.bool_]
    features: tuple[NDArray[np.float16], ...]
    left_out: NDArray[np.float32]
    facts: dict[str, Any]

    def known(self, chunk: slice, device: torch.device) -> list[Tensor]:
        """The features of slices of the box as the comparer takes them: (K, B, C, h, w) each."""
        return self._resident(chunk, device)

    @cached_property
    def _resident(self) -> Resident:
        return Resident(self.features)


def reference_key(supports: Sequence[Volume], options: DetectionOptions, model: str, encoder: str) -> str:
    """A checksum of what the set depends on; the supports' order counts, as the first gives the grid."""
    asked = (options.plane, options.align, options.ct_window)
    parts = [__version__, str(_FORMAT), model, encoder, repr([getattr(a, "value", a) for a in asked])]
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
    encoder = f"{comparer.encoder.name} {comparer.encoder.precision} {size}"
    folder = references_folder() / reference_key(supports, options, model, encoder)
    if folder.is_dir():
        try:
            found = _read(folder)
            used(folder)
            return found
        except (OSError, ValueError, KeyError):  # damaged, or being removed: make it anew
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
    bodies = np.stack([base.body, *base.support_bodies])
    box = body_box(np.asarray(bodies.any(axis=0)), base.spacing)
    volumes = [base.query, *base.supports]
    covered = [np.ones_like(base.body), *base.covered]
    rows, cols = ((side.stop - side.start) * mm for side, mm in zip(box[1:], base.spacing[1:], strict=True))
    shape = input_size(rows, cols, size, comparer.model.stride)
    inputs = inputs_of(volumes, covered, box, shape)
    count = box[0].stop - box[0].start
    stores: list[NDArray[np.float16]] = []
    left_out = np.zeros((len(volumes), count, shape[0] // 4, shape[1] // 4), np.float32)
    for start in range(0, count, batch):
        if should_cancel and should_cancel():
            raise Cancelled("Preparing the references was cancelled.")
        progress("references", start, count)
        chunk = slice(start, min(start + batch, count))
        images, reach, _ = inputs(chunk, comparer.device)
        with torch.inference_mode():
            features = [f.unflatten(0, images.shape[:2]) for f in comparer.encoder(images.flatten(0, 1))]
            # The first stands in for a query; what is wanted is each support against the others.
            judged = comparer.compare_features([torch.cat([f[:1], f]) for f in features], reach)[2]
        assert judged is not None
        left_out[:, chunk] = judged.cpu().numpy()
        if not stores:
            stores = [_store(folder / f"features_{n}.npy", count, f) for n, f in enumerate(features)]
        for store, feature in zip(stores, features, strict=True):
            store[chunk] = feature.transpose(0, 1).to(torch.float16).cpu().numpy()
    progress("references", count, count)
    for store in stores:
        store.flush()  # type: ignore[attr-defined]
    np.save(folder / "volumes.npy", np.stack(volumes).astype(np.float16))
    np.save(folder / "covered.npy", np.stack(covered))
    np.save(folder / "bodies.npy", bodies)
    np.save(folder / "left_out.npy", left_out)
    facts = {
        "plane": base.plane.value,
        "window": window,
        "box": [[side.start, side.stop] for side in box],
        "spacing": list(base.spacing),
        "warnings": list(base.warnings),
        "aligned": [
            {"similarity": 1.0, "overlap": 1.0, "method": Alignment.NONE.value, "note": ""},
            *(
                {"similarity": a.similarity, "overlap": a.overlap, "method": a.method.value, "note": a.note}
                for a in base.aligned
            ),
        ],
        "crc32": {path.name: _crc(path) for path in sorted(folder.glob("*.npy"))},
    }
    (folder / "facts.json").write_text(json.dumps(facts), encoding="utf-8")


def _store(path: Path, count: int, features: Tensor) -> NDArray[np.float16]:
    volumes, _, *rest = features.shape
    opened = np.lib.format.open_memmap(path, "w+", np.float16, (count, volumes, *rest))
    return np.asanyarray(opened)


def _read(folder: Path) -> ReferenceSet:
    facts = json.loads((folder / "facts.json").read_text(encoding="utf-8"))
    for name, expected in facts["crc32"].items():
        if _crc(folder / name) != expected:
            raise ValueError("damaged")
    load = {path.stem: np.load(path, mmap_mode="r") for path in folder.glob("*.npy")}
    return ReferenceSet(
        load["volumes"],
        load["covered"],
        load["bodies"],
        tuple(load[f"features_{n}"] for n in range(_SCALES)),
        load["left_out"],
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
    aligning: Aligning,
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
        covered=tuple(np.asarray(c) for c in references.covered),
        support_bodies=tuple(np.asarray(b) for b in references.bodies),
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
    aligning: Aligning,
) -> Prepared:
    """The study ready for comparison: on the references' grid where `options.reference_cache` asks for it and
    the study and the disk allow it, else on its own. `aligning`: see `begin_aligning`. Raises as
    `prepare_study`."""
    reason = ""
    begun: Aligning | None = aligning
    if options.reference_cache and options.cache:
        if on_references_grid(query, supports):
            try:
                found = find_or_make(supports, options, comparer, size, batch, model, progress, should_cancel)
                return prepare_query(query, supports, found, aligning, progress)
            except OSError as error:
                begun = None  # that was the study to the references
                reason = f"the cache folder cannot be written ({error.strerror})"
        else:
            reason = "it needs volumes and two references or more"
    prepared = prepare_study(
        query, supports, options.plane, options.align, options.ct_window, progress, should_cancel, begun
    )
    if not reason:
        return prepared
    note = f"The kept references were not used: {reason}."
    return replace(prepared, warnings=(*prepared.warnings, note))
