"""Masks that leave a way from the inputs of a network to its outputs."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..bounds import Graph
from ..errors import Disconnected
from .base import Distribution, Pattern
from .liveness import layers

_PASSED = (nn.BatchNorm1d, nn.BatchNorm2d, nn.ReLU, nn.Dropout)


def select(
    pattern: Pattern, scores: Mapping[str, Tensor], kept: int, distribution: Distribution, graph: Graph
) -> dict[str, Tensor]:
    """The weights that stay by `pattern.select`; if they cut all outputs off from the inputs, those of one path first.

    A network that is cut off gives constants and has no gradient. The path takes the place of the least valuable
    weights, so that the sparsity is what it was.

    Raises:
        ValueError: the sparsity is beyond the pattern's limits.
        Disconnected: no path leads through the weights that could stay.
    """
    chosen = pattern.select(scores, kept, distribution, graph)
    if connects(graph, chosen):
        return chosen
    path = best_path(graph, scores)
    first = {name: values.double().masked_fill(path[name], torch.inf) for name, values in scores.items()}
    chosen = pattern.select(first, kept, distribution, graph)
    if not connects(graph, chosen):
        raise _cut_off(kept)
    return chosen


def connects(graph: Graph, kept: Mapping[str, Tensor]) -> bool:
    """Whether any output depends on any input through the weights that are kept, bool by layer, value by value."""
    with torch.no_grad():
        return bool((_paths(graph, {name: values.double() for name, values in kept.items()}) > 0).any())


def best_path(graph: Graph, scores: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """One weight of each layer, bool of the weights' shapes, that together form a path from an input to an output.

    From the first layer on, it is the best of those that a path through the choices so far leads over. In a branch that
    no such path takes, there is none.

    Args:
        scores: by layer, on the CPU; a weight that cannot be kept scores -inf.

    Raises:
        Disconnected: there is no path.
    """
    open_ways = {name: (values > -torch.inf).double() for name, values in scores.items()}
    if not connects(graph, {name: ways > 0 for name, ways in open_ways.items()}):
        raise _cut_off(sum(int(ways.sum()) for ways in open_ways.values()))
    path = {}
    for name, values in scores.items():
        ways = open_ways[name].requires_grad_()
        with torch.enable_grad():
            (through,) = torch.autograd.grad(_paths(graph, open_ways).sum(), ways)
        ways.requires_grad_(False)
        passable = (through > 0) & (ways > 0)
        path[name] = torch.zeros_like(passable)
        if bool(passable.any()):
            # Of equal scores the first.
            best = int(
                torch.sort(values.masked_fill(~passable, -torch.inf).flatten(), descending=True, stable=True)[1][0]
            )
            path[name].view(-1)[best] = True
            open_ways[name] = path[name].double()
    return path


def _paths(graph: Graph, ways: Mapping[str, Tensor]) -> Tensor:
    """`(classes,)`: how many paths lead from inputs to each output; differentiable in the ways, 1 or 0 per weight.

    Average pooling counts shares of them; float64 has room for all of any network.
    """
    of = {layer: ways[name] for name, layer in layers(graph).items()}
    values = [torch.ones((1, *graph.nodes[0].shape), dtype=torch.float64)]
    for node in graph.nodes[1:]:
        layer, sources = node.layer, [values[index] for index in node.inputs]
        if isinstance(layer, nn.Linear):
            values.append(F.linear(sources[0], of[layer]))
        elif isinstance(layer, nn.Conv2d):
            values.append(
                F.conv2d(sources[0], of[layer], None, layer.stride, layer.padding, layer.dilation, layer.groups)
            )
        else:
            values.append(sources[0] if isinstance(layer, _PASSED) else layer(*sources))
    return values[-1][0]


def _cut_off(kept: int) -> Disconnected:
    return Disconnected(
        f"a network must have a path from its inputs to its outputs, but no choice of {kept} weights within the mask "
        "leaves one; lower sparsity, use a wider architecture or start: fresh"
    )
