"""What of a network goes, and which constants it leaves behind."""

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..bounds import Graph, Node
from .constants import Constants, constants
from .reach import needed, read_by
from .units import shrinkable, units_of

ROUNDING = 1e-12
VALUES_AT_ONCE = 1 << 22
"""A contribution in float64 counts as the same everywhere if it varies by no more than this share of its terms."""


@final
@dataclass(frozen=True, eq=False)
class Plan:
    """What becomes of each node of a graph; tensors are per slice of its first axis.

    Attributes:
        gone: bool, slices that no output depends on beyond a constant.
        kept: int64, the slices that are left, ascending: those that are not gone, and where that would leave none of a
            node, one that is; whatever writes or reads that one is zero.
        needed: bool, whether any output depends on the slice. A slice that is kept only because a residual sum couples
            it to another need not be.
        folded: float64, the constants that gone inputs leave to the bias of a linear layer or a convolution.
    """

    gone: tuple[Tensor, ...]
    kept: tuple[Tensor, ...]
    needed: tuple[Tensor, ...]
    folded: dict[int, Tensor]


def plan(graph: Graph) -> Plan:
    """Find everything that can go.

    A unit can go if each layer that reads it does so by zero weights only, or is not needed where it reads it, or gets
    from it a constant that is the same at every position. With each unit that goes less is needed of the layers before
    it, so this repeats until nothing changes.
    """
    units, known = units_of(graph), constants(graph)
    readers = [index for index, node in enumerate(graph.nodes) if isinstance(node.layer, nn.Linear | nn.Conv2d)]
    removed = torch.zeros_like(units.pinned)
    while True:
        gone = units.slices(removed)
        wanted = needed(graph, gone)
        staying = units.pinned.clone()
        for index in readers:
            node = graph.nodes[index]
            source = node.inputs[0]
            staying[units.of[source][~_dispensable(node, known[source], wanted[index], gone[source])]] = True
        if bool((removed == ~staying).all()):
            break
        removed = ~staying
    folded = {
        index: folded_into(graph.nodes[index], known[source], wanted[index], gone[source])
        for index in readers
        for source in graph.nodes[index].inputs
    }
    left = ~removed
    for own in units.of:
        if not bool(left[own].any()):
            left[own[0]] = True
    return Plan(
        gone=tuple(gone),
        kept=tuple(kept.nonzero().squeeze(1) for kept in units.slices(left)),
        needed=tuple(values.flatten(1).any(1) if values.dim() > 1 else values for values in wanted),
        folded=folded,
    )


def _dispensable(node: Node, x: Constants, wanted: Tensor, gone: Tensor) -> Tensor:
    """Per slice of its input, whether a layer gives the same without it, but for a constant in the bias.

    Those that are `gone` already were found so when more was wanted, and need no second look.
    """
    if not shrinkable(node):
        return torch.zeros(len(x.known), dtype=torch.bool, device=wanted.device)
    read = read_by(node, wanted, tuple(x.known.shape))
    fine = ~_any_of_slice(read & ~x.known)
    if isinstance(node.layer, nn.Conv2d):
        asked = (fine & ~gone & _any_of_slice(read & (x.value != 0))).nonzero().squeeze(1)
        if len(asked):
            fine[asked] = _contributions(node.layer, x.value[asked], asked, wanted)[1]
    return fine


def folded_into(node: Node, x: Constants, wanted: Tensor, gone: Tensor) -> Tensor:
    """`(node.shape[0],)` float64: what the slices that are gone have added to every wanted value of a layer."""
    total = torch.zeros(node.shape[0], dtype=torch.float64, device=wanted.device)
    # What cannot be made smaller loses no input.
    asked = (gone & _any_of_slice(x.value != 0)).nonzero().squeeze(1)
    if not len(asked):
        return total
    if isinstance(node.layer, nn.Conv2d):
        return total + _contributions(node.layer, x.value[asked], asked, wanted)[0]
    assert isinstance(node.layer, nn.Linear)
    return total + node.layer.weight.detach()[:, asked].double() @ x.value[asked]


def _contributions(layer: nn.Conv2d, value: Tensor, channels: Tensor, wanted: Tensor) -> tuple[Tensor, Tensor]:
    """What constant channels add to the output of a convolution.

    Zero padding is no part of a channel: at the border of the map a constant one adds less than inside.

    Args:
        value: `(channels, height, width)`, the constants.
        channels: `(channels,)`, which of the inputs they are.
        wanted: `(outputs, ...)`, where the output matters.

    Returns:
        `(outputs,)`, what they add together at wanted positions; and per channel whether that is the same at all of
        them, the first being meaningful only where the second is true.
    """
    where = wanted.flatten(1)
    total, constant = torch.zeros(len(where), dtype=torch.float64), []
    for some in torch.arange(len(channels)).split(max(1, VALUES_AT_ONCE // where.numel())):
        taps = F.unfold(value[some, None], layer.kernel_size, layer.dilation, _pair(layer.padding), layer.stride)
        weight = layer.weight.detach()[:, channels[some]].double().flatten(2)
        added = torch.einsum("ckp,ock->cop", taps, weight)
        size = torch.einsum("ckp,ock->cop", taps.abs(), weight.abs()).amax(2)
        low = added.masked_fill(~where, torch.inf).amin(2)
        high = added.masked_fill(~where, -torch.inf).amax(2)
        total += torch.where(where.any(1), high, 0.0).sum(0)
        constant.append((high - low <= ROUNDING * size).all(1))
    return total, torch.cat(constant)


def _pair(padding: str | tuple[int, ...]) -> tuple[int, int]:
    assert not isinstance(padding, str)
    return padding[0], padding[1]


def _any_of_slice(values: Tensor) -> Tensor:
    return values.flatten(1).any(1) if values.dim() > 1 else values
