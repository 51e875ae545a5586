"""The checks on made-up images: each says what is wrong, with whom, and is silent where nothing is."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import SimpleITK as sitk
from scipy import ndimage

from D24FADLib.imaging.alignment import AlignedSupport, Alignment
from D24FADLib.imaging.planes import Plane
from D24FADLib.imaging.volume import Volume, VolumeInfo
from D24FADLib.inference.checks import check_alignment, check_patients, from_warnings
from D24FADLib.inference.duplicates import check_copies
from D24FADLib.inference.inputs import check_inputs
from D24FADLib.inference.mirrored import check_mirrored
from D24FADLib.inference.outliers import (
    MAP,
    WHOLE,
    check_outliers,
    compact_departures,
    map_scores,
    standing_out,
)
from D24FADLib.inference.priors import Priors, Resemblance
from D24FADLib.inference.quality import check_quality
from D24FADLib.inference.resemblance import check_resemblance, directions, distance, nearest_logs

SIDE = 64


def anatomy(seed: int, texture: float = 0.03, asymmetric: bool = True) -> np.ndarray:
    """(1, rows, cols): a body with a one-sided organ, and each patient's own shape and texture."""
    rng = np.random.default_rng(seed)
    rows, cols = np.mgrid[:SIDE, :SIDE]
    down, right = rng.normal(0, 1.0, 2) * (1, asymmetric)
    body = ((rows - 31.5 - down) ** 2 + (cols - 31.5 - right) ** 2 < (27 + rng.normal()) ** 2) * 0.5
    side = 44.0 if asymmetric else 31.5
    organ = ((rows - 28 - down) ** 2 + (cols - side - right) ** 2 < 8**2) * 0.3
    own = ndimage.gaussian_filter(rng.standard_normal((SIDE, SIDE)), 3.0)
    shape = ndimage.gaussian_filter(body + organ, 1.5)
    image = 0.1 + shape + 0.03 * own / own.std() + texture * rng.standard_normal((SIDE, SIDE))
    return image.astype(np.float32)[None]


def volume(array: np.ndarray, name: str, **info: str) -> Volume:
    return Volume(sitk.GetImageFromArray(array), name, VolumeInfo(**info))


def study(count: int = 4, **kind: float) -> list[Volume]:
    return [volume(anatomy(seed, **kind), f"v{seed}") for seed in range(count)]


def codes(found) -> list[tuple[str, object]]:
    return [(check.code, check.subject) for check in found]


def copies(query: Volume, supports: list[Volume]):
    return check_copies(query, supports, query.array(), [s.array() for s in supports])


def test_nothing_is_said_of_good_references() -> None:
    query, *supports = study(5)
    assert copies(query, supports) == []
    assert check_quality(query, supports, Plane.AXIAL) == []
    arrays = [s.array() for s in supports]
    assert check_mirrored(["a", "b", "c", "d"], query.array(), arrays, Plane.AXIAL) == []
    assert check_patients(query, supports) == []


def test_copies_of_the_study_and_of_a_reference_are_named() -> None:
    query, *supports = study(4)
    supports[1] = dataclasses.replace(query, name="again")
    supports.append(dataclasses.replace(supports[0], name="twice"))
    found = copies(query, supports)
    assert codes(found) == [("duplicate", 2), ("duplicate", 4)]
    assert [c.value for c in found] == [1.0, 1.0]
    assert found[0].message.startswith("again is the study itself")
    assert "the same as reference 1" in found[1].message


def smoothed(sigma: float, columns: slice = slice(None), count: int = 5) -> list[Volume]:
    """Slabs of different patients at half the resolution, smoothed before."""
    arrays = [np.concatenate([anatomy(10 * seed + n) for n in range(6)]) for seed in range(count)]
    arrays = [ndimage.gaussian_filter(array, (0, sigma, sigma))[:, ::2, ::2] for array in arrays]
    return [volume(np.ascontiguousarray(a[:, :, columns]), f"v{n}") for n, a in enumerate(arrays)]


@pytest.mark.parametrize("columns", [slice(None), slice(12, 21)])
@pytest.mark.parametrize("sigma", [1.0, 2.0, 3.0])
def test_smoothed_and_narrow_slabs_of_different_patients_are_no_copies(sigma: float, columns: slice) -> None:
    query, *supports = smoothed(sigma, columns)
    assert copies(query, supports) == []
    # and a copy among them is found all the same, in other units and with noise of its own
    array = query.array() * 0.8 + 0.1
    array += np.random.default_rng(1).normal(0, 1e-3, array.shape).astype(np.float32)
    supports[2] = volume(array, "again")
    assert codes(copies(query, supports)) == [("duplicate", 3)]


def test_a_few_pixels_agree_by_chance() -> None:
    rng = np.random.default_rng(0)
    tiny = [volume(rng.random((1, 3, 3)).astype(np.float32), f"v{n}") for n in range(9)]
    assert copies(tiny[0], tiny[1:]) == []


