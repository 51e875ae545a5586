"""Alignment, mostly on a phantom with a known transform; real heads where they are here."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from D24FADLib.errors import Cancelled
from D24FADLib.imaging.alignment import Alignment, align, align_all
from D24FADLib.imaging.foreground import foreground_mask
from D24FADLib.imaging.planes import to_canonical
from D24FADLib.imaging.reading import read_volume
from D24FADLib.imaging.volume import Volume


def head(spacing: float = 2.0, neck: bool = True) -> sitk.Image:
    """A lopsided head, 160 x 190 x 200 mm, with structures inside, LPS."""
    size = np.round(np.array([180, 210, 220]) / spacing).astype(int)
    z, y, x = (axis * spacing for axis in np.indices(size[::-1], dtype=float))
    values = np.zeros(size[::-1])
    neck_part = ((x - 90) / 45) ** 2 + ((y - 120) / 50) ** 2 < 1
    if neck:
        values[neck_part & (z < 100)] = 70
    values[((x - 90) / 72) ** 2 + ((y - 105) / 88) ** 2 + ((z - 130) / 78) ** 2 < 1] = 100
    values[((x - 90) / 62) ** 2 + ((y - 105) / 78) ** 2 + ((z - 130) / 68) ** 2 < 1] = 60
    blobs = [(70, 90, 140, 15, 20), (112, 95, 145, 12, 130), (90, 140, 110, 18, 110), (60, 120, 160, 14, 90)]
    blobs += [(120, 130, 160, 13, 25), (85, 60, 150, 12, 120), (105, 70, 115, 14, 95), (75, 110, 185, 9, 120)]
    for cx, cy, cz, radius, value in blobs:
        values[(x - cx) ** 2 + (y - cy) ** 2 + (z - cz) ** 2 < radius**2] = value
    values[np.abs(y - 118) + np.abs(z - 92) < 14] *= 1.4
    values += np.random.default_rng(0).normal(0, 2, values.shape)
    image = sitk.GetImageFromArray(values.astype(np.float32))
    image.SetSpacing([spacing] * 3)
    image.SetOrigin((-90, -105, -110))
    return sitk.SmoothingRecursiveGaussian(image, 1.5)


def known_affine(
    image: sitk.Image, degrees: float, scale: float, shift: tuple[float, float, float]
) -> sitk.AffineTransform:
    centre = image.TransformContinuousIndexToPhysicalPoint([(n - 1) / 2 for n in image.GetSize()])
    turn = sitk.Euler3DTransform()
    turn.SetRotation(*[float(np.radians(degrees) / np.sqrt(3))] * 3)
    truth = sitk.AffineTransform(3)
    truth.SetCenter(centre)
    truth.SetMatrix((np.array(turn.GetMatrix()) * scale).tolist())
    truth.SetTranslation(shift)
    return truth


def moved(image: sitk.Image, truth: sitk.AffineTransform) -> sitk.Image:
    """An image whose alignment to `image` is `truth` (points of `image` to points of the result)."""
    return sitk.Resample(image, image, truth.GetInverse(), sitk.sitkLinear, 0.0)


def mean_error(found: sitk.Transform, truth: sitk.Transform, image: sitk.Image) -> float:
    index = np.argwhere(foreground_mask(image))[::499, ::-1]
    points = [image.TransformIndexToPhysicalPoint([int(i) for i in row]) for row in index]
    difference = [np.subtract(found.TransformPoint(p), truth.TransformPoint(p)) for p in points]
    return float(np.linalg.norm(difference, axis=1).mean())


@pytest.mark.parametrize(
    ("method", "scale", "limit"), [(Alignment.RIGID, 1.0, 1.0), (Alignment.AFFINE, 1.08, 1.0)]
)
def test_a_known_transform_is_found(method: Alignment, scale: float, limit: float) -> None:
    query = head()
    truth = known_affine(query, 8, scale, (12, -5, 4))
    result = align(Volume(moved(query, truth), "support"), Volume(query, "query"), method)
    assert result.method is method
    assert result.note == ""
    assert mean_error(result.transform, truth, query) < limit
    assert result.overlap > 0.9
    assert (
        result.similarity
        > align(Volume(moved(query, truth), "s"), Volume(query, "q"), Alignment.POSITION).similarity
    )


def test_the_result_lies_on_the_canonical_grid_whatever_the_axes() -> None:
    query = sitk.DICOMOrient(head(4.0), "SAR")
    support = sitk.DICOMOrient(head(3.0), "RPI")
    result = align(Volume(support, "support"), Volume(query, "query"), Alignment.POSITION)
    canonical = to_canonical(query)
    assert result.image.GetSize() == canonical.GetSize()
    assert result.image.GetSpacing() == canonical.GetSpacing()
    assert result.image.GetOrigin() == canonical.GetOrigin()
    assert result.image.GetDirection() == canonical.GetDirection()
    assert result.inside.shape == sitk.GetArrayViewFromImage(canonical).shape
    both = np.corrcoef(
        sitk.GetArrayFromImage(result.image).ravel(), sitk.GetArrayFromImage(canonical).ravel()
    )
    assert both[0, 1] > 0.97


def test_a_neck_in_one_image_only() -> None:
    whole = head(neck=True)
    support = Volume(whole[:, :, 25:], "without neck")  # header positions still agree
    shifted = sitk.Image(support.image)
    shifted.SetOrigin((-90, -105, -110))  # now the header is 50 mm wrong
    truth = sitk.TranslationTransform(3, (0.0, 0.0, -50.0))
    result = align(Volume(shifted, "support"), Volume(whole, "query"), Alignment.RIGID)
    assert mean_error(result.transform, truth, whole) < 1.5
    assert 0.5 < result.overlap < 1


def test_a_slab_in_a_whole_head() -> None:
    whole = head()
    slab = sitk.Image(whole[:, :, 62:71])  # 18 mm
    origin = slab.GetOrigin()
    slab.SetOrigin((origin[0] + 6, origin[1] - 9, origin[2] + 25))
    truth = sitk.TranslationTransform(3, (-6.0, 9.0, -25.0))
    result = align(Volume(whole, "support"), Volume(slab, "query"), Alignment.RIGID)
    assert mean_error(result.transform, truth, slab) < 1.5
    assert result.inside.all()


def test_what_the_support_does_not_cover_is_background_and_outside() -> None:
    query = head(4.0)
    result = align(Volume(query[:, :, 20:], "support"), Volume(query, "query"), Alignment.POSITION)
    assert not result.inside[:20].any()
    assert result.inside[20:].all()
    values = sitk.GetArrayFromImage(result.image)
    assert (values[:20] == values.min()).all()
    np.testing.assert_allclose(values[20:], sitk.GetArrayFromImage(query)[20:], atol=1e-4)


def test_a_coarser_picture_in_colour_is_met_by_averages() -> None:
    """Fine stripes, a grey each colour of its own, come out as their mean; not as one stripe or the other."""
    stripes = np.zeros((1, 40, 40, 3), np.uint8)
    stripes[:, :, ::2] = (200, 100, 40)
    support = Volume(sitk.GetImageFromArray(stripes, isVector=True), "fine")
    coarse = sitk.GetImageFromArray(np.zeros((1, 10, 10, 3), np.uint8), isVector=True)
    coarse.SetSpacing((4.0, 4.0, 1.0))
    found = sitk.GetArrayFromImage(align(support, Volume(coarse, "coarse"), Alignment.NONE).image)
    np.testing.assert_allclose(found[0, 2:8, 2:8].mean((0, 1)), (100, 50, 20), atol=6)
    assert np.ptp(found[0, 2:8, 2:8, 0].astype(int)) < 20


def test_the_same_input_gives_the_same_bits_also_in_threads() -> None:
    query = Volume(head(6.0), "query")
    supports = [
        Volume(moved(query.image, known_affine(query.image, 5, scale, (6, 0, 0))), "support")
        for scale in (0.95, 1.05)
    ]
    calls: list[tuple[int, int]] = []
    together = align_all(supports, query, Alignment.AFFINE, progress=lambda *n: calls.append(n), workers=2)
    for support, result in zip(supports, together, strict=True):  # in order
        alone = align(support, query, Alignment.AFFINE)
        assert alone.transform.GetParameters() == result.transform.GetParameters()
        np.testing.assert_array_equal(
            sitk.GetArrayFromImage(alone.image), sitk.GetArrayFromImage(result.image)
        )
    assert calls[0] == (0, 2)
    assert calls[-1] == (2, 2)
    assert align_all([], query, Alignment.AFFINE) == []


def test_cancel() -> None:
    query = Volume(head(4.0), "query")
    asked = iter([False, False, True])
    with pytest.raises(Cancelled):
        align(query, query, Alignment.AFFINE, should_cancel=lambda: next(asked, True))
    with pytest.raises(Cancelled):
        align_all([query, query], query, Alignment.AFFINE, should_cancel=lambda: True)


def test_unrelated_content_never_gets_an_absurd_transform() -> None:
    query = Volume(head(8.0), "query")
    rng = np.random.default_rng(0)
    noise = sitk.GetImageFromArray(rng.normal(size=(40, 40, 40)).astype(np.float32))
    noise.SetSpacing((5, 5, 5))
    noise.SetOrigin((-100, -100, -100))
    result = align(Volume(noise, "noise"), query, Alignment.AFFINE)
    origin = np.array(result.transform.TransformPoint((0.0, 0.0, 0.0)))
    axes = [np.array(result.transform.TransformPoint(tuple(e))) - origin for e in np.eye(3)]
    assert 0.6 <= np.linalg.det(np.array(axes)) <= 1.7
    assert result.method is Alignment.AFFINE or result.note


def test_no_overlap_is_said() -> None:
    query = Volume(head(4.0), "query")
    far = sitk.Image(query.image)
    far.SetOrigin((5000, 0, 0))
    result = align(Volume(far, "support"), query, Alignment.POSITION)
    assert result.overlap == 0
    assert not result.inside.any()
    assert "covers only 0% of the query's body" in result.note
    assert align(Volume(far, "support"), query, Alignment.RIGID).overlap > 0.95  # registration finds it


@pytest.mark.parametrize("method", [Alignment.NONE, Alignment.AFFINE])
def test_single_images_are_stretched(method: Alignment) -> None:
    y, x = np.indices((60, 80))
    ramp = (x * 2 + y).astype(np.uint8)
    small = sitk.GetImageFromArray(ramp[None])
    colour = sitk.GetImageFromArray(np.dstack([ramp, 255 - ramp, ramp])[None], isVector=True)
    query = Volume(
        sitk.GetImageFromArray(np.zeros((1, 120, 160), np.uint8) + ramp.repeat(2, 0).repeat(2, 1)), "q"
    )
    result = align(Volume(small, "support"), query, method)
    assert result.method is Alignment.NONE
    assert bool(result.note) == (method is not Alignment.NONE)
    values = sitk.GetArrayFromImage(result.image)
    assert values.shape == (1, 120, 160)
    np.testing.assert_allclose(values[0, 30:90, 40:120], query.array()[0, 30:90, 40:120], atol=2)
    assert result.inside.all()
    shown = align(Volume(colour, "support"), query, method)
    assert sitk.GetArrayFromImage(shown.image).shape == (1, 120, 160, 3)
    assert sitk.GetArrayFromImage(shown.image).dtype == np.uint8


def test_a_picture_of_a_few_pixels_is_met_by_numbers() -> None:
    fine = np.random.default_rng(0).integers(100, 120, (1, 400, 400)).astype(np.uint8)
    query = Volume(sitk.GetImageFromArray(np.arange(9, dtype=np.uint8).reshape(1, 3, 3)), "q")
    moved = align(Volume(sitk.GetImageFromArray(fine), "support"), query, Alignment.NONE)
    np.testing.assert_allclose(sitk.GetArrayFromImage(moved.image), 109.5, atol=1)


def test_thick_slices_average_a_fine_support() -> None:
    fine = np.zeros((40, 16, 16), np.float32)
    fine[20, 4:12, 4:12] = 100  # one thin bright sheet
    support = sitk.GetImageFromArray(fine)
    thick = sitk.Image([16, 16, 8], sitk.sitkFloat32)
    thick.SetSpacing((1, 1, 5))
    thick.SetOrigin((0, 0, 2))
    values = sitk.GetArrayFromImage(thick)
    values[4, 4:12, 4:12] = 20
    query = sitk.GetImageFromArray(values)
    query.CopyInformation(thick)
    result = align(Volume(support, "support"), Volume(query, "query"), Alignment.POSITION)
    # Without averaging the sheet would be missed or shown at full strength, as it happens to fall.
    assert 8 < sitk.GetArrayFromImage(result.image)[4, 8, 8] < 35


def test_a_known_affine_of_a_real_head(volumes: Path) -> None:
    query = to_canonical(read_volume(volumes / "colin27_ch2" / "ch2.nii.gz").image)
    truth = known_affine(query, 8, 1.08, (12, 0, 0))
    result = align(Volume(moved(query, truth), "support"), Volume(query, "query"), Alignment.AFFINE)
    assert mean_error(result.transform, truth, query) < 2.5


def test_two_children(volumes: Path) -> None:
    first, second = (read_volume(volumes / "ptbp_t1_slabs" / f"sub0{n}_t1slab.nii.gz") for n in (1, 2))
    by_position = align(second, first, Alignment.POSITION)
    affine = align(second, first, Alignment.AFFINE)
    assert affine.similarity > by_position.similarity
    assert affine.overlap > 0.9
