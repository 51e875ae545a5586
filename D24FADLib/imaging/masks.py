"""Masks in an eighth of their memory."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


class PackedMask:
    """A mask (n, rows, cols), a bit a voxel. Slices of it, and `np.asarray`, give booleans."""

    def __init__(self, bits: NDArray[np.uint8], cols: int) -> None:
        self.bits = bits
        self.shape = (bits.shape[0], bits.shape[1], cols)

    @classmethod
    def of(cls, mask: NDArray[np.bool_]) -> PackedMask:
        return cls(np.packbits(mask, axis=-1), mask.shape[-1])

    def __getitem__(self, key: slice | tuple[slice, ...]) -> NDArray[np.bool_]:
        sides = key if isinstance(key, tuple) else (key,)
        bits = np.unpackbits(self.bits[sides[:2]], axis=-1, count=self.shape[2])
        cols = sides[2] if len(sides) > 2 else slice(None)
        return bits.view(np.bool_)[..., cols]

    def of_rows(self, sections: slice, rows: NDArray[np.intp]) -> NDArray[np.bool_]:
        """These rows of the sections (n, rows, cols), without unpacking the others."""
        bits = np.unpackbits(np.take(self.bits[sections], rows, 1), axis=-1, count=self.shape[2])
        return bits.view(np.bool_)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        mask = self[:]
        return mask if dtype is None else mask.astype(dtype)
