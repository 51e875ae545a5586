"""Bringing normal references (supports) onto the grid of the study in question (the query).

Slice k of an aligned support shows the anatomy of slice k of the query.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, replace
from enum import Enum
from functools import partial
from threading import Event
from typing import TYPE_CHECKING, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from ..errors import Cancelled
from .intensity import guess_modality
from .planes import to_canonical
from .registration import (
    Pyramid,
    agreement_score,
    pyramid,
    register_affine,
    register_even,
    similarity_and_overlap,
)
from .volume import array_view

if TYPE_CHECKING:
    import SimpleITK as sitk

    from .volume import Volume

T = TypeVar("T")

MIN_OVERLAP = 0.3
_VOLUME_CHANGE = (0.6, 1.7)
_STRETCHES = (0.7, 1.45)
_WIDEST = 24.0  # voxels of a smoothing: from 27 on ITK's kernel is not a number


class Alignment(str, Enum):
    """How supports are brought onto the query's grid."""

    NONE = "none"
    POSITION = "position"
    RIGID = "rigid"
    AFFINE = "affine"


@dataclass(frozen=True, eq=False)
class AlignedSupport:
    """A support on exactly the query's canonical grid.

    `image` keeps the support's voxel type where it has integers and no interpolation was needed, else is
    float32 (colour: 3 x uint8). `inside` (z, y, x) is where the support's field of view reaches.
    `transform` maps query points to support points (LPS mm). `similarity` is the normalised mutual
    information (0..1) in the covered part of the query's body, `overlap` the size of that part (0..1).
    `method` is what was done in the end, `note` says why where that is not what was asked for.
    """

    image: sitk.Image
    inside: NDArray[np.bool_]
    transform: sitk.Transform
    similarity: float
    overlap: float
    method: Alignment
    note: str = ""

    def without_voxels(self) -> AlignedSupport:
        """How it was aligned, once `image` and `inside` (then of one voxel) have served: they are large."""
        import SimpleITK as sitk

        return replace(self, image=sitk.Image([1, 1, 1], sitk.sitkUInt8), inside=np.ones((1, 1, 1), bool))


@dataclass(frozen=True, eq=False)
class _Side:
    """One of the two volumes, canonical, with its working grids (made once for a query)."""

    image: sitk.Image
    pyramid: Pyramid
    is_single: bool


def align(
    support: Volume, query: Volume, method: Alignment, should_cancel: Callable[[], bool] | None = None
) -> AlignedSupport:
    """Bring one support onto the query's canonical grid.

    none: the support's grid stretched onto the query's (for single images). position: by the coordinates
    in both headers. rigid, affine: registered, starting from wherever the two agree best. A registration
    that fails (less than 30 % of the query's body covered, a volume change outside 0.6 to 1.7, less
    agreement than without it) falls back from affine to even scaling to rigid to position and says so in
    `note`. Raises Cancelled. The same input gives the same bits.
    """
    return align_all([support], query, method, None, should_cancel, 1)[0]


def _as_it_is(number: int, aligned: AlignedSupport) -> AlignedSupport:
    return aligned


class Aligning(Generic[T]):
    """`align` for each support, begun at once in threads of its own, `workers` at a time (default: one per
    processor core, 8 at most). As most of it is compiled code, other threads get on with their work.

    `then(number, aligned)` makes there of each what is wanted of it: aligned voxels are large, and so only
    `workers` of them exist at a time. A context: what is not done when it is left is given up.
    `should_cancel` is asked in those threads.
    """

    def __init__(
        self,
        supports: Sequence[Volume],
        query: Volume,
        method: Alignment,
        should_cancel: Callable[[], bool] | None = None,
        workers: int | None = None,
        then: Callable[[int, AlignedSupport], T] = _as_it_is,  # type: ignore[assignment]
    ) -> None:
        import os

        self._left = Event()

        def stop() -> bool:
            return self._left.is_set() or bool(should_cancel and should_cancel())

        self._pool = ThreadPoolExecutor(workers or min(8, os.cpu_count() or 1))
        apart = [support.apart() for support in supports]
        # Submitted first, so that no worker waits for what has not begun.
        side = self._pool.submit(_side, query.apart())
        self._futures = [
            self._pool.submit(_align, support, side, Alignment(method), stop, partial(then, number))
            for number, support in enumerate(apart)
        ]

    def __enter__(self) -> Aligning[T]:
        return self

    def __exit__(self, *_: object) -> None:
        self._left.set()
        self._pool.shutdown(wait=False, cancel_futures=True)

    def results(self, progress: Callable[[int, int], None] | None = None) -> list[T]:
        """In order, when all are done. `progress(done, total)` is called in the calling thread, first with
        done = 0. To be called once. Raises Cancelled."""
        futures, self._futures = self._futures, []  # who waits owns them, and their memory
        total = len(futures)
        if progress:
            progress(0, total)
        pending = set(futures)
        while pending:
            finished, pending = wait(pending, return_when=FIRST_COMPLETED)
            for future in finished:
                future.result()
            if progress:
                progress(total - len(pending), total)
        return [future.result() for future in futures]


