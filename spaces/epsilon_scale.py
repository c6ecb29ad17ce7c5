"""Radii that differ between the features of an input, as shares of epsilon.

Messages start with the name of the key.
"""

from collections.abc import Sequence
from typing import Any, Final

import numpy as np

from .errors import SpecError
from .frozen import freeze

KEY: Final = "epsilon_scale"


def check_scale(scale: Sequence[Any]) -> tuple[Any, ...]:
    """The scales as nested tuples.

    Raises:
        SpecError: they are no nested lists of equal lengths, or hold what is no finite number of at least 0, or only
            zeros, with which nothing would be verified.
    """
    frozen = tuple(freeze(value, KEY) for value in scale)
    # Lists of unequal lengths stay tuples within the array, and are no numbers.
    values = np.array(frozen, dtype=object).ravel().tolist()
    for value in values:
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise SpecError(f"{KEY} must be a list of numbers, or lists of equal length of them, got {value!r} in it")
        if value < 0:
            raise SpecError(f"{KEY} must be at least 0 everywhere, got {value:g}")
    if not any(values):
        raise SpecError(f"{KEY} must be above 0 somewhere (0 holds a feature fixed), got {len(values)} zeros")
    return frozen


def check_shape(scale: Sequence[Any], shape: tuple[int, ...], data: str) -> None:
    """
    Raises:
        SpecError: the scales do not broadcast to inputs of `shape`.
    """
    got = np.shape(scale)
    # Never along the batch, nor to more axes than an input has.
    if len(got) > len(shape) or any(a not in (1, b) for a, b in zip(reversed(got), reversed(shape), strict=False)):
        raise SpecError(
            f"{KEY} must be nested like an input of {data!r}, whose shape is {shape} (an axis of length 1 holds for "
            f"all of it), got shape {got}"
        )
