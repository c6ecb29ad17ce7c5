"""Which neurons and channels of a network can only be removed together, and which not at all.

A node of a graph loses whole slices of its first axis: channels of a map, neurons of a vector. Each slice belongs to
one unit, that of the layer that computes it, and goes where its unit goes.
"""

from dataclasses import dataclass
from typing import final

import torch
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from torch import Tensor, nn

from ...spaces.architectures.layers import Reshape
from ..bounds import Add, Graph, Node


@final
@dataclass(frozen=True, eq=False)
class Units:
    """The units of a graph.

    Attributes:
        of: per node `(node.shape[0],)`, the unit that each slice belongs to.
        pinned: `(units,)` bool, those that must stay: inputs, logits, and what a layer reads or gives that cannot be
            made smaller (grouped convolutions, linear layers over more than a vector).
    """

    of: tuple[Tensor, ...]
    pinned: Tensor

    def slices(self, units: Tensor) -> list[Tensor]:
        """Per node, which of its slices belong to `units`, a `(units,)` bool."""
        return [units[own] for own in self.of]


def units_of(graph: Graph) -> Units:
    """Find the units; those that a sum or a reshape joins are one."""
    device = graph.last_linear.weight.device
    made = 0
    of: list[Tensor] = []
    pins: list[Tensor] = []
    pairs: list[Tensor] = []
    for node in graph.nodes:
        size = node.shape[0]
        read = [of[source] for source in node.inputs]
        if isinstance(node.layer, Add):
            pairs.append(torch.stack(read))
            own = read[0]
        elif isinstance(node.layer, nn.Flatten | Reshape):
            own, joined = _rearranged(read[0], graph.nodes[node.inputs[0]].shape, node.shape)
            pairs.append(joined)
        elif _creates(node):
            own = torch.arange(made, made + size, device=device)
            made += size
            if not read or not shrinkable(node):
                pins += [own, *read]
        else:
            own = read[0]
        of.append(own)
    pins.append(of[-1])
    links = torch.cat(pairs, 1).cpu().numpy() if pairs else torch.zeros(2, 0, dtype=torch.int64).numpy()
    edges = coo_array(([1] * links.shape[1], links), shape=(made, made))
    count, labels = connected_components(edges, directed=False)
    unit = torch.from_numpy(labels).to(device, torch.int64)
    pinned = torch.zeros(count, dtype=torch.bool, device=device)
    pinned[unit[torch.cat(pins)]] = True
    return Units(tuple(unit[own] for own in of), pinned)


def shrinkable(node: Node) -> bool:
    """Whether a layer that computes new units can lose rows and columns of its weight."""
    layer = node.layer
    return (isinstance(layer, nn.Linear) and len(node.shape) == 1) or (
        isinstance(layer, nn.Conv2d) and layer.groups == 1
    )


def _creates(node: Node) -> bool:
    """Inputs, linear layers and convolutions do; so does a pool over anything but maps, which mixes slices."""
    pools = isinstance(node.layer, nn.AvgPool2d | nn.MaxPool2d) and len(node.shape) != 3
    return not node.inputs or pools or isinstance(node.layer, nn.Linear | nn.Conv2d)


def _rearranged(read: Tensor, before: tuple[int, ...], after: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """The units of the slices after a reshape, and pairs `(2, any)` of those that now share a slice."""
    per_slice = read.view(-1, *[1] * (len(before) - 1)).expand(before).reshape(after[0], -1)
    first = per_slice[:, :1]
    pairs = torch.stack([first.expand_as(per_slice), per_slice]).flatten(1)
    return first.squeeze(1), pairs[:, pairs[0] != pairs[1]]