def align_all(
    supports: Sequence[Volume],
    query: Volume,
    method: Alignment,
    progress: Callable[[int, int], None] | None = None,
    should_cancel: Callable[[], bool] | None = None,
    workers: int | None = None,
) -> list[AlignedSupport]:
    """`Aligning` and its results."""
    with Aligning(supports, query, method, should_cancel, workers, _as_it_is) as aligning:
        return aligning.results(progress)


def _side(volume: Volume) -> _Side:
    import SimpleITK as sitk

    image = to_canonical(volume.image)
    scalar = image
    if volume.is_color:
        gray = array_view(image).mean(axis=-1, dtype=np.float32)
        scalar = sitk.GetImageFromArray(gray)
        scalar.CopyInformation(image)
    return _Side(image, pyramid(scalar, guess_modality(volume)), 1 in image.GetSize())


def _align(
    support: Volume,
    query_side: Future[_Side],
    method: Alignment,
    should_cancel: Callable[[], bool],
    then: Callable[[AlignedSupport], T],
) -> T:
    def check() -> None:
        if should_cancel():
            raise Cancelled("Alignment was cancelled.")

    check()
    side = _side(support)
    query = query_side.result()
    check()
    transform, used, note = _transform(side, query, method, check)
    similarity, overlap = similarity_and_overlap(query.pyramid, side.pyramid, transform)
    if overlap < MIN_OVERLAP and not note:
        note = f"covers only {overlap:.0%} of the query's body"
    check()
    image, inside = _resampled(side.image, query.image, transform)
    del side
    return then(AlignedSupport(image, inside, transform, similarity, overlap, used, note))


def _transform(
    support: _Side, query: _Side, method: Alignment, check: Callable[[], None]
) -> tuple[sitk.Transform, Alignment, str]:
    import SimpleITK as sitk

    identity = sitk.AffineTransform(3)
    if method is Alignment.NONE:
        return _stretch(query.image, support.image), method, ""
    if method is Alignment.POSITION:
        return identity, method, ""
    if query.is_single or support.is_single:
        if query.is_single and support.is_single:
            return _stretch(query.image, support.image), Alignment.NONE, "single images are not registered"
        return identity, Alignment.POSITION, "a single slice cannot be registered to a volume"
    return _registered(query.pyramid, support.pyramid, method, check)


def _registered(
    fixed: Pyramid, moving: Pyramid, method: Alignment, check: Callable[[], None]
) -> tuple[sitk.Transform, Alignment, str]:
    """The most that works of affine, evenly scaled, rigid and by position, and a note where it is less
    than was asked for."""
    import SimpleITK as sitk

    notes: list[str] = []
    identity = sitk.AffineTransform(3)
    to_beat = agreement_score(fixed, moving, identity)
    can_cover = similarity_and_overlap(fixed, moving, identity)[1] >= MIN_OVERLAP

    def usable(transform: sitk.Transform, what: str) -> bool:
        problem = _problem(transform, fixed, moving, to_beat, can_cover)
        if problem:
            notes.append(f"{what} registration {problem}")
        return not problem

    try:
        if method is Alignment.AFFINE:
            scaled = register_even(fixed, moving, True, check)
            affine = register_affine(fixed, moving, scaled, check)
            if usable(affine, "affine"):
                return affine, Alignment.AFFINE, ""
            if usable(scaled, "scaled"):
                return scaled, Alignment.AFFINE, f"{notes[0]}; scaled evenly instead"
        rigid = register_even(fixed, moving, False, check)
        if usable(rigid, "rigid"):
            return rigid, Alignment.RIGID, f"{notes[0]}; rigid instead" if notes else ""
    except RuntimeError:
        notes.append("registration found too little overlap")
    return identity, Alignment.POSITION, f"{notes[-1]}; placed by position instead"


