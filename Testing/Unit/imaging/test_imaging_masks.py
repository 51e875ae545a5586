"""Masks of a bit a voxel."""

from __future__ import annotations

import numpy as np
import pytest

from D24FADLib.imaging.masks import PackedMask


@pytest.mark.parametrize("cols", [1, 8, 13])
def test_a_packed_mask_gives_what_was_packed(cols: int) -> None:
    mask = np.random.default_rng(cols).random((5, 7, cols)) > 0.5
    packed = PackedMask.of(mask)
    assert packed.shape == mask.shape
    np.testing.assert_array_equal(np.asarray(packed), mask)
    np.testing.assert_array_equal(mask & packed, mask)
    box = (slice(1, 4), slice(2, 6), slice(0, max(1, cols - 2)))
    np.testing.assert_array_equal(packed[box], mask[box])
    np.testing.assert_array_equal(packed[2:3], mask[2:3])
    rows = np.array([0, 2, 2, 6])
    np.testing.assert_array_equal(packed.of_rows(slice(1, 4), rows), mask[1:4][:, rows])
