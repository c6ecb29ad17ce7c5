"""Fixed, stratified, disjoint splits."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from .base import Labels, Split

SPLIT_SEED = 20221100
"""Of every split of every data set. Studies with different seeds see the same splits, so their figures compare."""

VALIDATION_FRACTION = 0.2
TEST_FRACTION = 0.2


def stratified(y: Labels, sizes: tuple[int, ...]) -> list[NDArray[np.intp]]:
    """Disjoint index arrays of exactly the given sizes, each with the class shares of `y` to within one sample.

    Within a part the order is mixed such that every prefix is stratified as well. Classes too small to reach every part
    reach the later ones first, so callers ask for the training split last.

    Args:
        y: integer classes `(n,)`.
        sizes: number of samples of each part, together at most n.
    """
    if sum(sizes) > len(y) or min(sizes) < 0:
        raise ValueError(f"parts of {sizes} samples cannot be taken from {len(y)}")
    # RandomState, not Generator: numpy promises never to change the former's stream, nor may the splits.
    order = np.random.RandomState(SPLIT_SEED).permutation(len(y))
    shuffled = y[order]
    position = np.empty(len(y))
    for label in np.unique(y):
        members = np.flatnonzero(shuffled == label)
        # Midpoints spread each class evenly over (0, 1); cutting that line anywhere keeps the shares.
        position[members] = (np.arange(len(members)) + 0.5) / len(members)
    line = order[np.argsort(position, kind="stable")]
    ends = np.cumsum(sizes)
    return [line[end - size : end] for size, end in zip(sizes, ends, strict=True)]


def pooled_split(
    y: Labels, *, validation: int | None = None, test: int | None = None
) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.intp]]:
    """Indices of train, validation and test for samples of one pool: 60, 20 and 20 %, unless sizes are given."""
    n_test = round(TEST_FRACTION * len(y)) if test is None else test
    n_validation = round(VALIDATION_FRACTION * len(y)) if validation is None else validation
    held_out, chosen_on, trained_on = stratified(y, (n_test, n_validation, len(y) - n_test - n_validation))
    return trained_on, chosen_on, held_out


def held_out_validation(
    x: NDArray[Any], y: Labels, size: int
) -> tuple[tuple[NDArray[Any], Labels], tuple[NDArray[Any], Labels]]:
    """A published training set as (train, validation), `size` stratified samples of it being the latter."""
    chosen_on, trained_on = stratified(y, (size, len(y) - size))
    return (x[trained_on], y[trained_on]), (x[chosen_on], y[chosen_on])


def as_split(x: NDArray[Any], y: NDArray[Any]) -> Split:
    return Split(np.ascontiguousarray(x, dtype=np.float32), np.ascontiguousarray(y, dtype=np.int64))


def as_unit_images(x: NDArray[np.uint8], y: NDArray[Any]) -> Split:
    """Bytes 0..255 as a split in [0, 1]."""
    return as_split(np.divide(x, 255, dtype=np.float32), y)
