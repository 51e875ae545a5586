"""Rigid and affine registration by mutual information, repeatable to the bit.

Transforms map points of the fixed image (the query) to points of the moving one (a support), in LPS mm.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from .foreground import coarse_foreground, on_grid, shrunk
from .intensity import prepare
from .volume import array_view

if TYPE_CHECKING:
    import SimpleITK as sitk

# Working grids in mm: finding the place, rigid, affine.
_COARSE, _MIDDLE, _FINE = 8.0, 4.0, 2.5
_MIN_SAMPLES_PER_AXIS = 8
_SEED = 20260713
_BINS = 32
# Twice as many points move the result by 0.1 to 0.6 mm and raise the similarity by less than 1 %.
_MAX_POINTS = {_COARSE: 4_000, _MIDDLE: 8_000, _FINE: 15_000}
_MARGIN_MM = 6.0
# Starts tried on the coarse grid: at least this many, more where there are few voxels to compare.
_FEWEST_STARTS, _COARSE_EFFORT = 4, 60_000
_SAME_START_MM = 4.0
_HEADER_TRUST = 0.1  # taken off the agreement 100 mm from where the headers place the image
_WORTH_REFINING = 0.8  # of the best place's agreement


@dataclass(frozen=True)
class Pyramid:
    """One image on the working grids: prepared voxels (0..1) and foreground (uint8), by grid (mm)."""

    images: dict[float, sitk.Image]
    masks: dict[float, sitk.Image]
    centre: NDArray[np.float64]  # of the grid
    mass: NDArray[np.float64]  # centre of the foreground
    low: NDArray[np.float64]  # bounding box of the foreground
    high: NDArray[np.float64]


def pyramid(image: sitk.Image, modality: str) -> Pyramid:
    """The working grids of a scalar canonical image."""
    import SimpleITK as sitk

    body = coarse_foreground(image, modality)
    fine = _coarsened(image, _FINE, in_double=True)
    window = "soft" if modality == "CT" else "auto"
    values = prepare(fine, modality, array_view(on_grid(body, fine)) > 0, window)
    prepared = sitk.GetImageFromArray(values)
    prepared.CopyInformation(fine)
    images = {_FINE: prepared, **{step: _coarsened(prepared, step) for step in (_MIDDLE, _COARSE)}}
    masks = {step: on_grid(body, level) for step, level in images.items()}
    return Pyramid(images, masks, *_extent(masks[_MIDDLE]))


def _coarsened(image: sitk.Image, step: float, in_double: bool = False) -> sitk.Image:
    """Smoothed and resampled to about `step` mm, keeping at least 8 samples along each axis."""
    import SimpleITK as sitk

    size, spacing = np.array(image.GetSize()), np.array(image.GetSpacing())
    wanted = np.maximum(spacing, np.minimum(step, size * spacing / _MIN_SAMPLES_PER_AXIS))
    if np.allclose(wanted, spacing):
        return sitk.Cast(image, sitk.sitkFloat64) if in_double else image
    new_size = np.maximum(1, np.round(size * spacing / wanted)).astype(int)
    new_spacing = size * spacing / new_size
    factors = np.maximum(1, np.floor(new_spacing / spacing)).astype(int)
    corner = image.TransformContinuousIndexToPhysicalPoint([-0.5] * 3)
    if in_double:
        image = shrunk(image, factors.tolist())
    elif factors.max() > 1:
        image = sitk.BinShrink(image, factors.tolist())
    ratio = new_spacing / np.array(image.GetSpacing())
    # The part of the target's blur that averaging has not brought yet, in voxels.
    variance = np.maximum(ratio**2 - 1, 0) / 2.355**2
    smooth = (
        sitk.DiscreteGaussian(image, variance.tolist(), 32, 0.01, False) if variance.max() > 0.05 else image
    )
    # Half a voxel in from the same corner, so that both grids cover the same space.
    origin = np.array(corner) + np.array(image.GetDirection()).reshape(3, 3) @ (new_spacing / 2)
    return sitk.Resample(
        smooth,
        new_size.tolist(),
        sitk.Transform(),
        sitk.sitkLinear,
        origin.tolist(),
        new_spacing.tolist(),
        image.GetDirection(),
        0.0,
        image.GetPixelID(),
        True,
    )


def _extent(mask: sitk.Image) -> tuple[NDArray[np.float64], ...]:
    """Centre of the grid; centre, lowest and highest corner of the foreground: LPS mm."""

    direction = np.array(mask.GetDirection()).reshape(3, 3)
    spacing = np.array(mask.GetSpacing())
    inside = array_view(mask) > 0
    index = np.argwhere(inside if inside.any() else ~inside)[:, ::-1]  # of an empty image all of it
    points = np.array(mask.GetOrigin()) + (index * spacing) @ direction.T
    middle = (np.array(mask.GetSize()) - 1) / 2
    centre = np.array(mask.GetOrigin()) + direction @ (middle * spacing)
    return centre, points.mean(axis=0), points.min(axis=0), points.max(axis=0)


def agreement_score(fixed: Pyramid, moving: Pyramid, transform: sitk.Transform) -> float:
    """Similarity, less for sliding out of the other image: what decides between transforms (0..1)."""
    return _score(fixed, moving, transform, _MIDDLE)


def similarity_and_overlap(fixed: Pyramid, moving: Pyramid, transform: sitk.Transform) -> tuple[float, float]:
    """Normalised mutual information (0..1) in the part of the fixed foreground that the moving image
    covers, and how large that part is (0..1)."""
    return _agreement(fixed, moving, transform, _MIDDLE)


def _agreement(
    fixed: Pyramid, moving: Pyramid, transform: sitk.Transform, step: float
) -> tuple[float, float]:
    import SimpleITK as sitk

    # -1 marks what the moving image does not cover; prepared values are never negative.
    shown = sitk.Resample(moving.images[step], fixed.images[step], transform, sitk.sitkLinear, -1.0)
    values = array_view(shown)
    reference = array_view(fixed.images[step])
    body = array_view(fixed.masks[step]) > 0
    covered = body & (values >= 0)
    overlap = float(covered.sum() / max(1, body.sum()))
    return normalized_mutual_information(reference[covered], values[covered]), overlap


def normalized_mutual_information(a: NDArray[np.float32], b: NDArray[np.float32]) -> float:
    """2 * I(a; b) / (H(a) + H(b)) of values in 0..1, from 0 (unrelated) to 1 (one determines the other)."""
    if a.size < 2:
        return 0.0
    joint, _, _ = np.histogram2d(a, b, bins=_BINS, range=((0, 1), (0, 1)))
    entropies = [_entropy(counts) for counts in (joint.sum(axis=1), joint.sum(axis=0), joint)]
    total = entropies[0] + entropies[1]
    return float(max(0.0, 2 * (total - entropies[2]) / total)) if total > 0 else 0.0


def _entropy(counts: NDArray[np.float64]) -> float:
    probability = counts[counts > 0] / counts.sum()
    return float(-(probability * np.log(probability)).sum())


def _score(fixed: Pyramid, moving: Pyramid, transform: sitk.Transform, step: float) -> float:
    """Agreement that does not reward sliding out of the other image and, where two places agree as well,
    prefers the one nearer to what the headers say."""
    similarity, overlap = _agreement(fixed, moving, transform, step)
    centre = fixed.mass
    displacement = float(np.linalg.norm(np.array(transform.TransformPoint(centre.tolist())) - centre))
    trust = 1.0 - _HEADER_TRUST * min(1.0, displacement / 100.0)
    return similarity * min(1.0, overlap / 0.9) ** 0.5 * trust


def register_even(
    fixed: Pyramid, moving: Pyramid, scaled: bool, check: Callable[[], None] = lambda: None
) -> sitk.Transform:
    """The best rigid transform (Euler3D) or, `scaled`, the best one with one scale for all axes
    (Similarity3D). `check` is called between stages and may raise. Raises RuntimeError where the images
    never overlap."""
    places = _places(fixed, moving, scaled, check)
    scores = [_score(fixed, moving, place, _MIDDLE) for place in places]
    best, best_score = None, -1.0
    for place, score in zip(places, scores, strict=True):
        if best is not None and score < _WORTH_REFINING * scores[0]:
            continue
        check()
        result = _optimize(fixed, moving, place, _MIDDLE, iterations=40, first_mm=1.0)
        result_score = _score(fixed, moving, result, _MIDDLE)
        if result_score > best_score:
            best, best_score = result, result_score
    if scaled:
        return best  # the affine stage refines it
    check()
    return _optimize(fixed, moving, best, _FINE, iterations=20, first_mm=0.5)


def _places(fixed: Pyramid, moving: Pyramid, scaled: bool, check: Callable[[], None]) -> list[sitk.Transform]:
    """Up to three clearly different placements from the coarse grid, best first."""
    starts = sorted(
        (_translation(shift, fixed) for shift in _start_shifts(fixed, moving)),
        key=lambda start: -_score(fixed, moving, start, _COARSE),
    )
    # A thin slab fits in many places and is quick to try; a whole head is neither.
    points = int(_region(fixed, _COARSE)[1])
    found = []
    been: list[
        NDArray[np.float64]
    ] = []  # where searches began and ended: another from there finds nothing new
    for start in starts[: max(_FEWEST_STARTS, _COARSE_EFFORT // max(1, points))]:
        check()
        begin = _centre_through(start, fixed)
        if any(np.linalg.norm(begin - other) < _SAME_START_MM for other in been):
            continue
        been.append(begin)
        try:
            first = _as_similarity(start) if scaled else start
            place = _optimize(fixed, moving, first, _COARSE, iterations=40, first_mm=2.0 if scaled else 4.0)
        except RuntimeError:
            continue  # hardly any overlap from this start
        been.append(_centre_through(place, fixed))
        found.append((_score(fixed, moving, place, _MIDDLE), place))
    if not found:
        raise RuntimeError("no start with enough overlap")
    kept: list[tuple[NDArray[np.float64], sitk.Transform]] = []
    for _, place in sorted(found, key=lambda entry: -entry[0]):
        centre = _centre_through(place, fixed)
        if all(np.linalg.norm(centre - other) > _COARSE for other, _ in kept):
            kept.append((centre, place))
    return [place for _, place in kept[:3]]


def _centre_through(transform: sitk.Transform, fixed: Pyramid) -> NDArray[np.float64]:
    return np.array(transform.TransformPoint(fixed.mass.tolist()))


def _as_similarity(rigid: sitk.Euler3DTransform) -> sitk.Similarity3DTransform:
    import SimpleITK as sitk

    return _copied(rigid, sitk.Similarity3DTransform())


def _copied(source: sitk.Transform, target: sitk.Transform) -> sitk.Transform:
    target.SetCenter(source.GetCenter())
    target.SetMatrix(source.GetMatrix())
    target.SetTranslation(source.GetTranslation())
    return target


def register_affine(
    fixed: Pyramid, moving: Pyramid, start: sitk.Transform, check: Callable[[], None] = lambda: None
) -> sitk.AffineTransform:
    """The best affine transform near a rigid or similarity transform."""
    import SimpleITK as sitk

    result = _copied(start, sitk.AffineTransform(3))
    for step, iterations, first_mm in ((_MIDDLE, 50, 0.5), (_FINE, 30, 0.25)):
        check()
        result = _optimize(fixed, moving, result, step, iterations, first_mm)
    return result


def _translation(shift: NDArray[np.float64], fixed: Pyramid) -> sitk.Euler3DTransform:
    import SimpleITK as sitk

    transform = sitk.Euler3DTransform()
    transform.SetCenter(fixed.mass.tolist())
    transform.SetTranslation(shift.tolist())
    return transform


def _start_shifts(fixed: Pyramid, moving: Pyramid) -> list[NDArray[np.float64]]:
    """Where the moving image may lie: as its header says, by centres, by the top of the body, and at
    steps along the axis in which the two bodies differ most (a slab in a head, a neck in one only)."""
    by_mass = moving.mass - fixed.mass
    top = by_mass.copy()
    top[2] = moving.high[2] - fixed.high[2]
    shifts = [np.zeros(3), moving.centre - fixed.centre, by_mass, top]
    difference = (moving.high - moving.low) - (fixed.high - fixed.low)
    axis = int(np.argmax(np.abs(difference)))
    reach = abs(float(difference[axis])) / 2 + 2 * _COARSE
    for along in np.arange(-reach, reach + 1, _COARSE):
        shift = (moving.low + moving.high - fixed.low - fixed.high) / 2
        shift[axis] += along
        shifts.append(shift)
    return shifts


def _optimize(
    fixed: Pyramid, moving: Pyramid, start: sitk.Transform, step: float, iterations: int, first_mm: float
) -> sitk.Transform:
    """The optimum near `start`; `start` itself where the search ran away from it, even with small steps.

    The first step moves the image by about `first_mm`.
    """
    before = _score(fixed, moving, start, step)
    for length in (first_mm, first_mm / 4):
        result = _descend(fixed, moving, start, step, iterations, length)
        if _score(fixed, moving, result, step) >= before:
            return result
    return start


def _region(fixed: Pyramid, step: float) -> tuple[sitk.Image, int]:
    """The body and a margin of air, because its outline is the strongest landmark; and its voxels."""
    import SimpleITK as sitk

    mask = fixed.masks[step]
    radius = [max(1, round(_MARGIN_MM / spacing)) for spacing in mask.GetSpacing()]
    region = sitk.BinaryDilate(mask, radius)
    return region, int(array_view(region).sum())


def _descend(
    fixed: Pyramid, moving: Pyramid, start: sitk.Transform, step: float, iterations: int, first_mm: float
) -> sitk.Transform:
    import SimpleITK as sitk

    region, points = _region(fixed, step)
    method = sitk.ImageRegistrationMethod()
    # One work unit: the order of summation, and with it the last bit, must not depend on the machine.
    method.SetNumberOfThreads(1)
    method.SetNumberOfWorkUnits(1)
    method.SetMetricAsMattesMutualInformation(_BINS)
    method.SetMetricFixedMask(region)
    if points > _MAX_POINTS[step]:
        method.SetMetricSamplingStrategy(method.RANDOM)
        method.SetMetricSamplingPercentage(_MAX_POINTS[step] / points, _SEED)
    method.SetInterpolator(sitk.sitkLinear)
    method.SetOptimizerAsRegularStepGradientDescent(
        learningRate=first_mm,
        minStep=0.02,
        numberOfIterations=iterations,
        relaxationFactor=0.6,
        gradientMagnitudeTolerance=1e-8,
    )
    method.SetOptimizerScalesFromPhysicalShift()
    transform = type(start)(start)
    method.SetInitialTransform(transform, True)
    method.Execute(fixed.images[step], moving.images[step])
    return transform
