"""Simulated brains for the demo and the tests: one real template, many made-up subjects, lesions on demand.

The anatomy is the MNI152 T1 average brain (skull-stripped, as the nilearn package ships it); what
differs between subjects (shape, position, bias field, contrast, noise) is drawn at random. Nothing
here stands for a real patient.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import resources
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from D24FADLib.errors import InputError
from D24FADLib.imaging.volume import Volume, VolumeInfo

if TYPE_CHECKING:
    import SimpleITK as sitk

LesionKind = Literal["bright", "dark", "smooth", "noisy"]
_TEMPLATE = "datasets/data/mni_icbm152_t1_tal_nlin_sym_09a_converted.nii.gz"


@dataclass(frozen=True)
class Lesion:
    """A lesion to implant: where (RAS mm), how large (diameter in mm), and of what kind."""

    center_ras: tuple[float, float, float]
    diameter_mm: float
    kind: LesionKind = "dark"


def load_template() -> sitk.Image:
    """The MNI152 T1 brain of the nilearn package, 1 mm, float32; InputError if nilearn is not installed."""
    import SimpleITK as sitk

    try:
        path = resources.files("nilearn") / _TEMPLATE
    except ModuleNotFoundError:
        raise InputError("the demo's template is not installed: pip install 'd24fad[demo]'") from None
    with resources.as_file(path) as file:
        return sitk.ReadImage(str(file), sitk.sitkFloat32)


def _smooth_field(shape: tuple[int, ...], sigma: float, rng: np.random.Generator) -> NDArray[np.float64]:
    """A smooth random field of standard deviation 1; `sigma` in voxels."""
    from scipy.ndimage import gaussian_filter, zoom

    step = max(1, int(sigma // 2))  # a smooth field needs few samples
    coarse = rng.standard_normal([n // step + 3 for n in shape])
    field = gaussian_filter(coarse, sigma / step, mode="wrap")
    full = zoom(field, [(n + 1) / (c - 1) for n, c in zip(shape, coarse.shape, strict=True)], order=1)
    full = full[tuple(slice(0, n) for n in shape)]
    return np.asarray((full - full.mean()) / full.std())


def _random_pose(image: sitk.Image, rng: np.random.Generator) -> sitk.Transform:
    """A small rotation (sd 3 degrees), shift (sd 3 mm) and anisotropic scale (sd 3 %) about the centre."""
    import SimpleITK as sitk

    pose = sitk.AffineTransform(3)
    center = image.TransformContinuousIndexToPhysicalPoint([(n - 1) / 2 for n in image.GetSize()])
    pose.SetCenter(center)
    for axes in ((0, 1), (0, 2), (1, 2)):
        pose.Rotate(*axes, float(rng.normal(0, np.deg2rad(3))))
    pose.Scale([float(s) for s in 1 + rng.normal(0, 0.03, 3)])
    pose.Translate([float(t) for t in rng.normal(0, 3, 3)])
    return pose


def make_subject(
    seed: int,
    *,
    spacing_mm: float = 1.5,
    shape_mm: float = 2.0,
    lesion: Lesion | None = None,
    template: sitk.Image | None = None,
) -> tuple[Volume, Volume]:
    """A simulated subject and its lesion mask (uint8), both on the subject's own grid.

    shape_mm: standard deviation of the smooth random displacement of the anatomy. The same seed gives
    the same subject, with or without a lesion.
    """
    import SimpleITK as sitk

    template = load_template() if template is None else template
    rng = np.random.default_rng([20, seed])
    size = [round(n * s / spacing_mm) for n, s in zip(template.GetSize(), template.GetSpacing(), strict=True)]
    grid = sitk.Image(size, sitk.sitkFloat32)
    grid.SetSpacing([spacing_mm] * 3)
    grid.SetDirection(template.GetDirection())
    grid.SetOrigin(template.GetOrigin())
    shape = tuple(size[::-1])

    vectors = np.stack([_smooth_field(shape, 18 / spacing_mm, rng) * shape_mm for _ in range(3)], axis=-1)
    displacement = sitk.GetImageFromArray(vectors, isVector=True)
    displacement.CopyInformation(grid)
    bend = sitk.DisplacementFieldTransform(displacement)
    warp = sitk.CompositeTransform([_random_pose(template, rng), bend])
    brain = sitk.GetArrayFromImage(sitk.Resample(template, grid, warp, sitk.sitkLinear, 0.0)) / 255.0

    tissue = np.clip(brain, 0, 1) ** rng.uniform(0.85, 1.2)
    bias = np.exp(0.06 * _smooth_field(shape, 45 / spacing_mm, rng))
    gain = rng.uniform(400, 1200)
    noise = rng.standard_normal((2, *shape)) * 0.02
    lesion_rng = np.random.default_rng([21, seed])
    mask = np.zeros(shape, np.uint8)
    if lesion is not None:
        tissue, mask = _implant(tissue, grid, lesion, lesion_rng)
    # Rician noise, as in a magnitude image
    voxels = np.hypot(tissue * bias + noise[0], noise[1]) * gain
    image = sitk.GetImageFromArray(voxels.astype(np.int16))
    image.CopyInformation(grid)
    subject = Volume(image, f"subject_{seed:02d}", VolumeInfo(modality="MR", body_part="BRAIN"))
    return subject, subject.with_array(mask, f"subject_{seed:02d}_lesion")


def _implant(
    tissue: NDArray[np.float64], grid: sitk.Image, lesion: Lesion, rng: np.random.Generator
) -> tuple[NDArray[np.float64], NDArray[np.uint8]]:
    """A soft-edged irregular ball of the asked kind, inside the tissue only."""
    r, a, s = lesion.center_ras
    center = grid.TransformPhysicalPointToContinuousIndex((-r, -a, s))[::-1]
    spacing = np.asarray(grid.GetSpacing())[::-1]
    axes = np.meshgrid(*(np.arange(n) for n in tissue.shape), indexing="ij", sparse=True)
    distance = np.sqrt(sum(((x - c) * d) ** 2 for x, c, d in zip(axes, center, spacing, strict=True)))
    radius = lesion.diameter_mm / 2
    distance = distance + _smooth_field(tissue.shape, radius / 2 / spacing[0], rng) * radius * 0.1
    share = 1 / (1 + np.exp((distance - radius) / 0.6)) * (tissue > 0.1)
    local = float(np.average(tissue, weights=share + 1e-12))
    content = {
        "bright": np.full(tissue.shape, min(local * 1.35, 1.15)),
        "dark": np.full(tissue.shape, local * 0.55),
        "smooth": np.full(tissue.shape, local),
        "noisy": tissue + 0.25 * rng.standard_normal(tissue.shape),
    }[lesion.kind]
    return tissue * (1 - share) + content * share, (share > 0.5).astype(np.uint8)