@pytest.mark.parametrize("change", ["brighter", "noise", "rounded", "smoothed", "resampled", "cropped"])
def test_a_changed_copy_is_named(change: str) -> None:
    query, *supports = study(4)
    array = query.array()
    rng = np.random.default_rng(9)
    array = {
        "brighter": lambda: array * 0.8 + 0.05,
        "noise": lambda: array + rng.normal(0, 0.01, array.shape).astype(np.float32),
        "rounded": lambda: np.round(array * 40) / 40,
        "smoothed": lambda: ndimage.gaussian_filter(array, (0, 0.5, 0.5)),
        "resampled": lambda: ndimage.shift(ndimage.shift(array, (0, 0.3, 0.3)), (0, -0.3, -0.3), order=1),
        "cropped": lambda: np.pad(array[:, 8:-8, 8:-8], ((0, 0), (8, 8), (8, 8))),
    }[change]()
    supports[2] = volume(np.asarray(array, np.float32), "changed")
    found = copies(query, supports)
    assert codes(found) == [("duplicate", 3)]
    assert 0.5 < found[0].value <= 1
    assert "is nearly the study itself" in found[0].message


def test_what_is_doubtful_in_a_file_is_told_with_its_name() -> None:
    query, *supports = study(3)
    supports[1] = dataclasses.replace(supports[1], info=VolumeInfo(doubts=("the header gives two sizes",)))
    assert "v2: the header gives two sizes." in check_inputs(query, supports)
    cube = sitk.GetImageFromArray(np.repeat(anatomy(0), 4, axis=0))
    cube.SetSpacing((1.0, 1.0, 400.0))
    said = check_inputs(Volume(cube, "q.nii"), [slab(1, 0.03), slab(2, 0.03)], anyway=True)
    assert any(text.startswith("q.nii: voxels of 1 x 1 x 400 mm are hardly true") for text in said)


@pytest.mark.parametrize("wrong", [0, 3])
def test_a_mirrored_one_is_named(wrong: int) -> None:
    arrays = [anatomy(seed) for seed in range(5)]
    arrays[wrong] = np.ascontiguousarray(arrays[wrong][:, :, ::-1])
    found = check_mirrored(["a", "b", "c", "d"], arrays[0], arrays[1:], Plane.CORONAL)
    assert codes(found) == [("mirrored", wrong or "query")]
    assert found[0].value < -0.25


def test_a_mirrored_sagittal_volume_is_told_by_its_slices() -> None:
    arrays = [np.repeat(np.moveaxis(anatomy(seed), 2, 0), 4, axis=1) for seed in range(4)]
    arrays[2] = arrays[2][::-1]
    found = check_mirrored(["a", "b", "c"], arrays[0], arrays[1:], Plane.SAGITTAL)
    assert codes(found) == [("mirrored", 2)]


def test_nothing_is_said_of_sides_where_anatomy_is_symmetric() -> None:
    arrays = [anatomy(seed, asymmetric=False) for seed in range(5)]
    arrays[3] = np.ascontiguousarray(arrays[3][:, :, ::-1])
    assert check_mirrored(["a", "b", "c", "d"], arrays[0], arrays[1:], Plane.AXIAL) == []


def test_noise_and_blur_are_told_apart() -> None:
    query, *supports = study(5)
    noisy = volume(anatomy(7, texture=0.2), "noisy")
    blurred = volume(ndimage.gaussian_filter(anatomy(8), (0, 5, 5)), "blurred")
    assert codes(check_quality(noisy, supports, Plane.AXIAL)) == [("noise", "query")]
    assert ("blur", "query") in codes(check_quality(blurred, supports, Plane.AXIAL))
    assert ("noise", 2) in codes(check_quality(query, [supports[0], noisy, *supports[2:]], Plane.AXIAL))


def slab(seed: int, texture: float) -> Volume:
    return volume(np.concatenate([anatomy(10 * seed + n, texture=texture) for n in range(3)]), f"v{seed}")


def test_how_much_noise_is_too_much_follows_the_references_of_a_volume() -> None:
    noisy, picture = slab(9, 0.07), volume(anatomy(9, texture=0.07), "picture")
    alike = [slab(seed, 0.03) for seed in range(4)]
    unlike = [slab(seed, texture) for seed, texture in enumerate((0.015, 0.03, 0.05, 0.07))]
    assert codes(check_quality(noisy, alike, Plane.AXIAL)) == [("noise", "query")]
    assert ("noise", "query") not in codes(check_quality(noisy, unlike, Plane.AXIAL))
    assert ("noise", "query") not in codes(check_quality(picture, study(4), Plane.AXIAL))
    for seed in range(10, 30):  # of the same protocol
        assert check_quality(slab(seed, 0.03), alike, Plane.AXIAL) == []


@pytest.mark.parametrize("value", [0.0, 7.0])
def test_an_empty_study_is_refused(value: float) -> None:
    _, *supports = study(4)
    found = check_quality(volume(np.full((1, SIDE, SIDE), value, np.float32), "void"), supports, Plane.AXIAL)
    assert [(c.code, c.severity, c.value) for c in found] == [("empty", "refuse", 0.0)]


