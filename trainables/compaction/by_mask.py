"""What a mask lets go for good, whatever the weights that it keeps will become."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ..bounds import Graph
from ..mask import Mask
from .constants import constants
from .plan import Plan, folded_into
from .units import shrinkable, units_of

NO_PADDING = (0, (0, 0))


class _Layer(NamedTuple):
    """A layer that can lose rows and columns.

    Attributes:
        rows, columns: the units that it computes and those that it reads.
        kept: `(rows, columns)` bool, whether the mask keeps any weight between them.
        folds: whether its bias can take up any constant that it reads.
    """

    rows: Tensor
    columns: Tensor
    kept: Tensor
    folds: bool


def plan_by_mask(graph: Graph, mask: Mask) -> Plan:
    """Find everything that training can do without; equal masks give equal plans.

    A unit can go if no kept weight reads it; or if no kept weight leads to it, so that it is a constant, and every
    layer that reads it can take the constant up: one with a bias and without zero padding. Weights of units that go do
    not count, so this repeats until nothing changes. Nothing is folded by the plan itself: `fold_` comes first.

    Args:
        mask: of the whole network; a kept weight counts even where it is zero at present.
    """
    units, names = units_of(graph), layer_names(graph)
    layers, uneven = [], torch.zeros_like(units.pinned)
    for node, own in zip(graph.nodes, units.of, strict=True):
        layer = node.layer
        if isinstance(layer, nn.Linear | nn.Conv2d) and shrinkable(node):
            kept = mask[f"{names[layer]}.weight"].to(own.device)
            folds = layer.bias is not None and getattr(layer, "padding", 0) in NO_PADDING
            layers.append(_Layer(own, units.of[node.inputs[0]], kept.reshape(*kept.shape[:2], -1).any(2), folds))
        elif isinstance(layer, nn.AvgPool2d) and (layer.padding not in NO_PADDING or layer.ceil_mode):
            # Of a constant map this makes one that is another at the border.
            uneven[own] = True
    pinned = units.pinned.clone()
    while True:
        gone = _removable(layers, pinned, uneven)
        emptied = [own[:1] for own in units.of if bool(gone[own].all())]
        if not emptied:
            break
        pinned[torch.cat(emptied)] = True
    slices = units.slices(gone)
    return Plan(
        gone=tuple(slices),
        kept=tuple((~own).nonzero().squeeze(1) for own in slices),
        needed=tuple(torch.ones_like(own) for own in slices),
        folded={
            index: torch.zeros(len(own), dtype=torch.float64, device=own.device) for index, own in enumerate(slices)
        },
    )


@torch.no_grad()
def fold_(graph: Graph, gone: Sequence[Tensor]) -> None:
    """Move what the units that a mask lets go add to the others into the biases of these, in place.

    What is gone gives zero from then on, if anything still reads it, and folding again changes nothing. In training
    mode the network gives the same as before; in eval mode it does once the running statistics of a constant have come
    to the constant, as they would.

    Args:
        gone: per node, see `Plan`.
    """
    known = constants(graph, training=True)
    for node, own in zip(graph.nodes, gone, strict=True):
        layer = node.layer
        if isinstance(layer, nn.Linear | nn.Conv2d) and shrinkable(node) and layer.bias is not None:
            (source,) = node.inputs
            everywhere = torch.ones(node.shape, dtype=torch.bool, device=own.device)
            added = folded_into(node, known[source], everywhere, gone[source])
            layer.bias.copy_(torch.where(added == 0, layer.bias, layer.bias.double() + added).masked_fill(own, 0.0))
        elif isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d):
            assert layer.running_mean is not None
            layer.running_mean[own] = 0.0
            if layer.affine:
                layer.bias[own] = 0.0


def layer_names(graph: Graph) -> dict[nn.Module, str]:
    """The names of the modules of a graph's network."""
    return {module: name for name, module in graph.network.named_modules()}


def _removable(layers: Sequence[_Layer], pinned: Tensor, uneven: Tensor) -> Tensor:
    """`(units,)` bool, the units that can go.

    Args:
        pinned: units that stay.
        uneven: units that cannot go as constants.
    """
    gone = torch.zeros_like(pinned)
    while True:
        read, varies = pinned.clone(), pinned | uneven
        for layer in layers:
            reads = layer.columns[(layer.kept & ~gone[layer.rows, None]).any(0)]
            read[reads] = True
            if not layer.folds:
                varies[reads] = True
            varies[layer.rows[(layer.kept & ~gone[layer.columns]).any(1)]] = True
        more = ~(read & varies)
        if torch.equal(more, gone):
            return gone
        gone = more
