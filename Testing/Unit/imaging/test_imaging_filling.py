"""Filling what slices enclose, against scipy slice by slice."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from D24FADLib.imaging.foreground import _filled


@pytest.mark.parametrize("shape", [(12, 15, 20), (5, 20, 20), (1, 24, 24), (9, 6, 30)])
def test_all_slices_at_once_are_filled_as_one_by_one(shape: tuple[int, int, int]) -> None:
    body = np.random.default_rng(1).random(shape) < 0.45
    expected = body.copy()
    for axis in range(3):
        moved = np.moveaxis(body, axis, 0)
        if min(moved.shape[1:]) >= 8:
            for index, section in enumerate(moved):
                np.moveaxis(expected, axis, 0)[index] |= ndimage.binary_fill_holes(section)
    assert expected.sum() > body.sum()
    np.testing.assert_array_equal(_filled(body), expected)