def test_the_studys_own_patient_is_named_and_unknown_ones_are_not() -> None:
    query = volume(anatomy(0), "q", patient_key="k1")
    supports = [volume(anatomy(n), f"s{n}", patient_key=k) for n, k in ((1, "k2"), (2, "k1"), (3, ""))]
    assert codes(check_patients(query, supports)) == [("same-patient", 2)]
    assert check_patients(dataclasses.replace(query, info=VolumeInfo()), supports) == []
    assert "k1" not in repr(supports[1].info)


def aligned(similarity: float, overlap: float, method: Alignment = Alignment.AFFINE) -> AlignedSupport:
    return AlignedSupport(None, np.ones((1, 1, 1), bool), None, similarity, overlap, method)


def test_an_alignment_unlike_the_others_is_named() -> None:
    names = ["a", "b", "c", "d"]
    good = [aligned(0.4, 0.95), aligned(0.45, 0.9), aligned(0.38, 0.97)]
    assert check_alignment(names, [*good, aligned(0.35, 0.9)]) == []
    assert codes(check_alignment(names, [*good, aligned(0.15, 0.9)])) == [("alignment", 4)]
    assert codes(check_alignment(names, [aligned(0.4, 0.5), *good])) == [("alignment", 1)]
    assert check_alignment(names, [*good, aligned(0.1, 0.1, Alignment.POSITION)]) == []


def test_who_stands_out() -> None:
    rng = np.random.default_rng(2)
    maps = 0.3 * np.exp(0.1 * rng.standard_normal((5, 1, 8, 8))).astype(np.float32)
    maps[3] *= 2.5
    maps[:, :, :2] = np.nan
    t = standing_out({MAP: map_scores(maps)}, Priors())
    assert int(np.argmax(t)) == 3
    assert codes(check_outliers(list("abcde"), t, 3.0)) == [("stands-out", 4)]
    # Alike on the map, but another kind of image.
    t = standing_out({MAP: [0.1, 0.12, 0.11, 0.1], WHOLE: [-0.4, 0.6, -0.45, -0.38]}, Priors())
    assert codes(check_outliers(list("abcd"), t, 3.0)) == [("stands-out", 2)]
    assert standing_out({MAP: [0.1, 0.2]}, Priors()) is None


def test_a_reference_with_a_lesion_stands_out_by_its_own_map() -> None:
    """All maps are high where people differ, one is where the others are not."""
    rng = np.random.default_rng(5)
    maps = np.abs(rng.normal(0, 0.7, (4, 6, 30, 30))).astype(np.float32)
    maps[:, :, 3:6] += 2.0
    t = compact_departures(maps, (1.0, 3.0, 3.0))
    assert max(t) < 2.5
    maps[2, 1:5, 18:23, 18:23] += 8.0
    t = compact_departures(maps, (1.0, 3.0, 3.0))
    assert t[2] > 2.5 > max(t[:2] + t[3:])
    assert int(np.argmax(standing_out({MAP: [0.1, 0.2, 0.1, 0.0]}, Priors(), t))) == 2
    assert compact_departures(maps[:2], (1.0, 3.0, 3.0)) == []


def test_a_study_far_from_its_references_is_unsuitable() -> None:
    rng = np.random.default_rng(5)
    protocol, stranger = rng.standard_normal((2, 12))
    references = protocol + 0.3 * rng.standard_normal((4, 12))
    space = Resemblance(np.zeros(12), (4, 8), 0.0, 0.2)

    def asked(query: np.ndarray) -> list:
        return check_resemblance("q", directions(np.vstack([query, references]), space.centre, (4, 8)), space)

    assert asked(protocol + 0.3 * rng.standard_normal(12)) == []
    found = asked(stranger)
    assert [(c.code, c.severity, c.subject) for c in found] == [("unsuitable", "refuse", "query")]
    assert found[0].value > 1


def test_the_distance_is_the_written_formula() -> None:
    references = np.array([[1.0, 0.0], [0.0, 1.0], [0.6, 0.8]])
    query = np.array([0.0, -1.0])
    own = [np.log(np.hypot(0.4, 0.8)), np.log(np.hypot(0.6, 0.2)), np.log(np.hypot(0.6, 0.2))]
    np.testing.assert_allclose(nearest_logs(references), own)
    assert distance(query, references, 0.2) == pytest.approx(np.log(np.sqrt(2)) - 0.2 * np.mean(own))
    assert distance(query, references[:1], 0.2, 0.1) == pytest.approx(np.log(np.sqrt(2)) - 0.1)


def test_warnings_become_checks_of_whom_they_name() -> None:
    found = from_warnings(["v1: something.", "v10 is odd.", "Something else."], ["v1", "v10"])
    assert [c.subject for c in found] == [1, 2, "query"]
    assert {c.code for c in found} == {"input"}