def _problem(
    transform: sitk.Transform, fixed: Pyramid, moving: Pyramid, to_beat: float, can_cover: bool
) -> str:
    """Why this result cannot be used, or "". Little overlap is accepted only where position has no more."""
    stretches = np.linalg.svd(np.array(transform.GetMatrix()).reshape(3, 3), compute_uv=False)
    volume = float(np.prod(stretches))
    if not _VOLUME_CHANGE[0] <= volume <= _VOLUME_CHANGE[1]:
        return f"changed the volume by a factor of {volume:.2f}"
    if stretches.min() < _STRETCHES[0] or stretches.max() > _STRETCHES[1]:
        return f"stretched by {stretches.min():.2f} to {stretches.max():.2f}"
    overlap = similarity_and_overlap(fixed, moving, transform)[1]
    if overlap < MIN_OVERLAP and can_cover:
        return f"left {overlap:.0%} overlap"
    return "" if agreement_score(fixed, moving, transform) >= to_beat else "made the agreement worse"


def _index_to_point(image: sitk.Image) -> NDArray[np.float64]:
    """4 x 4, from voxel index (i, j, k) to LPS mm."""
    matrix = np.eye(4)
    matrix[:3, :3] = np.array(image.GetDirection()).reshape(3, 3) * np.array(image.GetSpacing())
    matrix[:3, 3] = image.GetOrigin()
    return matrix


def _stretch(query: sitk.Image, support: sitk.Image) -> sitk.Transform:
    """Query points to support points such that both grids' outer edges meet."""
    import SimpleITK as sitk

    ratio = np.array(support.GetSize()) / np.array(query.GetSize())
    scaling = np.eye(4)
    scaling[:3, :3] = np.diag(ratio)
    scaling[:3, 3] = (ratio - 1) / 2  # voxel centres are at whole indices, edges half a voxel out
    matrix = _index_to_point(support) @ scaling @ np.linalg.inv(_index_to_point(query))
    transform = sitk.AffineTransform(3)
    transform.SetMatrix(matrix[:3, :3].ravel().tolist())
    transform.SetTranslation(matrix[:3, 3].tolist())
    return transform


def _resampled(
    support: sitk.Image, query: sitk.Image, transform: sitk.Transform
) -> tuple[sitk.Image, NDArray[np.bool_]]:
    """The support on the query's grid, its minimum where it does not reach; and where it reaches."""
    import SimpleITK as sitk

    color = support.GetNumberOfComponentsPerPixel() > 1
    source = _smoothed(support, query, transform)
    background = 0.0 if color else float(array_view(support).min())
    kind = support.GetPixelID() if color else sitk.sitkFloat32
    image = sitk.Resample(source, query, transform, sitk.sitkLinear, background, kind)
    ones = sitk.Image(support.GetSize(), sitk.sitkUInt8) + 1
    ones.CopyInformation(support)
    covered = sitk.Resample(ones, query, transform, sitk.sitkNearestNeighbor, 0, sitk.sitkUInt8)
    return image, np.asarray(array_view(covered) > 0)


def _smoothed(support: sitk.Image, query: sitk.Image, transform: sitk.Transform) -> sitk.Image:
    """Where the query's voxels are much larger, average the support over them, as its scanner would have."""
    import SimpleITK as sitk

    linear = sitk.AffineTransform(3)
    origin = np.array(transform.TransformPoint((0.0, 0.0, 0.0)))
    columns = [np.array(transform.TransformPoint(tuple(unit))) - origin for unit in np.eye(3)]
    linear.SetMatrix(np.array(columns).T.ravel().tolist())
    matrix = np.array(linear.GetMatrix()).reshape(3, 3)
    steps = np.linalg.inv(_index_to_point(support)[:3, :3]) @ matrix @ _index_to_point(query)[:3, :3]
    ratio = np.abs(steps).max(axis=1)  # support voxels per query voxel, along each support axis
    sigma = np.where(ratio > 1.5, np.sqrt(np.maximum(ratio**2 - 1, 0)) / 2.355, 0.0)
    sigma = np.where(np.array(support.GetSize()) > 1, np.minimum(sigma, _WIDEST), 0.0)
    if sigma.max() == 0:
        return support

    def smoothed(channel: sitk.Image) -> sitk.Image:
        return sitk.DiscreteGaussian(channel, (sigma**2).tolist(), 32, 0.01, False)

    if support.GetNumberOfComponentsPerPixel() == 1:
        return smoothed(sitk.Cast(support, sitk.sitkFloat32))
    channels = range(support.GetNumberOfComponentsPerPixel())
    parts = [smoothed(sitk.VectorIndexSelectionCast(support, n, sitk.sitkFloat32)) for n in channels]
    return sitk.Cast(sitk.Compose(parts), support.GetPixelID())
