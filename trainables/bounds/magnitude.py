"""How large the numbers get that bounds are summed up from: what their rounding errors are relative to."""

import math
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...spaces.architectures.layers import Reshape
from .affine import Affine, BatchNorm, affine_of, per_channel
from .graph import Add, Graph
from .relaxation import Interval

TOLERANCE: Mapping[torch.dtype, float] = MappingProxyType({torch.float32: 1e-4, torch.float64: 1e-11})
"""Rounding moves a bound by less than this share of its magnitude, as `magnitudes` gives it."""
_COVERED = 400
"""Terms of sums, one after the other from an input to a logit, for which that holds in the worst case: 4 units of
rounding for each are 9.5e-5 in float32 and 1.8e-13 in float64."""


@torch.no_grad()
def magnitudes(graph: Graph, bounds: Sequence[Interval]) -> Tensor:
    """`(batch,)`: the largest logit of the network with every weight, bias and input replaced by its absolute value, as
    many times as its sums are longer than what `TOLERANCE` covers; of bounds that are larger, their absolute values.

    No term of a forward pass over the box, of interval bounds or of a backward pass is larger, nor is the sum of all
    terms of one logit: slopes of relaxations are at most 1, and 0 for a ReLU that is off all over the box, whose
    inputs do not count here either, if it is so beyond rounding. Unlike a bound of the logits it is large where large
    terms cancel out. Over balls, whose radii may reach far beyond the range of the inputs, the ends of bounds may be
    larger than anything in a forward pass.

    Args:
        bounds: of every node over the boxes, each `(batch, *node.shape)`.
    """
    longer = max(1.0, sum(_terms(node.layer) for node in graph.nodes[1:]) / _COVERED)
    sizes = [torch.maximum(bounds[0].lower.abs(), bounds[0].upper.abs())]
    for node, bound in zip(graph.nodes[1:], bounds[1:], strict=True):
        inputs = [sizes[source] for source in node.inputs]
        if isinstance(node.layer, nn.ReLU):
            off = bounds[node.inputs[0]].upper <= -TOLERANCE[inputs[0].dtype] * longer * inputs[0]
            sizes.append(inputs[0].masked_fill(off, 0))
        else:
            size = _STEPS[type(node.layer)](node.layer, *inputs)
            sizes.append(torch.maximum(size, torch.maximum(bound.lower.abs(), bound.upper.abs())))
    return sizes[-1].amax(1) * longer


def _terms(layer: nn.Module) -> int:
    """How many numbers are summed up for one output, and going backwards for one input; a maximum counts as a sum."""
    if isinstance(layer, nn.Linear):
        return layer.in_features + layer.out_features
    if isinstance(layer, nn.Conv2d):
        return math.prod(layer.kernel_size) * (layer.in_channels + layer.out_channels) // layer.groups
    if isinstance(layer, nn.AvgPool2d | nn.MaxPool2d):
        size = layer.kernel_size
        return math.prod(size) if isinstance(size, tuple) else size**2
    return 4


def _linear(layer: nn.Linear, size: Tensor) -> Tensor:
    return F.linear(size, layer.weight.abs(), None if layer.bias is None else layer.bias.abs())


def _convolution(layer: nn.Conv2d, size: Tensor) -> Tensor:
    assert not isinstance(layer.padding, str)
    bias = None if layer.bias is None else layer.bias.abs()
    return F.conv2d(size, layer.weight.abs(), bias, layer.stride, layer.padding, layer.dilation, layer.groups)


def _affine(layer: BatchNorm | Affine, size: Tensor) -> Tensor:
    scale, shift = affine_of(layer)
    if not isinstance(layer, Affine):
        # The shift is itself a difference.
        assert layer.running_mean is not None
        own = layer.bias.abs() if layer.affine else torch.zeros_like(shift)
        shift = own + (layer.running_mean * scale).abs()
    scale, shift = (per_channel(values.abs(), size.dim()) for values in (scale, shift))
    return torch.addcmul(shift, size, scale)


def _same(layer: nn.Module, size: Tensor) -> Tensor:
    """Layers whose output is a mean, a maximum or a rearrangement of their inputs."""
    output: Tensor = layer(size)
    return output


def _passed(layer: nn.Module, size: Tensor) -> Tensor:
    return size


def _add(layer: Add, left: Tensor, right: Tensor) -> Tensor:
    return left + right


_STEPS: dict[type[nn.Module], Callable[..., Tensor]] = {
    nn.Linear: _linear,
    nn.Conv2d: _convolution,
    nn.BatchNorm1d: _affine,
    nn.BatchNorm2d: _affine,
    Affine: _affine,
    nn.AvgPool2d: _same,
    nn.MaxPool2d: _same,
    nn.Flatten: _same,
    nn.Dropout: _passed,
    Reshape: _same,
    Add: _add,
}
