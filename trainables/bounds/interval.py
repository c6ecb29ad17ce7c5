"""Interval bounds in centre/radius form (IBP, Gowal et al. 2018, arXiv 1810.12715)."""

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...spaces.architectures.layers import Reshape
from .affine import Affine, BatchNorm, affine_of, per_channel
from .graph import Add, Graph, Node, UnsupportedLayer
from .relu import interval_relu


class Box(NamedTuple):
    """All points within `radius` of `centre`, value by value; both `(batch, *shape)`."""

    centre: Tensor
    radius: Tensor

    @property
    def lower(self) -> Tensor:
        return self.centre - self.radius

    @property
    def upper(self) -> Tensor:
        return self.centre + self.radius

    def pick(self, samples: Tensor | slice) -> "Box":
        """The boxes of some samples of the batch."""
        return Box(self.centre[samples], self.radius[samples])


def input_box(x: Tensor, epsilon: float | Tensor, low: float, high: float, scale: float | Tensor = 1.0) -> Box:
    """The points within `r = epsilon scale` of `x` that lie in the input range: `[max(low, x - r), min(high, x + r)]`.

    Args:
        x: `(batch, *shape)`, within `[low, high]`.
        epsilon: in the units of the input, not negative; a tensor must broadcast to `x`.
        scale: of each feature, not negative; a tensor must broadcast to `shape`.

    Raises:
        ValueError: for a negative or NaN `epsilon`.
    """
    if not isinstance(epsilon, Tensor) and not epsilon >= 0:
        raise ValueError(f"epsilon must be at least 0, got {epsilon}")
    radius = epsilon * scale
    lower = (x - radius).clamp_(min=low)
    upper = (x + radius).clamp_(max=high)
    # Halving the sum is exact where both ends are x, so that a box of epsilon 0 is the point itself.
    return Box((lower + upper).mul_(0.5), (upper - lower).mul_(0.5))


def interval_bounds(graph: Graph, centre: Tensor, radius: Tensor) -> list[Box]:
    """Bounds of every node for the box `centre ± radius` at the input, BatchNorm by its running statistics.

    Returns:
        one `Box` per node of the graph, each `(batch, *node.shape)`; the last one bounds the logits.

    Raises:
        UnsupportedLayer: for a Dropout in training mode.
    """
    bounds = [Box(centre, radius)]
    for node in graph.nodes[1:]:
        bounds.append(interval_step(node, [bounds[index] for index in node.inputs]))
    return bounds


def interval_step(node: Node, inputs: Sequence[Box]) -> Box:
    """Bounds of one node from those of its inputs."""
    return Box(*_STEPS[type(node.layer)](node.layer, *inputs))


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
def relu_states(graph: Graph, box: Box, *, batch_size: int = 256) -> dict[int, ReLUStates]:
    """The states of each ReLU of the graph, by its node, over the boxes `(batch, *shape)`."""
    relus = {index: node.inputs[0] for index, node in enumerate(graph.nodes) if isinstance(node.layer, nn.ReLU)}
    unstable = dict.fromkeys(relus, 0)
    dead = {index: torch.ones(graph.nodes[index].shape, dtype=torch.bool, device=box.centre.device) for index in relus}
    for start in range(0, len(box.centre), batch_size):
        bounds = interval_bounds(graph, *box.pick(slice(start, start + batch_size)))
        for index, source in relus.items():
            before = bounds[source]
            unstable[index] += int(((before.lower < 0) & (before.upper > 0)).sum())
            dead[index] &= (before.upper <= 0).all(0)
    return {
        index: ReLUStates(unstable[index], len(box.centre) * dead[index].numel(), int(off.sum()), off.numel())
        for index, off in dead.items()
    }


def unstable_relu_fraction(states: Iterable[ReLUStates]) -> float:
    """Share of unstable ones among all pairs of a box and a ReLU neuron; 0 without any."""
    states = list(states)
    pairs = sum(state.pairs for state in states)
    return sum(state.unstable for state in states) / pairs if pairs else 0.0


def _linear(layer: nn.Linear, box: Box) -> tuple[Tensor, Tensor]:
    return F.linear(box.centre, layer.weight, layer.bias), F.linear(box.radius, layer.weight.abs())


def _convolution(layer: nn.Conv2d, box: Box) -> tuple[Tensor, Tensor]:
    assert not isinstance(layer.padding, str)
    where = (layer.stride, layer.padding, layer.dilation, layer.groups)
    return (
        F.conv2d(box.centre, layer.weight, layer.bias, *where),
        F.conv2d(box.radius, layer.weight.abs(), None, *where),
    )


def _affine(layer: BatchNorm | Affine, box: Box) -> tuple[Tensor, Tensor]:
    scale, shift = (per_channel(values, box.centre.dim()) for values in affine_of(layer))
    return torch.addcmul(shift, box.centre, scale), box.radius * scale.abs()


def _relu(layer: nn.ReLU, box: Box) -> tuple[Tensor, Tensor]:
    return interval_relu(box.centre, box.radius)


def _rearranging(layer: nn.Module, box: Box) -> tuple[Tensor, Tensor]:
    """Layers without bias whose weights are not negative: the same map takes centre and radius."""
    return layer(box.centre), layer(box.radius)


def _maximum(layer: nn.MaxPool2d, box: Box) -> tuple[Tensor, Tensor]:
    lower, upper = layer(box.lower), layer(box.upper)
    return (lower + upper) * 0.5, (upper - lower) * 0.5


def _dropout(layer: nn.Dropout, box: Box) -> tuple[Tensor, Tensor]:
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
