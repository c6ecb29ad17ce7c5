"""Layers that fit themselves to their input: one place that knows about shapes and kernel sizes."""

import math
from collections.abc import Sequence

from torch import nn

from ..errors import SpecError
from .layers import Reshape

Shape = tuple[int, int, int]
"""(channels, height, width) of a feature map, without the batch."""


def check_problem(shape: Sequence[int], classes: int) -> None:
    """Refuse what no architecture can take.

    Raises:
        SpecError: unless `shape` has 1 to 3 positive sizes and there are at least 2 classes.
    """
    if not 1 <= len(shape) <= 3 or any(size < 1 for size in shape):
        raise SpecError(
            "an input must be (features,), (channels, length) or (channels, height, width) with sizes of at least 1, "
            f"got {tuple(shape)}"
        )
    if classes < 2:
        raise SpecError(f"a classifier needs at least 2 classes, got {classes}")


def as_image(shape: Sequence[int]) -> Shape:
    """The input as a feature map: a sequence becomes an image of height 1, plain features a sequence of one channel."""
    if len(shape) == 3:
        return shape[0], shape[1], shape[2]
    if len(shape) == 2:
        return shape[0], 1, shape[1]
    return 1, 1, shape[0]


def as_sequence(shape: Sequence[int]) -> Shape:
    """The input as a sequence of height 1; every row of an image becomes a channel of it."""
    channels, height, width = as_image(shape)
    return channels * height, 1, width


def reshaped(shape: Sequence[int], target: Shape) -> list[nn.Module]:
    """The layer that brings `(batch, *shape)` to `(batch, *target)`; none where nothing changes."""
    return [] if tuple(shape) == target else [Reshape(target)]


def fitted(size: int, kernel: int, stride: int, padding: int) -> tuple[int, int]:
    """The largest (kernel, padding) up to the given ones whose every tap meets the input somewhere.

    A tap that only ever sees padding would be a weight that cannot matter, and would count as one all the same:
    the measured sparsity would be flattered by it.
    """
    while True:
        kernel = min(kernel, size + 2 * padding)
        starts = range(-padding, size + padding - kernel + 1, stride)
        if padding == 0 or all(any(0 <= start + tap < size for start in starts) for tap in range(kernel)):
            return kernel, padding
        padding -= 1


def convolution(
    shape: Shape, channels: int, *, kernel: int, stride: int = 1, padding: int = 0
) -> tuple[nn.Conv2d, Shape]:
    """A convolution over a map of `shape`, its kernel fitted to each axis, and the shape of what it returns."""
    _, height, width = shape
    fit = [fitted(size, kernel, stride, padding) for size in (height, width)]
    layer = nn.Conv2d(shape[0], channels, (fit[0][0], fit[1][0]), stride, (fit[0][1], fit[1][1]))
    sizes = [(size + 2 * pad - taps) // stride + 1 for size, (taps, pad) in zip((height, width), fit, strict=True)]
    return layer, (channels, sizes[0], sizes[1])


def dense_head(shape: Shape, hidden: Sequence[int], classes: int, *, batchnorm: bool = False) -> list[nn.Module]:
    """Flatten, hidden linear layers with ReLU (and BatchNorm between, on request), and the linear layer of logits."""
    layers: list[nn.Module] = [nn.Flatten()]
    features = math.prod(shape)
    for size in hidden:
        layers.append(nn.Linear(features, size))
        if batchnorm:
            layers.append(nn.BatchNorm1d(size))
        layers.append(nn.ReLU())
        features = size
    layers.append(nn.Linear(features, classes))
    return layers
