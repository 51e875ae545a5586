from __future__ import annotations

import itertools

import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import given, settings
from hypothesis import strategies as st

from D24FADLib.imaging.planes import (
    Plane,
    canonical_view,
    default_plane,
    from_canonical,
    image_of_slices,
    in_plane_spacing,
    slice_axis,
    slice_index,
    slice_spacing,
    slices,
    to_canonical,
    unslices,
)
from D24FADLib.imaging.volume import Volume

SIZE, SPACING, ORIGIN = (7, 5, 4), (0.7, 1.1, 3.0), (11.0, -23.0, 5.5)


def signed_permutations() -> list[np.ndarray]:
    """All 48 ways the axes of an array can lie along the patient's; half of them are left-handed."""
    matrices = []
    for order in itertools.permutations(range(3)):
        for signs in itertools.product((1.0, -1.0), repeat=3):
            matrix = np.zeros((3, 3))
            matrix[list(order), range(3)] = signs
            matrices.append(matrix)
    return matrices


def rotation(x: float, y: float, z: float) -> np.ndarray:
    transform = sitk.Euler3DTransform()
    transform.SetRotation(*np.radians([x, y, z]))
    return np.array(transform.GetMatrix()).reshape(3, 3)


def image(direction: np.ndarray, components: int = 1) -> sitk.Image:
    rng = np.random.default_rng(1)
    shape = SIZE[::-1] + ((components,) if components > 1 else ())
    result = sitk.GetImageFromArray(rng.integers(1, 200, shape, dtype=np.uint8), isVector=components > 1)
    result.SetSpacing(SPACING)
    result.SetOrigin(ORIGIN)
    result.SetDirection(direction.ravel().tolist())
    return result


def same_grid(a: sitk.Image, b: sitk.Image) -> bool:
    return (
        a.GetSize() == b.GetSize()
        and a.GetSpacing() == b.GetSpacing()
        and a.GetOrigin() == b.GetOrigin()
        and a.GetDirection() == b.GetDirection()
    )


@pytest.mark.parametrize(
    "tilt", [np.eye(3), rotation(20, 0, 0), rotation(12, -9, 14)], ids=["0", "20", "abc"]
)
@pytest.mark.parametrize("direction", signed_permutations())
def test_round_trip_keeps_every_voxel_and_the_grid(direction: np.ndarray, tilt: np.ndarray) -> None:
    original = image(tilt @ direction)
    canonical = to_canonical(original)
    back = from_canonical(canonical, original)
    assert same_grid(back, original)
    np.testing.assert_array_equal(sitk.GetArrayFromImage(back), sitk.GetArrayFromImage(original))
    # Canonical axes point along +x, +y, +z, up to the tilt.
    assert np.diag(np.array(canonical.GetDirection()).reshape(3, 3)).min() > 0.85


@pytest.mark.parametrize("direction", signed_permutations())
def test_a_landmark_stays_at_its_place_in_the_patient(direction: np.ndarray) -> None:
    original = image(rotation(20, 5, 0) @ direction)
    original[2, 3, 1] = 255
    point = np.array(original.TransformIndexToPhysicalPoint((2, 3, 1)))
    canonical = to_canonical(original)
    k, j, i = (int(x) for x in np.argwhere(sitk.GetArrayFromImage(canonical) == 255)[0])
    np.testing.assert_allclose(canonical.TransformIndexToPhysicalPoint((i, j, k)), point, atol=1e-9)
    volume = Volume(original, "test")
    for plane in Plane:
        found = np.argwhere(slices(sitk.GetArrayFromImage(canonical), plane) == 255)[0]
        own = slice_index(volume, plane, int(found[0]))
        assert own == (2, 3, 1)[slice_axis(original, plane)]


def test_from_canonical_refuses_another_grid() -> None:
    original = image(signed_permutations()[17])
    canonical = to_canonical(original)
    moved = sitk.Image(canonical)
    moved.SetOrigin([x + 1 for x in canonical.GetOrigin()])
    with pytest.raises(ValueError, match="canonical grid"):
        from_canonical(moved, original)
    if canonical.GetSize() != original.GetSize():
        with pytest.raises(ValueError, match="canonical grid"):
            from_canonical(original, original)


def test_from_canonical_accepts_another_voxel_type_and_colour() -> None:
    original = image(signed_permutations()[29])
    floating = sitk.Cast(to_canonical(original), sitk.sitkFloat32)
    assert from_canonical(floating, original).GetPixelID() == sitk.sitkFloat32
    colour = image(signed_permutations()[29], components=3)
    back = from_canonical(to_canonical(colour), colour)
    np.testing.assert_array_equal(sitk.GetArrayFromImage(back), sitk.GetArrayFromImage(colour))


def test_slices_show_anatomy_the_radiological_way_up() -> None:
    # Canonical (z, y, x): value names the side. Superior = high z, anterior = low y, right = low x.
    array = np.zeros((4, 5, 6))
    array[3, 0, 0] = 9  # superior, anterior, right
    assert slices(array, Plane.AXIAL)[3, 0, 0] == 9  # anterior row on top, right column at the left
    assert slices(array, Plane.CORONAL)[0, 0, 0] == 9  # most anterior slice, superior on top
    assert slices(array, Plane.SAGITTAL)[0, 0, 0] == 9  # rightmost slice, superior on top, anterior left
    assert slices(array, Plane.AXIAL).shape == (4, 5, 6)
    assert slices(array, Plane.CORONAL).shape == (5, 4, 6)
    assert slices(array, Plane.SAGITTAL).shape == (6, 4, 5)


