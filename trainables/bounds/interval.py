"""Interval bounds in centre/radius form (IBP, Gowal et al. 2018, arXiv 1810.12715)."""

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...spaces.architectures.layers import Reshape
from .affine import Affine, BatchNorm, affine_of, per_channel
from .graph import Add, Graph, Node, UnsupportedLayer
from .region import Ball, Box, Region, spread
from .relu import interval_relu


def interval_bounds(graph: Graph, region: Region) -> list[Region]:
    """Bounds of every node over the region `(batch, *shape)` at the input, BatchNorm by its running statistics.

    Returns:
        bounds of every node of the graph, each `(batch, *node.shape)`; the last ones are of the logits. Of the input,
        and of what only rearranges it, they are as `region` is; boxes elsewhere.

    Raises:
        UnsupportedLayer: for a Dropout in training mode.
    """
    bounds = [region]
    for node in graph.nodes[1:]:
        bounds.append(interval_step(node, [bounds[index] for index in node.inputs]))
    return bounds


def interval_step(node: Node, inputs: Sequence[Region]) -> Region:
    """Bounds of one node from those of its inputs."""
    kind, first = type(node.layer), inputs[0]
    if isinstance(first, Ball) and kind in REARRANGING:
        centre, radius = _STEPS[kind](node.layer, first)
        return first._replace(centre=centre, radius=radius)
    if kind not in SPREADING:
        inputs = [region.box() for region in inputs]
    return Box(*_STEPS[kind](node.layer, *inputs))


class ReLUStates(NamedTuple):
    """What interval bounds say of the neurons of one ReLU over some boxes; each position of a map is a neuron.

    Attributes:
        unstable: pairs of a box and a neuron with `lower < 0 < upper`.
        pairs: all pairs of a box and a neuron.
        dead: neurons that no point of any box switches on, `upper <= 0` throughout.
        neurons: of the layer.
    """

    unstable: int
    pairs: int
    dead: int
    neurons: int


@torch.no_grad()
def relu_states(graph: Graph, region: Region, *, batch_size: int = 256) -> dict[int, ReLUStates]:
    """The states of each ReLU of the graph, by its node, over the regions `(batch, *shape)`."""
    relus = {index: node.inputs[0] for index, node in enumerate(graph.nodes) if isinstance(node.layer, nn.ReLU)}
    unstable = dict.fromkeys(relus, 0)
    dead = {
        index: torch.ones(graph.nodes[index].shape, dtype=torch.bool, device=region.centre.device) for index in relus
    }
    for start in range(0, len(region.centre), batch_size):
        bounds = interval_bounds(graph, region.pick(slice(start, start + batch_size)))
        for index, source in relus.items():
            before = bounds[source]
            unstable[index] += int(((before.lower < 0) & (before.upper > 0)).sum())
            dead[index] &= (before.upper <= 0).all(0)
    return {
        index: ReLUStates(unstable[index], len(region.centre) * dead[index].numel(), int(off.sum()), off.numel())
        for index, off in dead.items()
    }


def unstable_relu_fraction(states: Iterable[ReLUStates]) -> float:
    """Share of unstable ones among all pairs of a box and a ReLU neuron; 0 without any."""
    states = list(states)
    pairs = sum(state.pairs for state in states)
    return sum(state.unstable for state in states) / pairs if pairs else 0.0


def _linear(layer: nn.Linear, region: Region) -> tuple[Tensor, Tensor]:
    return F.linear(region.centre, layer.weight, layer.bias), spread(region, F.linear, layer.weight)


def _convolution(layer: nn.Conv2d, region: Region) -> tuple[Tensor, Tensor]:
    assert not isinstance(layer.padding, str)
    where = (layer.stride, layer.padding, layer.dilation, layer.groups)
    return (
        F.conv2d(region.centre, layer.weight, layer.bias, *where),
        spread(region, lambda radius, weight: F.conv2d(radius, weight, None, *where), layer.weight),
    )


def _affine(layer: BatchNorm | Affine, box: Box) -> tuple[Tensor, Tensor]:
    scale, shift = (per_channel(values, box.centre.dim()) for values in affine_of(layer))
    return torch.addcmul(shift, box.centre, scale), box.radius * scale.abs()


def _relu(layer: nn.ReLU, box: Box) -> tuple[Tensor, Tensor]:
    return interval_relu(box.centre, box.radius)


def _rearranging(layer: nn.Module, box: Region) -> tuple[Tensor, Tensor]:
    """Layers without bias whose weights are not negative: the same map takes centre and radius."""
    return layer(box.centre), layer(box.radius)


def _maximum(layer: nn.MaxPool2d, box: Box) -> tuple[Tensor, Tensor]:
    lower, upper = layer(box.lower), layer(box.upper)
    return (lower + upper) * 0.5, (upper - lower) * 0.5


def _dropout(layer: nn.Dropout, box: Region) -> tuple[Tensor, Tensor]:
    if layer.training and layer.p > 0:
        raise UnsupportedLayer(
            f"Dropout(p={layer.p}) in training mode has no bounds, because its output is random: "
            "train without it, or bound the network in eval mode"
        )
    return box.centre, box.radius


def _add(layer: Add, left: Box, right: Box) -> tuple[Tensor, Tensor]:
    return left.centre + right.centre, left.radius + right.radius


_STEPS: dict[type[nn.Module], Callable[..., tuple[Tensor, Tensor]]] = {
    nn.Linear: _linear,
    nn.Conv2d: _convolution,
    nn.BatchNorm1d: _affine,
    nn.BatchNorm2d: _affine,
    Affine: _affine,
    nn.ReLU: _relu,
    nn.AvgPool2d: _rearranging,
    nn.MaxPool2d: _maximum,
    nn.Flatten: _rearranging,
    nn.Dropout: _dropout,
    Reshape: _rearranging,
    Add: _add,
}

REARRANGING = frozenset({nn.Flatten, nn.Dropout, Reshape})
"""Layers that put out what they read: a ball remains one."""
SPREADING = frozenset({nn.Linear, nn.Conv2d})
"""Layers whose range over a ball is told exactly; that of others is told over the box around it."""
