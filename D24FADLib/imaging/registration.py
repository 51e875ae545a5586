"""Rigid and affine registration by mutual information, repeatable to the bit.

Transforms map points of the fixed image (the query) to points of the moving one (a support), in LPS mm.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from .foreground import coarse_foreground, on_grid
from .intensity import prepare

if TYPE_CHECKING:
    import SimpleITK as sitk

# Working grids in mm: finding the place, rigid, affine.
_COARSE, _MIDDLE, _FINE = 8.0, 4.0, 2.5
_MIN_SAMPLES_PER_AXIS = 8
_SEED = 20260713
_BINS = 32
_MAX_POINTS = {_COARSE: 20_000, _MIDDLE: 30_000, _FINE: 30_000}
_MARGIN_MM = 6.0
_STARTS_REFINED = 3


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
    fine = _coarsened(sitk.Cast(image, sitk.sitkFloat64), _FINE)
    window = "soft" if modality == "CT" else "auto"
    values = prepare(fine, modality, sitk.GetArrayViewFromImage(on_grid(body, fine)) > 0, window)
    prepared = sitk.GetImageFromArray(values)
    prepared.CopyInformation(fine)
    images = {_FINE: prepared, **{step: _coarsened(prepared, step) for step in (_MIDDLE, _COARSE)}}
    masks = {step: on_grid(body, level) for step, level in images.items()}
    return Pyramid(images, masks, *_extent(masks[_MIDDLE]))


def _coarsened(image: sitk.Image, step: float) -> sitk.Image:
    """Smoothed and resampled to about `step` mm, keeping at least 8 samples along each axis."""
    import SimpleITK as sitk

    size, spacing = np.array(image.GetSize()), np.array(image.GetSpacing())
    wanted = np.maximum(spacing, np.minimum(step, size * spacing / _MIN_SAMPLES_PER_AXIS))
    if np.allclose(wanted, spacing):
        return image
    new_size = np.maximum(1, np.round(size * spacing / wanted)).astype(int)
    new_spacing = size * spacing / new_size
    factors = np.maximum(1, np.floor(new_spacing / spacing)).astype(int)
    corner = image.TransformContinuousIndexToPhysicalPoint([-0.5] * 3)
    if factors.max() > 1:
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
    import SimpleITK as sitk

    direction = np.array(mask.GetDirection()).reshape(3, 3)
    spacing = np.array(mask.GetSpacing())
    index = np.argwhere(sitk.GetArrayViewFromImage(mask) > 0)[:, ::-1]
    points = np.array(mask.GetOrigin()) + (index * spacing) @ direction.T
    middle = (np.array(mask.GetSize()) - 1) / 2
    centre = np.array(mask.GetOrigin()) + direction @ (middle * spacing)
    return centre, points.mean(axis=0), points.min(axis=0), points.max(axis=0)


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
    values = sitk.GetArrayViewFromImage(shown)
    reference = sitk.GetArrayViewFromImage(fixed.images[step])
    body = sitk.GetArrayViewFromImage(fixed.masks[step]) > 0
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
    """Agreement that does not reward sliding out of the other image."""
    similarity, overlap = _agreement(fixed, moving, transform, step)
    return similarity * min(1.0, overlap / 0.9) ** 0.5


def register_rigid(
    fixed: Pyramid, moving: Pyramid, check: Callable[[], None] = lambda: None
) -> sitk.Euler3DTransform:
    """The best rigid transform; `check` is called between stages and may raise. Raises RuntimeError where
    the images never overlap."""
    starts = sorted(
        (_translation(shift, fixed) for shift in _start_shifts(fixed, moving)),
        key=lambda start: -_score(fixed, moving, start, _COARSE),
    )
    refined = []
    for start in starts[:_STARTS_REFINED]:
        check()
        try:
            refined.append(_optimize(fixed, moving, start, _COARSE, iterations=40, first_mm=4.0))
        except RuntimeError:
            continue  # hardly any overlap from this start
    if not refined:
        raise RuntimeError("no start with enough overlap")
    best = max(refined, key=lambda transform: _score(fixed, moving, transform, _COARSE))
    check()
    return _optimize(fixed, moving, best, _MIDDLE, iterations=40, first_mm=1.0)


def register_affine(
    fixed: Pyramid, moving: Pyramid, rigid: sitk.Euler3DTransform, check: Callable[[], None] = lambda: None
) -> sitk.AffineTransform:
    """The best affine transform near a rigid one."""
    import SimpleITK as sitk

    start = sitk.AffineTransform(3)
    start.SetCenter(rigid.GetCenter())
    start.SetMatrix(rigid.GetMatrix())
    start.SetTranslation(rigid.GetTranslation())
    for step, iterations, first_mm in ((_MIDDLE, 50, 0.5), (_FINE, 30, 0.25)):
        check()
        start = _optimize(fixed, moving, start, step, iterations, first_mm)
    return start


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


def _descend(
    fixed: Pyramid, moving: Pyramid, start: sitk.Transform, step: float, iterations: int, first_mm: float
) -> sitk.Transform:
    import SimpleITK as sitk

    image, mask = fixed.images[step], fixed.masks[step]
    radius = [max(1, round(_MARGIN_MM / spacing)) for spacing in mask.GetSpacing()]
    # The body's outline is the strongest landmark, so a margin of air belongs to the region compared.
    region = sitk.BinaryDilate(mask, radius)
    points = int(sitk.GetArrayViewFromImage(region).sum())
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
    method.Execute(image, moving.images[step])
    return transform
