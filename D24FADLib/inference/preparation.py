"""From volumes to comparable slices: aligned, intensities matched, cut in the plane, cropped to the body."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from D24FADLib.imaging.alignment import AlignedSupport, Aligning, Alignment
from D24FADLib.imaging.intensity import (
    choose_ct_window,
    foreground_mask,
    guess_modality,
    match_histogram,
    prepare,
)
from D24FADLib.imaging.masks import PackedMask
from D24FADLib.imaging.planes import (
    Plane,
    default_plane,
    in_plane_spacing,
    slice_spacing,
    slices,
    to_canonical,
)

if TYPE_CHECKING:
    import SimpleITK as sitk
    import torch
    from torch import Tensor

    from D24FADLib.imaging.volume import Volume
    from D24FADLib.inference.options import DetectionOptions
    from D24FADLib.inference.volumes import NormalVolume

Box = tuple[slice, slice, slice]
_MARGIN_MM = 6.0
_LARGE = 2**25  # voxels: of such volumes one is matched at a time, and float16 kept
# Of registered volumes. Heads of different people and scanners reach 0.15 to 0.6, coarse ones 0.1.
MIN_SIMILARITY = 0.08


class KnownReferences(Protocol):
    """What is known of supports before a study comes: see `reference_set.ReferenceSet`."""

    @property
    def left_out(self) -> NDArray[np.float32]: ...

    @property
    def normal(self) -> NormalVolume | None: ...

    def known(self, chunk: slice, device: torch.device) -> list[Tensor]: ...


@dataclass(frozen=True, eq=False)
class Home:
    """The query's own canonical grid, where it was compared on another one, and the transform of its points
    to that one's (LPS mm)."""

    canonical: sitk.Image
    transform: sitk.Transform

    def bring(self, image: sitk.Image, per_slice: bool = False) -> sitk.Image:
        """An image on the grid of comparison taken to the query's; beyond it 0. `per_slice`: each voxel has
        the value of the slice that it was compared in, beyond the grid that of the nearest slice."""
        import SimpleITK as sitk

        return sitk.Resample(
            image,
            self.canonical,
            self.transform,
            sitk.sitkNearestNeighbor if per_slice else sitk.sitkLinear,
            0.0,
            image.GetPixelID(),
            useNearestNeighborExtrapolator=per_slice,
        )


@dataclass(eq=False)
class Prepared:
    """Query and supports as slices of one plane, in [0, 1], on the query's canonical grid.

    query: (n, rows, cols[, 3]); supports: K of the same shape, float16 where they are large; body, and
    covered[k] (where support k reaches): (n, rows, cols) bool; support_bodies[k]: support k's own body;
    box: the part worth comparing. canonical is the query's image. spacing: mm (slice, row, col). home: None,
    unless all this lies on the references' grid; then references holds what is known of them.
    """

    canonical: sitk.Image
    plane: Plane
    modality: str
    query: NDArray[np.float32]
    supports: tuple[NDArray[np.floating], ...]
    body: NDArray[np.bool_]
    covered: tuple[NDArray[np.bool_] | PackedMask, ...]
    support_bodies: tuple[NDArray[np.bool_] | PackedMask, ...]
    aligned: tuple[AlignedSupport, ...]
    box: Box
    spacing: tuple[float, float, float]
    warnings: tuple[str, ...]
    home: Home | None = None
    references: KnownReferences | None = None

    def forget_supports(self) -> None:
        """Let go of the supports' voxels once they have served: most of what a large study needs."""
        self.supports = self.covered = self.support_bodies = ()
        self.references = None

    def support_body_on(self, grid: tuple[int, int]) -> NDArray[np.bool_]:
        """(K, n, h, w): each support's body in the box, on a feature grid."""
        return np.stack([on_grid(body, self.box, grid) for body in self.support_bodies])


