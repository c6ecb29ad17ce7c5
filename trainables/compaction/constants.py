"""Values in a network that no input can change, found forwards, element by element."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...spaces.architectures.layers import Reshape
from ..bounds import Add, Graph


class Constants(NamedTuple):
    """What is known of the values of a node, each `(*node.shape,)`.

    Attributes:
        known: bool, whether the value is the same for every input, because only zero weights lead to what varies.
        value: float64, that value; 0 where it is not known.
    """

    known: Tensor
    value: Tensor


def constants(graph: Graph, *, training: bool = False) -> list[Constants]:
    """The constants of every node, BatchNorm by its running statistics, Dropout doing nothing.

    Args:
        training: BatchNorm by the statistics of the batch instead, which make of a constant channel its shift. That
            the channel is the same at all positions is taken for granted.
    """
    device = graph.last_linear.weight.device
    shape = graph.nodes[0].shape
    nothing = Constants(
        torch.zeros(shape, dtype=torch.bool, device=device), torch.zeros(shape, dtype=torch.float64, device=device)
    )
    found = [nothing]
    for node in graph.nodes[1:]:
        inputs = [found[source] for source in node.inputs]
        if training and isinstance(node.layer, nn.BatchNorm1d | nn.BatchNorm2d):
            known, value = _normalised(node.layer, *inputs)
        else:
            known, value = _STEPS[type(node.layer)](node.layer, *inputs)
        found.append(Constants(known, value.masked_fill(~known, 0.0)))
    return found


def double(values: Tensor | None) -> Tensor | None:
    """In float64, where there is something."""
    return None if values is None else values.detach().double()


def nonzero(weight: Tensor) -> Tensor:
    """1.0 where a weight is not zero: counts of such weights are exact in float64, also where they are summed up."""
    return (weight.detach() != 0).double()


def batchnorm_scale(layer: nn.BatchNorm1d | nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """Scale and shift `(channels,)` in float64."""
    assert layer.running_mean is not None
    assert layer.running_var is not None
    scale = torch.rsqrt(layer.running_var.double() + layer.eps)
    shift = -layer.running_mean.double() * scale
    if not layer.affine:
        return scale, shift
    weight = layer.weight.detach().double()
    return scale * weight, shift * weight + layer.bias.detach().double()


def _linear(layer: nn.Linear, x: Constants) -> tuple[Tensor, Tensor]:
    weight = layer.weight.detach()
    if x.known.dim() > 1:
        varying = F.linear((~x.known).double(), nonzero(weight))
        return varying < 0.5, F.linear(x.value, weight.double(), double(layer.bias))
    # Few values are constant, and a weight after a flatten is large: no copy of all of it in float64.
    (columns,) = x.value.nonzero(as_tuple=True)
    known = ~(weight[:, ~x.known] != 0).any(1)
    return known, F.linear(x.value[columns], weight[:, columns].double(), double(layer.bias))


def _convolution(layer: nn.Conv2d, x: Constants) -> tuple[Tensor, Tensor]:
    assert not isinstance(layer.padding, str)
    where = (layer.stride, layer.padding, layer.dilation, layer.groups)
    varying = F.conv2d((~x.known).double()[None], nonzero(layer.weight), None, *where)[0]
    value = F.conv2d(x.value[None], layer.weight.detach().double(), double(layer.bias), *where)[0]
    return varying < 0.5, value


def _batchnorm(layer: nn.BatchNorm1d | nn.BatchNorm2d, x: Constants) -> tuple[Tensor, Tensor]:
    scale, shift = (values.view(-1, *[1] * (x.value.dim() - 1)) for values in batchnorm_scale(layer))
    return x.known | (scale == 0), x.value * scale + shift


def _normalised(layer: nn.BatchNorm1d | nn.BatchNorm2d, x: Constants) -> tuple[Tensor, Tensor]:
    value = torch.zeros_like(x.value)
    if layer.affine:
        value += layer.bias.detach().double().view(-1, *[1] * (x.value.dim() - 1))
    return x.known, value


def _pooled_or_moved(layer: nn.Module, x: Constants) -> tuple[Tensor, Tensor]:
    """Layers without weights: a mean or a maximum of ones and zeros is 0 only where nothing that varies is read."""
    return layer((~x.known).double()[None])[0] == 0, layer(x.value[None])[0]


def _relu(layer: nn.ReLU, x: Constants) -> tuple[Tensor, Tensor]:
    return x.known, F.relu(x.value)


def _dropout(layer: nn.Dropout, x: Constants) -> tuple[Tensor, Tensor]:
    return x.known, x.value


def _add(layer: Add, left: Constants, right: Constants) -> tuple[Tensor, Tensor]:
    return left.known & right.known, left.value + right.value


_STEPS: dict[type[nn.Module], Callable[..., tuple[Tensor, Tensor]]] = {
    nn.Linear: _linear,
    nn.Conv2d: _convolution,
    nn.BatchNorm1d: _batchnorm,
    nn.BatchNorm2d: _batchnorm,
    nn.ReLU: _relu,
    nn.AvgPool2d: _pooled_or_moved,
    nn.MaxPool2d: _pooled_or_moved,
    nn.Flatten: _pooled_or_moved,
    nn.Dropout: _dropout,
    Reshape: _pooled_or_moved,
    Add: _add,
}
