"""Building the smaller network."""

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor, nn

from ...spaces.architectures.layers import Reshape, Residual
from ..bounds import Graph, Node, trace
from .plan import Plan, plan
from .units import shrinkable


@final
@dataclass(frozen=True, eq=False)
class LayerUnits:
    """What is left of a convolution or a linear layer.

    Attributes:
        name: of the layer, the same in both networks.
        before: how many output channels or neurons it had.
        kept: int64 `(after,)`, which of them are left, ascending.
    """

    name: str
    before: int
    kept: Tensor

    @property
    def after(self) -> int:
        """How many output channels or neurons are left."""
        return len(self.kept)


@final
@dataclass(frozen=True, eq=False)
class Compaction:
    """A network without what its zero weights have killed.

    Attributes:
        network: fresh modules under the names of the original's, of the same dtype and on the same device.
        layers: every convolution and linear layer, in order.
    """

    network: nn.Sequential
    layers: tuple[LayerUnits, ...]

    @property
    def smaller(self) -> bool:
        """Whether anything was removed."""
        return any(layer.after < layer.before for layer in self.layers)


@torch.no_grad()
def compact(network: nn.Sequential, shape: tuple[int, ...]) -> Compaction:
    """Remove every neuron and channel that the zero weights of `network` make superfluous, and leave `network` alone.

    A unit goes if no path of nonzero weights leads from it to a logit, or if its value is the same for every input
    because none leads to it: then what it adds to the layers that read it goes into their biases. Exactly: where zero
    padding makes a constant channel count less at the border of a map than inside, it stays. Channels that a residual
    sum joins go together or not at all. Inputs and logits stay, and so does one unit of a layer that is wholly dead;
    whatever writes or reads that one is zero. Grouped convolutions and linear layers over more than a vector keep their
    size, a layer without a bias gets one where a constant has to go somewhere, and a module that stands at two places
    becomes two. The smaller network is in eval mode.

    Outputs and bounds are equal up to rounding: constants are summed in float64 and rounded once, and intervals and
    linear bounds of a constant are exact. Units that are constant for another reason, such as a ReLU whose input is
    never positive, are not looked for.

    Args:
        network: counts as in eval mode, with masks in its weights.
        shape: of an input, without the batch.

    Raises:
        UnsupportedLayer: bounds do not know a layer either (see `bounds.trace`).
    """
    graph = trace(network, shape)
    compaction = removed(graph, plan(graph))
    compaction.network.eval()
    return compaction


@torch.no_grad()
def removed(graph: Graph, plan: Plan) -> Compaction:
    """What a plan leaves of the network of `graph`, as `compact` gives it but in training mode."""
    assert isinstance(graph.network, nn.Sequential)
    building = _Building(graph, plan)
    return Compaction(building.sequential(graph.network, ""), tuple(building.layers))


class _Building:
    """Walks the modules of a network as `trace` did, so that the next layer belongs to the next node."""

    def __init__(self, graph: Graph, plan: Plan) -> None:
        self._graph, self._plan = graph, plan
        self._next: Iterator[int] = iter(range(1, len(graph.nodes)))
        self.layers: list[LayerUnits] = []

    def sequential(self, module: nn.Sequential, path: str) -> nn.Sequential:
        made = nn.Sequential()
        for name, child in module._modules.items():
            assert child is not None
            made.add_module(name, self._module(child, f"{path}{name}"))
        return made

    def _module(self, module: nn.Module, path: str) -> nn.Module:
        if isinstance(module, nn.Sequential):
            return self.sequential(module, f"{path}.")
        if isinstance(module, nn.Identity):
            return nn.Identity()
        if isinstance(module, Residual):
            body = self._module(module.body, f"{path}.body")
            shortcut = self._module(module.shortcut, f"{path}.shortcut")
            next(self._next)
            return Residual(body, shortcut)  # type: ignore[arg-type]
        index = next(self._next)
        layer = self._layer(index, self._graph.nodes[index])
        if isinstance(module, nn.Linear | nn.Conv2d):
            before = module.weight.shape[0]
            kept = self._plan.kept[index] if shrinkable(self._graph.nodes[index]) else torch.arange(before)
            self.layers.append(LayerUnits(path, before, kept))
        return layer

    def _layer(self, index: int, node: Node) -> nn.Module:
        layer, kept = node.layer, self._plan.kept[index]
        if isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d):
            return _batchnorm(layer, kept)
        if isinstance(layer, Reshape):
            return Reshape((len(kept), *node.shape[1:]))
        if isinstance(layer, nn.Linear | nn.Conv2d) and shrinkable(node):
            return self._smaller(index, node, layer)
        return copy.deepcopy(layer)

    def _smaller(self, index: int, node: Node, layer: nn.Linear | nn.Conv2d) -> nn.Module:
        (source,) = node.inputs
        rows, columns = self._plan.kept[index], self._plan.kept[source]
        dead_rows = ~self._plan.needed[index][rows]
        weight = layer.weight.detach()[rows][:, columns].contiguous()
        weight[dead_rows] = 0
        weight[:, self._plan.gone[source][columns]] = 0
        bias = self._plan.folded[index]
        has_bias = layer.bias is not None or bool((bias != 0).any())
        if layer.bias is not None:
            bias = bias + layer.bias.detach().double()
        bias = bias[rows].masked_fill(dead_rows, 0.0).to(weight.dtype)
        made: Any
        # On the meta device nothing is initialised, so that no random number is drawn.
        if isinstance(layer, nn.Linear):
            made = nn.Linear(len(columns), len(rows), bias=has_bias, device="meta")
        else:
            made = nn.Conv2d(
                len(columns),
                len(rows),
                layer.kernel_size,  # type: ignore[arg-type]
                layer.stride,  # type: ignore[arg-type]
                layer.padding,  # type: ignore[arg-type]
                layer.dilation,  # type: ignore[arg-type]
                bias=has_bias,
                device="meta",
            )
        made.weight = nn.Parameter(weight)
        if has_bias:
            made.bias = nn.Parameter(bias)
        return made


def _batchnorm(layer: nn.BatchNorm1d | nn.BatchNorm2d, kept: Tensor) -> nn.Module:
    made = type(layer)(len(kept), layer.eps, layer.momentum, layer.affine, device="meta")
    if layer.affine:
        made.weight, made.bias = (nn.Parameter(values.detach()[kept]) for values in (layer.weight, layer.bias))
    assert layer.running_mean is not None
    assert layer.running_var is not None
    assert layer.num_batches_tracked is not None
    made.running_mean, made.running_var = layer.running_mean[kept], layer.running_var[kept]
    made.num_batches_tracked = layer.num_batches_tracked.clone()
    return made