def on_grid(mask: NDArray[np.bool_] | PackedMask, box: Box, grid: tuple[int, int]) -> NDArray[np.bool_]:
    """The box of a mask (n, rows, cols) at the positions of a feature grid: (n, h, w), corners aligned."""
    sections, *sides = box
    rows, cols = (
        side.start + np.linspace(0, side.stop - side.start - 1, count).round().astype(int)
        for side, count in zip(sides, grid, strict=True)
    )
    of_rows = (
        mask.of_rows(sections, rows) if isinstance(mask, PackedMask) else np.take(mask[sections], rows, 1)
    )
    return np.take(of_rows, cols, 2)


def on_references_grid(query: Volume, supports: Sequence[Volume]) -> bool:
    """Whether a study can be compared on its references' grid: volumes without colour, and two references."""
    volumes = [query, *supports]
    return len(supports) > 1 and not any(v.is_single_image or v.is_color for v in volumes)


def begin_aligning(
    query: Volume,
    supports: Sequence[Volume],
    options: DetectionOptions,
    should_cancel: Callable[[], bool] | None = None,
) -> Aligning[AlignedSupport] | Preparing:
    """What `prepare_for` or `prepare_study` will wait for, so that the networks are loaded meanwhile: the
    study onto the first reference where the references are kept, else the references onto the study."""
    if options.reference_cache and options.cache and on_references_grid(query, supports):
        return Aligning([query], supports[0], options.align or Alignment.AFFINE, should_cancel)
    return Preparing(query, supports, options.plane, options.align, options.ct_window, should_cancel)


@dataclass(frozen=True, eq=False)
class _Query:
    """Canonical, with its body, its CT window and its prepared voxels, (z, y, x[, 3])."""

    canonical: sitk.Image
    modality: str
    mask: NDArray[np.bool_]
    window: str
    ready: NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class _Support:
    """Prepared and matched slices, and how it was aligned."""

    array: NDArray[np.floating]
    body: PackedMask
    covered: PackedMask
    aligned: AlignedSupport


class Preparing:
    """`prepare_study`, begun at once in threads of its own: each support is aligned and matched there, so
    that only a few are there in their own voxels. A context, as `Aligning`."""

    def __init__(
        self,
        query: Volume,
        supports: Sequence[Volume],
        plane: Plane | None,
        align: Alignment | None,
        ct_window: str = "auto",
        should_cancel: Callable[[], bool] | None = None,
    ) -> None:
        self.plane = plane or default_plane(query)
        self._window = ct_window
        self._kinds = [guess_modality(support) for support in supports]
        self._large = int(np.prod(query.size)) > _LARGE
        self.query: Future[_Query] = Future()
        # once for both of its threads, and before either begins
        canonical = replace(query, image=to_canonical(query.image))
        own = canonical.apart()
        self._aligning = Aligning(
            supports, canonical, align or _usual(query), should_cancel, 1 if self._large else None,
            self._matched,
        )  # fmt: skip
        self._pool = ThreadPoolExecutor(1)
        self._pool.submit(self._prepare, own)

    def __enter__(self) -> Preparing:
        return self

    def __exit__(self, *_: object) -> None:
        self._aligning.__exit__()
        self._pool.shutdown(wait=False)

    def results(self, progress: Callable[[int, int], None] | None = None) -> list[_Support]:
        """As `Aligning.results`."""
        return self._aligning.results(progress)

    def _prepare(self, query: Volume) -> None:
        try:
            self.query.set_result(self._prepared(query))
        except BaseException as error:
            self.query.set_exception(error)

    def _prepared(self, query: Volume) -> _Query:
        canonical, modality = to_canonical(query.image), guess_modality(query)
        mask = foreground_mask(canonical, modality)
        window = self._window
        if modality == "CT" and window == "auto":
            window = choose_ct_window(canonical, mask, query.info.body_part)
        return _Query(canonical, modality, mask, window, prepare(canonical, modality, mask, window))

    def _matched(self, number: int, moved: AlignedSupport) -> _Support:
        query, kind = self.query.result(), self._kinds[number]
        own_mask = foreground_mask(moved.image, kind) & moved.inside
        array: NDArray[np.floating] = matched_to(moved, own_mask, query.ready, query.mask, kind, query.window)
        if self._large:
            array = array.astype(np.float16)
        body, covered = (PackedMask.of(slices(mask, self.plane)) for mask in (own_mask, moved.inside))
        return _Support(slices(array, self.plane), body, covered, moved.without_voxels())


