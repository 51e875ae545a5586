"""Comparing without some of the references, and putting the results back among all of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from D24FADLib.inference.preparation import Prepared

T = TypeVar("T")


def only(prepared: Prepared, kept: Sequence[int]) -> Prepared:
    """The same with these references only; what was known of them together is worked out anew."""
    if len(kept) == len(prepared.supports):
        return prepared

    def chosen(items: Sequence[T]) -> tuple[T, ...]:
        return tuple(items[k] for k in kept)

    return replace(
        prepared,
        supports=chosen(prepared.supports),
        covered=chosen(prepared.covered),
        support_bodies=chosen(prepared.support_bodies),
        aligned=chosen(prepared.aligned),
        references=None,
    )


def among_all(shares: NDArray[np.float32], kept: Sequence[int], count: int) -> NDArray[np.float32]:
    """(..., kept) -> (..., count): 0 for references left out."""
    whole = np.zeros((*shares.shape[:-1], count), np.float32)
    whole[..., list(kept)] = shares
    return whole
