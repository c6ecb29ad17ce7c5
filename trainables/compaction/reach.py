"""Values in a network that the logits depend on, found backwards, element by element."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.grad import conv2d_input

from ...spaces.architectures.layers import Reshape
from ..bounds import Add, Graph, Node
from .constants import batchnorm_scale, nonzero

Shape = tuple[int, ...]


def needed(graph: Graph, gone: Sequence[Tensor]) -> list[Tensor]:
    """Per node a bool `(*node.shape,)`: whether a path of nonzero weights leads from the value to a logit.

    Args:
        gone: per node `(node.shape[0],)`, slices that are removed: nothing is needed for them.
    """
    device = graph.last_linear.weight.device
    found = [torch.zeros(node.shape, dtype=torch.bool, device=device) for node in graph.nodes]
    found[-1].fill_(True)
    for index in range(len(graph.nodes) - 1, 0, -1):
        node = graph.nodes[index]
        found[index][gone[index]] = False
        for source in node.inputs:
            found[source] |= read_by(node, found[index], graph.nodes[source].shape)
    return found


def read_by(node: Node, wanted: Tensor, shape: Shape) -> Tensor:
    """Which values of its input `(*shape,)` a node reads by nonzero weights for its `wanted` ones, `(*node.shape,)`."""
    return _STEPS[type(node.layer)](node.layer, wanted, shape)


def _linear(layer: nn.Linear, wanted: Tensor, shape: Shape) -> Tensor:
    if wanted.dim() > 1:
        return wanted.double() @ nonzero(layer.weight) > 0.5
    return (layer.weight.detach()[wanted] != 0).any(0)


def _convolution(layer: nn.Conv2d, wanted: Tensor, shape: Shape) -> Tensor:
    assert not isinstance(layer.padding, str)
    where = (layer.stride, layer.padding, layer.dilation, layer.groups)
    return conv2d_input((1, *shape), nonzero(layer.weight), wanted.double()[None], *where)[0] > 0.5


def _batchnorm(layer: nn.BatchNorm1d | nn.BatchNorm2d, wanted: Tensor, shape: Shape) -> Tensor:
    return wanted & (batchnorm_scale(layer)[0] != 0).view(-1, *[1] * (wanted.dim() - 1))


def _average(layer: nn.AvgPool2d, wanted: Tensor, shape: Shape) -> Tensor:
    with torch.enable_grad():
        x = torch.zeros(1, *shape, dtype=torch.float64, device=wanted.device, requires_grad=True)
        (gradient,) = torch.autograd.grad(layer(x), x, wanted.double()[None])
    return gradient[0] != 0


def _maximum(layer: nn.MaxPool2d, wanted: Tensor, shape: Shape) -> Tensor:
    kernel = _pair(layer.kernel_size)
    windows = wanted.double().reshape(-1, 1, wanted.shape[-2] * wanted.shape[-1])
    taps = windows.expand(-1, kernel[0] * kernel[1], -1)
    size = (shape[-2], shape[-1])
    return F.fold(taps, size, kernel, layer.dilation, layer.padding, layer.stride).reshape(shape) > 0.5


def _pair(value: int | tuple[int, ...]) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else (value[0], value[1])


def _same(layer: nn.Module, wanted: Tensor, shape: Shape) -> Tensor:
    return wanted.reshape(shape)


_STEPS: dict[type[nn.Module], Callable[..., Tensor]] = {
    nn.Linear: _linear,
    nn.Conv2d: _convolution,
    nn.BatchNorm1d: _batchnorm,
    nn.BatchNorm2d: _batchnorm,
    nn.ReLU: _same,
    nn.AvgPool2d: _average,
    nn.MaxPool2d: _maximum,
    nn.Flatten: _same,
    nn.Dropout: _same,
    Reshape: _same,
    Add: _same,
}
