"""Which weights of a network still read something, once whole filters have gone."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ...spaces.architectures.layers import Reshape
from ..bounds import Add, Graph
from ..mask import prunable_weights


class Live(NamedTuple):
    """Of one layer, both bool: the outputs `(out,)` that depend on the input, and the inputs `(in,)` that do."""

    outputs: Tensor
    inputs: Tensor


class Wiring:
    """The weights of a graph as counts per output and input, to follow what the loss of filters takes along.

    A filter without weights gives a constant: its bias, through BatchNorm and ReLU still one. A layer reads a constant
    to no effect beyond a constant, so its weights there go too; at a sum, only where all branches are constant. Nothing
    has to be stored or set to zero for that: whatever bias and BatchNorm of a dead filter hold, no kept weight reads
    it, except that a sum whose other branch lives adds it, as a bias would.

    Args:
        kept: the weights to count by layer, of the weights' shapes.

    Raises:
        ValueError: see `check_wiring`.
    """

    def __init__(self, graph: Graph, kept: Mapping[str, Tensor]) -> None:
        check_wiring(graph)
        self._graph = graph
        self._name = {layer: name for name, layer in layers(graph).items()}
        self._counts = {name: _over_kernel(values).float() for name, values in kept.items()}

    def live(self, chosen: Mapping[str, Tensor]) -> tuple[int, dict[str, Live]]:
        """How many weights are left, and where, if only these filters stay (all of them in a layer that is not named).

        Args:
            chosen: by layer, bool `(out,)`.
        """
        found: dict[str, Live] = {}
        total = 0
        alive = [torch.ones(self._graph.nodes[0].shape, dtype=torch.bool)]
        for node in self._graph.nodes[1:]:
            source = alive[node.inputs[0]]
            if isinstance(node.layer, nn.Linear | nn.Conv2d):
                name = self._name[node.layer]
                inputs = source.flatten(1).any(1) if source.dim() > 1 else source
                # Exact: no filter has 2^24 weights.
                left = self._counts[name] @ inputs.float()
                outputs = (left > 0) & chosen[name] if name in chosen else left > 0
                total += int(left[outputs].double().sum())
                found[name] = Live(outputs, inputs)
                alive.append(outputs.view(-1, *[1] * (len(node.shape) - 1)).expand(node.shape))
            else:
                alive.append(_STEPS[type(node.layer)](node.layer, *(alive[index] for index in node.inputs)))
        return total, found


def over_readers(graph: Graph, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Per layer `(out,)`, float64: for each of its outputs the sum of `values` over the weights that read it.

    What reads a channel of a sum reads it from all branches.

    Args:
        values: one per weight by layer, of the weights' shapes, on the CPU.

    Raises:
        ValueError: see `check_wiring`.
    """
    check_wiring(graph)
    name_of = {layer: name for name, layer in layers(graph).items()}
    read = [torch.zeros(node.shape[0], dtype=torch.float64) for node in graph.nodes]
    sums: dict[str, Tensor] = {}
    for node, own in zip(reversed(graph.nodes[1:]), reversed(read), strict=False):
        passed = own
        if isinstance(node.layer, nn.Linear | nn.Conv2d):
            sums[name_of[node.layer]] = own
            passed = _over_kernel(values[name_of[node.layer]].double()).sum(0)
        elif isinstance(node.layer, nn.Flatten | Reshape):
            before = graph.nodes[node.inputs[0]].shape
            each = own.view(-1, *[1] * (len(node.shape) - 1)).expand(node.shape).reshape(before[0], -1)
            # A weight of a linear layer reads one position, one of a convolution all of them.
            passed = each.sum(1) if len(node.shape) == 1 else each.amax(1)
        for source in node.inputs:
            read[source] += passed
    return {name: sums[name] for name in values}


def _over_kernel(values: Tensor) -> Tensor:
    """`(out, in)`: summed over the positions of a kernel."""
    return values.flatten(2).sum(2) if values.dim() > 2 else values


def check_wiring(graph: Graph) -> None:
    """
    Raises:
        ValueError: a grouped convolution, a linear layer over more than a vector, or a layer that is used twice: a
            filter of those is not one output.
    """
    seen: set[nn.Module] = set()
    for node in graph.nodes:
        layer = node.layer
        if not isinstance(layer, nn.Linear | nn.Conv2d):
            continue
        if isinstance(layer, nn.Conv2d) and layer.groups > 1:
            raise ValueError(f"whole filters cannot be pruned from a grouped convolution ({layer.groups} groups)")
        if isinstance(layer, nn.Linear) and len(node.shape) > 1:
            raise ValueError("whole neurons cannot be pruned from a linear layer over more than a vector")
        if layer in seen:
            raise ValueError(f"whole filters cannot be pruned from a {type(layer).__name__} that is used twice")
        seen.add(layer)


def layers(graph: Graph) -> dict[str, nn.Module]:
    """The convolutions and linear layers by the name of their weight, in the order of `prunable_weights`."""
    of_weight = {id(node.layer.weight): node.layer for node in graph.nodes[1:] if hasattr(node.layer, "weight")}
    return {name: of_weight[id(weight)] for name, weight in prunable_weights(graph.network).items()}


def most_weights_left(graph: Graph) -> int:
    """The most weights that can be left when each layer but the last keeps one filter, whichever these are.

    At a sum each branch may have kept another channel; so this counts channels instead of following them.
    """
    check_wiring(graph)
    total = 0
    channels = [graph.nodes[0].shape[0]]
    for node in graph.nodes[1:]:
        before = channels[node.inputs[0]]
        if isinstance(node.layer, nn.Linear | nn.Conv2d):
            rows = len(node.layer.weight) if node.layer is graph.last_linear else 1
            total += rows * before * math.prod(node.layer.weight.shape[2:])
            channels.append(rows)
        elif isinstance(node.layer, Add):
            channels.append(min(node.shape[0], sum(channels[index] for index in node.inputs)))
        elif isinstance(node.layer, nn.Flatten | Reshape):
            per_channel = math.prod(graph.nodes[node.inputs[0]].shape[1:])
            channels.append(min(node.shape[0], before * per_channel))
        else:
            channels.append(before)
    return total


def _same(layer: nn.Module, alive: Tensor) -> Tensor:
    return alive


def _moved(layer: nn.Module, alive: Tensor) -> Tensor:
    moved: Tensor = layer(alive[None])[0]
    return moved


def _pooled(layer: nn.Module, alive: Tensor) -> Tensor:
    pooled: Tensor = layer(alive[None].float())[0]
    return pooled > 0


def _either(layer: nn.Module, left: Tensor, right: Tensor) -> Tensor:
    return left | right


_STEPS: dict[type[nn.Module], Callable[..., Tensor]] = {
    nn.BatchNorm1d: _same,
    nn.BatchNorm2d: _same,
    nn.ReLU: _same,
    nn.Dropout: _same,
    nn.AvgPool2d: _pooled,
    nn.MaxPool2d: _pooled,
    nn.Flatten: _moved,
    Reshape: _moved,
    Add: _either,
}
