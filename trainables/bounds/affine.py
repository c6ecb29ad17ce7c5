"""BatchNorm as what it is once its statistics are settled: one factor and one summand per channel."""

from typing import final

import torch
from torch import Tensor, nn

BatchNorm = nn.BatchNorm1d | nn.BatchNorm2d


@final
class Affine(nn.Module):
    """`x * scale + shift` per channel: a BatchNorm by the statistics of one batch.

    Args:
        scale, shift: `(channels,)`; gradients flow on through them.
    """

    def __init__(self, scale: Tensor, shift: Tensor) -> None:
        super().__init__()
        self.scale, self.shift = scale, shift

    def forward(self, x: Tensor) -> Tensor:
        return torch.addcmul(per_channel(self.shift, x.dim()), x, per_channel(self.scale, x.dim()))


def affine_of(layer: BatchNorm | Affine) -> tuple[Tensor, Tensor]:
    """Scale and shift, each `(channels,)`; those of a BatchNorm by its running statistics."""
    if isinstance(layer, Affine):
        return layer.scale, layer.shift
    assert layer.running_mean is not None
    assert layer.running_var is not None
    return scale_and_shift(layer, layer.running_mean, layer.running_var)


def scale_and_shift(layer: BatchNorm, mean: Tensor, var: Tensor) -> tuple[Tensor, Tensor]:
    """The affine map per channel, `x * scale + shift`, that the layer is for given statistics `(channels,)`."""
    scale = torch.rsqrt(var + layer.eps)
    if layer.affine:
        scale = scale * layer.weight
        return scale, layer.bias - mean * scale
    return scale, -mean * scale


def per_channel(values: Tensor, dimensions: int) -> Tensor:
    """`(channels,)` shaped to broadcast over `(batch, channels, ...)` of that many dimensions."""
    return values.view(1, -1, *[1] * (dimensions - 2))
