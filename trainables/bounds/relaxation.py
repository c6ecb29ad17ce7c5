"""Two linear functions that enclose each nonlinear layer over known bounds of its input."""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Interval(NamedTuple):
    """Lower and upper bounds, each `(batch, *shape)`."""

    lower: Tensor
    upper: Tensor


class ReLURelaxation(NamedTuple):
    """`lower_slope * x <= relu(x) <= upper_slope * x + upper_intercept`, each `(batch, *shape)`."""

    lower_slope: Tensor
    upper_slope: Tensor
    upper_intercept: Tensor

    def backward(self, rows: Tensor, owner: Tensor | slice, inputs: torch.Size) -> tuple[Tensor, Tensor]:
        bias = (rows.clamp(max=0) * self.upper_intercept[owner]).flatten(1).sum(1)
        return torch.where(rows > 0, self.lower_slope[owner], self.upper_slope[owner]) * rows, bias


class MaxRelaxation(NamedTuple):
    """`x[chosen] <= max <= exact * x[chosen] + constant`, each `(batch, channels, height, width)` of the output.

    `chosen` is the flat position in a channel of the value with the largest lower bound; where no other value of the
    window can exceed it the maximum is that value, elsewhere it is at most the largest upper bound.
    """

    chosen: Tensor
    exact: Tensor
    constant: Tensor

    def backward(self, rows: Tensor, owner: Tensor | slice, inputs: torch.Size) -> tuple[Tensor, Tensor]:
        positive, negative = rows.clamp(min=0), rows.clamp(max=0)
        bias = (negative * self.constant[owner]).flatten(1).sum(1)
        kept = (positive + negative * self.exact[owner]).flatten(2)
        flat = rows.new_zeros(rows.shape[0], inputs[0], inputs[1] * inputs[2])
        flat = flat.scatter_add(2, self.chosen[owner].flatten(2), kept)
        return flat.view(rows.shape[0], *inputs), bias


Relaxation = ReLURelaxation | MaxRelaxation


def relax(layer: nn.Module, before: Interval) -> Relaxation:
    """The relaxation of a nonlinear layer over the bounds `before` of its input."""
    return _RELAXATIONS[type(layer)](layer, before)


def is_nonlinear(layer: nn.Module) -> bool:
    return type(layer) in _RELAXATIONS


def _relu(layer: nn.ReLU, before: Interval) -> ReLURelaxation:
    """Upper: the chord from `(l, 0)` to `(u, u)`. Lower: slope 1 where u > -l, else 0, the smaller area of the two
    (adaptive CROWN, Zhang et al. 2018, arXiv 1811.00866)."""
    lower, upper = before
    active, dead = lower >= 0, upper <= 0
    one, zero = torch.ones_like(lower), torch.zeros_like(lower)
    # A NaN is neither active nor dead and stays in the chord, so that nothing is ever proved from it. Where a ReLU is
    # stable the chord is not used, but 0 / 0 there would still make every gradient NaN.
    stable = active | dead
    chord = upper / torch.where(stable, one, upper - lower)
    upper_slope = torch.where(active, one, torch.where(dead, zero, chord))
    upper_intercept = torch.where(stable, zero, -chord * lower)
    return ReLURelaxation((upper > -lower).to(lower.dtype), upper_slope, upper_intercept)


def _maximum(layer: nn.MaxPool2d, before: Interval) -> MaxRelaxation:
    lower, upper = before
    kernel, stride, padding, dilation = (
        _pair(value) for value in (layer.kernel_size, layer.stride, layer.padding, layer.dilation)
    )
    largest, chosen = F.max_pool2d(lower, kernel, stride, padding, dilation, return_indices=True)
    batch, channels = lower.shape[:2]

    def windows(values: Tensor, fill: float) -> Tensor:
        """`(batch, channels, taps, outputs)`; padding never wins."""
        padded = F.pad(values, (padding[1], padding[1], padding[0], padding[0]), value=fill)
        return F.unfold(padded, kernel, dilation, stride=stride).view(batch, channels, -1, chosen[0, 0].numel())

    is_chosen = window_positions(layer, lower.shape[2:]).to(chosen.device) == chosen.flatten(2)[:, :, None, :]
    others = windows(upper, -torch.inf).masked_fill(is_chosen, -torch.inf).amax(2).view_as(largest)
    exact = largest >= others
    ceiling = F.max_pool2d(upper, kernel, stride, padding, dilation)
    return MaxRelaxation(chosen, exact.to(lower.dtype), torch.where(exact, torch.zeros_like(ceiling), ceiling))


def window_positions(layer: nn.MaxPool2d, shape: Sequence[int]) -> Tensor:
    """`(taps, outputs)`: the flat position in a channel of `shape` that a tap of a window reads, -1 in padding."""
    kernel, stride, padding, dilation = (
        _pair(value) for value in (layer.kernel_size, layer.stride, layer.padding, layer.dilation)
    )
    position = torch.arange(math.prod(shape), dtype=torch.float64).view(1, 1, *shape)
    padded = F.pad(position, (padding[1], padding[1], padding[0], padding[0]), value=-1)
    return F.unfold(padded, kernel, dilation, stride=stride)[0].long()


def _pair(value: Any) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else (value[0], value[1])


_RELAXATIONS: dict[type[nn.Module], Callable[..., Relaxation]] = {nn.ReLU: _relu, nn.MaxPool2d: _maximum}
