"""Rows that pick single neurons, already taken through the linear layer that computes them.

A unit vector on the output of a convolution becomes one kernel on a map of zeros. Placing it costs no arithmetic, where
the transposed convolution of a whole map of zeros and a one would be most of the work of CROWN.
"""

import torch
from torch import Tensor, nn

from .affine import Affine, affine_of
from .graph import Graph, Node


def unit_rows(graph: Graph, index: int, neuron: Tensor, like: Tensor) -> tuple[int, Tensor, Tensor]:
    """The values of some neurons of node `index` as linear functions of an earlier node.

    Args:
        neuron: `(rows,)`, positions in the flattened node.
        like: any tensor of the dtype and device wanted.

    Returns:
        the earlier node, coefficients `(rows, *shape of it)`, and constants `(rows,)`.
    """
    factor, constant = like.new_ones(len(neuron)), like.new_zeros(len(neuron))
    node = graph.nodes[index]
    while isinstance(node.layer, nn.BatchNorm1d | nn.BatchNorm2d | Affine):
        scale, shift = affine_of(node.layer)
        channel = neuron // _size_of_channel(node)
        constant = constant + factor * shift[channel]
        factor = factor * scale[channel]
        index = node.inputs[0]
        node = graph.nodes[index]
    bias: Tensor | None
    if isinstance(node.layer, nn.Linear) and len(node.shape) == 1:
        rows, bias, chosen = node.layer.weight[neuron], node.layer.bias, neuron
    elif isinstance(node.layer, nn.Conv2d):
        rows, bias = _placed(node.layer, graph.nodes[node.inputs[0]].shape, node, neuron), node.layer.bias
        chosen = neuron // _size_of_channel(node)
    else:
        rows = like.new_zeros(len(neuron), _size_of_channel(node) * node.shape[0])
        rows = rows.scatter(1, neuron[:, None], factor[:, None])
        return index, rows.view(-1, *node.shape), constant
    if bias is not None:
        constant = constant + factor * bias[chosen]
    return node.inputs[0], rows * factor.view(-1, *[1] * (rows.dim() - 1)), constant


def _size_of_channel(node: Node) -> int:
    return torch.Size(node.shape[1:]).numel()


def _placed(layer: nn.Conv2d, inputs: tuple[int, ...], node: Node, neuron: Tensor) -> Tensor:
    """`(rows, *inputs)`: the kernel of each neuron at the place of the input that the neuron reads."""
    assert not isinstance(layer.padding, str)
    _, height, width = node.shape
    channel, place = neuron // (height * width), neuron % (height * width)

    def reach(position: Tensor, axis: int) -> Tensor:
        """`(rows, taps)`: coordinates in the padded input."""
        taps = torch.arange(layer.kernel_size[axis], device=neuron.device) * layer.dilation[axis]
        return position[:, None] * layer.stride[axis] + taps

    (top, left), (read, _, _) = layer.padding, layer.weight.shape[1:]
    group = channel // (layer.out_channels // layer.groups)
    row = torch.arange(len(neuron), device=neuron.device)[:, None, None, None]
    source = (group[:, None] * read + torch.arange(read, device=neuron.device))[:, :, None, None]
    rows = layer.weight.new_zeros(len(neuron), inputs[0], inputs[1] + 2 * top, inputs[2] + 2 * left)
    where = (row, source, reach(place // width, 0)[:, None, :, None], reach(place % width, 1)[:, None, None, :])
    rows = rows.index_put(where, layer.weight[channel])
    return rows[:, :, top : top + inputs[1], left : left + inputs[2]]
