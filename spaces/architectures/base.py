"""What an architecture is, and the checks that its options share."""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar

from torch import nn

from ..errors import SpecError


class Architecture(ABC):
    """A family of networks; its dataclass fields are its options.

    Every architecture takes every input shape, `(features,)`, `(channels, length)` or `(channels, height, width)`:
    inputs are reshaped where the layers need it, and kernels are fitted to small inputs.
    """

    description: ClassVar[str]

    @abstractmethod
    def build(self, shape: tuple[int, ...], classes: int) -> nn.Sequential:
        """A freshly initialised network `(batch, *shape) -> (batch, classes)` that ends in an `nn.Linear`.

        Layers used: Linear, Conv2d, BatchNorm1d, BatchNorm2d, ReLU, Flatten, AvgPool2d, Residual, Reshape.
        """


def checked_width(width: float) -> float:
    """A multiplier of all channel and neuron counts, above 0.

    Raises:
        SpecError: for anything else.
    """
    if isinstance(width, bool) or not isinstance(width, int | float) or not math.isfinite(width) or width <= 0:
        raise SpecError(f"architecture.width must be a number above 0 (it multiplies every layer), got {width!r}")
    return float(width)


def checked_flag(name: str, value: bool) -> bool:
    if not isinstance(value, bool):
        raise SpecError(f"architecture.{name} must be true or false, got {value!r}")
    return value


def checked_sizes(name: str, sizes: Sequence[int] | int) -> tuple[int, ...]:
    """Layer sizes as a tuple; one number stands for one layer.

    Raises:
        SpecError: unless each is a whole number of at least 1.
    """
    listed = sizes if isinstance(sizes, list | tuple) else [sizes]
    if not all(isinstance(size, int) and not isinstance(size, bool) and size >= 1 for size in listed):
        raise SpecError(f"architecture.{name} must be a list of whole numbers of at least 1, got {sizes!r}")
    return tuple(listed)


def scaled(size: int, width: float) -> int:
    """`size` units times `width`, never fewer than one."""
    return max(1, round(size * width))