def _usual(query: Volume) -> Alignment:
    return Alignment.NONE if query.is_single_image else Alignment.AFFINE


def prepare_study(
    query: Volume,
    supports: Sequence[Volume],
    plane: Plane | None,
    align: Alignment | None,
    ct_window: str = "auto",
    progress: Callable[[str, int, int], None] | None = None,
    should_cancel: Callable[[], bool] | None = None,
    preparing: Preparing | None = None,
) -> Prepared:
    """Align the supports, match their intensities and cut everything into slices of the plane.

    `preparing`: where that has begun already. `progress(step, done, total)`. What can be compared is checked
    before (`inputs.check_inputs`). Raises Cancelled.
    """
    with preparing or Preparing(query, supports, plane, align, ct_window, should_cancel) as begun:
        found = begun.results((lambda done, total: progress("align", done, total)) if progress else None)
        own, plane = begun.query.result(), begun.plane
    aligned = [one.aligned for one in found]
    if progress:
        progress("prepare", len(supports), len(supports))
    body = slices(own.mask, plane)
    row, col = in_plane_spacing(own.canonical, plane)
    spacing = (slice_spacing(own.canonical, plane), row, col)
    return Prepared(
        canonical=own.canonical,
        plane=plane,
        modality=own.modality,
        query=slices(own.ready, plane),
        supports=tuple(one.array for one in found),
        body=body,
        covered=tuple(one.covered for one in found),
        support_bodies=tuple(one.body for one in found),
        aligned=tuple(aligned),
        box=body_box(body, spacing),
        spacing=spacing,
        warnings=tuple(_said_of(supports, aligned)),
    )


def _said_of(supports: Sequence[Volume], aligned: Sequence[AlignedSupport]) -> list[str]:
    said = []
    for support, moved in zip(supports, aligned, strict=True):
        said += [f"{support.name}: {moved.note}."] if moved.note else low_similarity(support.name, moved)
    return said


def low_similarity(name: str, moved: AlignedSupport) -> list[str]:
    """A warning where a registration ended with images that do not look alike."""
    registered = moved.method in (Alignment.RIGID, Alignment.AFFINE)
    if not registered or moved.similarity >= MIN_SIMILARITY:
        return []
    return [
        f"{name} does not look like the study after alignment (similarity {moved.similarity:.2f}); is it the "
        "same anatomy and sequence?"
    ]


def matched_to(
    moved: AlignedSupport,
    own_mask: NDArray[np.bool_],
    query: NDArray[np.float32],
    query_mask: NDArray[np.bool_],
    modality: str,
    window: str,
) -> NDArray[np.float32]:
    """A support's prepared voxels with its tissue brought to the query's intensities."""
    ready = prepare(moved.image, modality, own_mask, window)
    # Hounsfield units and colours mean the same everywhere; pictures are spread over one range each when they
    # are compared, and an unaligned one has another share of every tissue.
    if modality == "CT" or ready.ndim == 4 or len(query) == 1:
        return ready
    return match_histogram(ready, own_mask, query, query_mask & moved.inside, in_place=True)


def body_box(body: NDArray[np.bool_], spacing: tuple[float, float, float]) -> Box:
    """The body's bounding box with a small margin; everything where there is no air."""
    sides: list[Any] = []
    for axis in range(3):
        hit = np.flatnonzero(body.any(axis=tuple(a for a in range(3) if a != axis)))
        margin = 0 if axis == 0 else round(_MARGIN_MM / spacing[axis])
        end = min(body.shape[axis], int(hit[-1]) + 1 + margin)
        sides.append(slice(max(0, int(hit[0]) - margin), end))
    return (sides[0], sides[1], sides[2])