@pytest.mark.parametrize("shape", [(4, 5, 6), (4, 5, 6, 3)])
@pytest.mark.parametrize("plane", list(Plane))
def test_unslices_undoes_slices_without_copying(plane: Plane, shape: tuple[int, ...]) -> None:
    array = np.arange(np.prod(shape)).reshape(shape)
    cut = slices(array, plane)
    assert np.shares_memory(cut, array)
    np.testing.assert_array_equal(unslices(cut, plane), array)


@given(
    order=st.permutations(range(3)),
    signs=st.tuples(*[st.sampled_from([1.0, -1.0])] * 3),
    angles=st.tuples(*[st.floats(-180, 180)] * 3),
)
@settings(max_examples=60, deadline=None)
def test_any_orthonormal_grid_comes_back(
    order: list[int], signs: tuple[float, ...], angles: tuple[float, ...]
) -> None:
    matrix = np.zeros((3, 3))
    matrix[order, range(3)] = signs
    original = image(rotation(*angles) @ matrix)
    canonical = to_canonical(original)
    back = from_canonical(canonical, original)
    assert same_grid(back, original)
    np.testing.assert_array_equal(sitk.GetArrayFromImage(back), sitk.GetArrayFromImage(original))


def volume(size: tuple[int, int, int], spacing: tuple[float, float, float], direction: str) -> Volume:
    result = sitk.Image(list(size), sitk.sitkUInt8)
    result.SetSpacing(spacing)
    cosines = sitk.DICOMOrientImageFilter.GetDirectionCosinesFromOrientation(direction)
    result.SetDirection(cosines)
    return Volume(result, "test")


@pytest.mark.parametrize(
    ("size", "spacing", "direction", "expected"),
    [
        ((256, 256, 25), (0.8, 0.8, 6.5), "LPS", Plane.AXIAL),
        ((256, 256, 25), (0.8, 0.8, 6.5), "PIL", Plane.SAGITTAL),  # stacked right to left
        ((256, 256, 25), (0.8, 0.8, 6.5), "LIP", Plane.CORONAL),
        ((256, 25, 256), (0.8, 6.5, 0.8), "LPS", Plane.CORONAL),
        ((180, 220, 180), (1.0, 1.0, 1.0), "RAS", Plane.AXIAL),
        ((217, 18, 182), (1.0, 1.0, 1.0), "PSR", Plane.AXIAL),  # a slab, 18 mm from foot to head
        ((18, 217, 182), (1.0, 1.0, 1.0), "LPS", Plane.SAGITTAL),
        ((180, 220, 180), (1.0, 1.0, 1.2), "PIR", Plane.AXIAL),  # not clearly anisotropic
        ((512, 512, 1), (1.0, 1.0, 1.0), "LPS", Plane.AXIAL),
        ((512, 512, 1), (1.0, 1.0, 0.1), "PIR", Plane.SAGITTAL),
    ],
)
def test_default_plane(
    size: tuple[int, int, int], spacing: tuple[float, float, float], direction: str, expected: Plane
) -> None:
    assert default_plane(volume(size, spacing, direction)) is expected


def test_spacings_by_anatomy_on_both_grids() -> None:
    own = volume((20, 30, 40), (0.5, 2.0, 3.0), "PSR").image  # i posterior, j superior, k right
    for grid in (own, to_canonical(own)):
        assert slice_spacing(grid, Plane.AXIAL) == 2.0
        assert slice_spacing(grid, Plane.CORONAL) == 0.5
        assert slice_spacing(grid, Plane.SAGITTAL) == 3.0
        assert in_plane_spacing(grid, Plane.AXIAL) == (0.5, 3.0)
        assert in_plane_spacing(grid, Plane.CORONAL) == (2.0, 3.0)
        assert in_plane_spacing(grid, Plane.SAGITTAL) == (2.0, 0.5)


def test_slice_index_outside_the_volume() -> None:
    with pytest.raises(IndexError):
        slice_index(volume((4, 4, 4), (1, 1, 1), "LPS"), Plane.AXIAL, 4)


@pytest.mark.parametrize("components", [1, 3])
def test_the_view_shows_the_canonical_voxels(components: int) -> None:
    for direction in signed_permutations():
        original = image(direction, components)
        expected = sitk.GetArrayFromImage(to_canonical(original))
        np.testing.assert_array_equal(canonical_view(original), expected)


@pytest.mark.parametrize("components", [1, 3])
@pytest.mark.parametrize("plane", list(Plane))
@pytest.mark.parametrize("at_once", [1, 3, 64])
def test_an_image_is_made_of_its_slices(
    plane: Plane, components: int, at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("D24FADLib.imaging.planes._AT_ONCE", at_once)
    for direction in signed_permutations():
        original = image(direction, components)
        cut = slices(canonical_view(original), plane)

        def fill(part: np.ndarray, start: int, cut: np.ndarray = cut) -> None:
            assert len(part) <= at_once
            part[...] = cut[start : start + len(part)]

        made = image_of_slices(fill, original, plane, np.uint8, components > 1)
        assert same_grid(made, original)
        assert made.GetPixelID() == original.GetPixelID()
        np.testing.assert_array_equal(sitk.GetArrayFromImage(made), sitk.GetArrayFromImage(original))


def test_slices_that_are_not_written_are_zero() -> None:
    original = image(np.eye(3))
    made = image_of_slices(lambda part, start: None, original, Plane.CORONAL, np.float32)
    assert made.GetPixelID() == sitk.sitkFloat32
    assert not sitk.GetArrayViewFromImage(made).any()
