"""Findings of made-up score maps."""

from __future__ import annotations

import numpy as np
import pytest
import SimpleITK as sitk

from D24FADLib.imaging.planes import Plane
from D24FADLib.imaging.volume import Volume, VolumeInfo
from D24FADLib.inference.findings import MAX_FINDINGS, find


def a_map(array: np.ndarray) -> Volume:
    """2 x 2 x 5 mm, right-handed with the first axis to the right and the third to inferior."""
    image = sitk.GetImageFromArray(array.astype(np.float32))
    image.SetSpacing((2.0, 2.0, 5.0))
    image.SetOrigin((40.0, -30.0, 60.0))
    image.SetDirection((-1, 0, 0, 0, 1, 0, 0, 0, -1))
    return Volume(image, "map")


def zeros(shape: tuple[int, int, int] = (8, 20, 24)) -> np.ndarray:
    return np.zeros(shape, np.float32)


def test_ranks_sizes_and_places() -> None:
    array = zeros()
    array[2:4, 5:8, 6:9] = 3.0  # 18 voxels
    array[5, 12:16, 15:20] = 5.0  # 20 voxels
    array[5, 13, 17] = 7.0
    findings, labels = find(a_map(array), 2.0, Plane.AXIAL, 0.0)
    assert [f.rank for f in findings] == [1, 2]
    assert [f.peak for f in findings] == [7.0, 3.0]
    assert findings[0].mean == pytest.approx((19 * 5 + 7) / 20)
    assert [f.volume_ml for f in findings] == pytest.approx([0.4, 0.36])
    # x = 40 - 2 i, y = -30 + 2 j, z = 60 - 5 k in LPS; R = -x, A = -y
    assert findings[0].peak_ras == pytest.approx((-6.0, 4.0, 35.0))
    assert findings[1].center_ras == pytest.approx((-40 + 2 * 7, 30 - 2 * 6, 60 - 5 * 2.5))
    assert [f.slice for f in findings] == [5, 2]
    assert (labels[5, 12:16, 15:20] == 1).all()
    assert (labels[2:4, 5:8, 6:9] == 2).all()
    assert np.count_nonzero(labels) == 38


def test_a_single_image_has_an_area_and_pixels_without_a_size_have_none() -> None:
    array = zeros((1, 20, 24))
    array[0, 12:16, 15:20] = 5.0
    flat = a_map(array)
    for sized, size in ((True, (20 * 4.0, "mm2")), (False, (20, "px"))):
        image = Volume(flat.image, "map", VolumeInfo(sized=sized))
        (finding,), _ = find(image, 2.0, Plane.AXIAL, 0.0)
        assert finding.size == size
        assert (finding.pixels, finding.volume_ml) == (20, pytest.approx(0.4))
    deep, _ = find(a_map(np.repeat(array, 8, axis=0)), 2.0, Plane.AXIAL, 0.0)
    assert (deep[0].area_mm2, deep[0].pixels, deep[0].size) == (None, None, (deep[0].volume_ml, "ml"))


@pytest.mark.parametrize(("plane", "index"), [(Plane.AXIAL, 5), (Plane.CORONAL, 13), (Plane.SAGITTAL, 17)])
def test_the_slice_counts_along_the_volumes_own_axis(plane: Plane, index: int) -> None:
    array = zeros()
    array[5, 13, 17] = 7.0
    findings, _ = find(a_map(array), 2.0, plane, 0.0)
    assert findings[0].slice == index


def test_what_is_smaller_than_the_minimum_is_no_finding() -> None:
    array = zeros()
    array[1, 1, 1:3] = 9.0  # 0.04 ml
    array[4, 4, 4:9] = 3.0  # 0.1 ml
    findings, labels = find(a_map(array), 2.0, Plane.AXIAL, 0.1)
    assert [f.peak for f in findings] == [3.0]
    assert not labels[1].any()
    assert len(find(a_map(array), 2.0, Plane.AXIAL, 0.11)[0]) == 0


def test_touching_by_an_edge_is_one_finding_and_by_a_corner_two() -> None:
    array = zeros()
    array[2, 5, 5] = array[3, 6, 5] = 4.0
    assert len(find(a_map(array), 2.0, Plane.AXIAL, 0.0)[0]) == 1
    array = zeros()
    array[2, 5, 5] = array[3, 6, 6] = 4.0
    assert len(find(a_map(array), 2.0, Plane.AXIAL, 0.0)[0]) == 2


def test_the_threshold_itself_is_not_above_it() -> None:
    array = zeros()
    array[2, 5, 5] = 2.0
    findings, labels = find(a_map(array), 2.0, Plane.AXIAL, 0.0)
    assert findings == ()
    assert not labels.any()


def test_at_most_so_many_are_kept_the_strongest() -> None:
    array = zeros((8, 40, 40))
    places = [(k, j, i) for k in (1, 4, 6) for j in range(1, 39, 5) for i in range(1, 39, 5)]
    for number, place in enumerate(places):
        array[place] = 3.0 + number
    findings, labels = find(a_map(array), 2.0, Plane.AXIAL, 0.0)
    assert len(places) > MAX_FINDINGS == len(findings)
    assert [f.peak for f in findings] == [3.0 + len(places) - 1 - n for n in range(MAX_FINDINGS)]
    assert np.count_nonzero(labels) == MAX_FINDINGS


def test_a_single_image() -> None:
    array = zeros((1, 20, 24))
    array[0, 3:6, 4:8] = 5.0
    findings, _ = find(a_map(array), 2.0, Plane.AXIAL, 0.0)
    assert len(findings) == 1
    assert findings[0].slice == 0
