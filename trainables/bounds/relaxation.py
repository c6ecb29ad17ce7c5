"""Two linear functions that enclose each nonlinear layer over known bounds of its input."""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from .relu import where_above

LEAST_UPPER, LEAST_SLOPE = 1e-30, 1e-20
"""What an upper bound counts for at least in the slope of a chord, and slopes that are 0: far below any rounding error.

So the slope is 1 where both bounds are 0 and exactly 0 where a neuron is dead, without a look at cases.
"""


class Bounds(Protocol):
    """Anything with a lower and an upper bound, each `(batch, *shape)`."""

    @property
    def lower(self) -> Tensor: ...

    @property
    def upper(self) -> Tensor: ...


class Interval(NamedTuple):
    """Lower and upper bounds, each `(batch, *shape)`."""

    lower: Tensor
    upper: Tensor


class ReLURelaxation(NamedTuple):
    """`x <= relu(x)` where `middle > 0`, `0 <= relu(x)` elsewhere; `relu(x) <= slope * (x + depth)`.

    Each `(batch, *shape)`; no gradient flows into `middle`, of which the sign alone counts.
    """

    middle: Tensor
    slope: Tensor
    depth: Tensor

    def backward(self, rows: Tensor, owner: Tensor | slice, inputs: torch.Size) -> tuple[Tensor, Tensor]:
        # Under autocast a BatchNorm gives bounds, but not rows, of more precision.
        rows = rows.to(torch.promote_types(rows.dtype, self.slope.dtype))
        through: tuple[Tensor, Tensor] = _ThroughReLU.apply(
            rows, *(values[owner].to(rows.dtype) for values in (self.middle, self.slope, self.depth))
        )
        return through


class _Chord(torch.autograd.Function):
    """Slope and depth of the chord of a ReLU from `(-depth, 0)` to `(above, above)`: `above / (above + depth)`.

    `above` and `depth` are the upper bound and minus the lower one where these are positive, else 0.
    """

    @staticmethod
    def forward(ctx: Any, lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:
        above, depth = upper.clamp_min(LEAST_UPPER), lower.neg().relu_()
        width = above + depth
        slope = F.threshold(above.div_(width), LEAST_SLOPE, 0.0, inplace=True)
        ctx.save_for_backward(depth, width, slope)
        return slope, depth

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor]:
        depth, width, slope = ctx.saved_tensors
        grad_slope, grad_depth = grads
        # The derivatives of the slope are (1 - slope) / width by `above` and -slope / width by `depth`.
        by_width = grad_slope / width
        by_depth = by_width * slope
        return where_above(by_depth - grad_depth, depth), where_above(by_width.sub_(by_depth), slope)


class _ThroughReLU(torch.autograd.Function):
    """Coefficients on the input of a ReLU, and a constant per row, from coefficients on its output.

    A positive coefficient meets the lower function of a `ReLURelaxation`, a negative one the upper.
    """

    @staticmethod
    def forward(ctx: Any, rows: Tensor, middle: Tensor, slope: Tensor, depth: Tensor) -> tuple[Tensor, Tensor]:
        negative = rows.clamp_max(0)
        chords = negative * slope
        ctx.save_for_backward(rows, middle, slope, depth, negative, chords)
        return where_above(rows.relu(), middle).add_(chords), (chords * depth).flatten(1).sum(1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, Tensor, Tensor]:
        rows, middle, slope, depth, negative, chords = ctx.saved_tensors
        grad_rows, grad_bias = grads
        grad_bias = grad_bias.view(-1, *[1] * (rows.dim() - 1))
        by_chord = torch.addcmul(grad_rows, grad_bias, depth)
        grad_slope = negative * by_chord
        by_negative = by_chord.mul_(slope)
        # Of a coefficient that is 0 the gradient is that of a negative one.
        by_positive = where_above(grad_rows, middle).sub_(by_negative)
        return where_above(by_positive, rows).add_(by_negative), None, grad_slope, chords * grad_bias


class SlopedReLU(NamedTuple):
    """`low * x <= relu(x) <= slope * (x + depth)`, each `(rows, *shape)`: a lower function of its own for each row."""

    low: Tensor
    slope: Tensor
    depth: Tensor

    def backward(self, rows: Tensor, owner: Tensor | slice, inputs: torch.Size) -> tuple[Tensor, Tensor]:
        chords = rows.clamp_max(0) * self.slope
        return rows.relu() * self.low + chords, (chords * self.depth).flatten(1).sum(1)


class MaxRelaxation(NamedTuple):
    """`x[chosen] <= max <= exact * x[chosen] + constant`, each `(batch, channels, height, width)` of the output.

    `chosen` is the flat position in a channel of the value with the largest lower bound; where no other value of the
    window can exceed it the maximum is that value, elsewhere it is at most the largest upper bound.
    """

    chosen: Tensor
    exact: Tensor
    constant: Tensor

    def backward(self, rows: Tensor, owner: Tensor | slice, inputs: torch.Size) -> tuple[Tensor, Tensor]:
        # Rows of reduced precision meet bounds that are not: of a BatchNorm, or over a ball.
        rows = rows.to(torch.promote_types(rows.dtype, self.exact.dtype))
        positive, negative = rows.clamp(min=0), rows.clamp(max=0)
        bias = (negative * self.constant[owner]).flatten(1).sum(1)
        kept = (positive + negative * self.exact[owner]).flatten(2)
        flat = rows.new_zeros(rows.shape[0], inputs[0], inputs[1] * inputs[2])
        flat = flat.scatter_add(2, self.chosen[owner].flatten(2), kept)
        return flat.view(rows.shape[0], *inputs), bias


Relaxation = ReLURelaxation | SlopedReLU | MaxRelaxation


def relax(layer: nn.Module, before: Bounds) -> Relaxation:
    """The relaxation of a nonlinear layer over the bounds `before` of its input."""
    return _RELAXATIONS[type(layer)](layer, Interval(before.lower, before.upper))


def is_nonlinear(layer: nn.Module) -> bool:
    return type(layer) in _RELAXATIONS


def _relu(layer: nn.ReLU, before: Interval) -> ReLURelaxation:
    """Upper: the chord from `(l, 0)` to `(u, u)`. Lower: slope 1 where u > -l, else 0, the smaller area of the two
    (adaptive CROWN, Zhang et al. 2018, arXiv 1811.00866)."""
    slope, depth = _Chord.apply(*before)
    return ReLURelaxation((before.lower + before.upper).detach(), slope, depth)


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
