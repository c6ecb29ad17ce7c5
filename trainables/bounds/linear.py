"""Backward linear bounds (CROWN, Zhang et al. 2018, arXiv 1811.00866).

A linear function of some node is rewritten, layer by layer towards the input, as a linear function that is never above
it; its minimum over the region of the inputs is then a dot product. Every function to be bounded is one *row*, which
belongs to one sample (`owner`), so that samples may ask for different rows: only the neurons that are unstable in this
sample.
"""

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from .graph import Add, Graph, Node
from .interval import REARRANGING, SPREADING, interval_bounds, interval_step
from .region import Ball, Box, Region
from .relaxation import Bounds, Interval, Relaxation, is_nonlinear, relax
from .transpose import transpose
from .units import unit_rows

CHUNK_ELEMENTS = 2**21
"""Rows are taken in chunks of about this many coefficients, 8 MB each in float32: memory stays bounded."""


@torch.no_grad()
def crown_ibp_margins(graph: Graph, region: Region, labels: Tensor) -> Tensor:
    """Lower bounds of all margins by one backward pass over interval bounds (CROWN-IBP, Zhang et al. 2020).

    Args:
        region: of the inputs, `(batch, *shape)`.
        labels: `(batch,)`.

    Returns:
        `(batch, classes)`, lower bounds of `logit_y - logit_k`; 0 at k = y.
    """
    return backward_margins(graph, region, interval_bounds(graph, region), labels)


@torch.no_grad()
def crown_margins(graph: Graph, region: Region, labels: Tensor, *, tighten: bool = True) -> Tensor:
    """Lower bounds of all margins with the bounds before each nonlinear layer computed backwards as well.

    Args and returns as `crown_ibp_margins`; `tighten` as `crown_bounds`.
    """
    return backward_margins(graph, region, crown_bounds(graph, region, tighten=tighten), labels)


def as_intervals(boxes: Sequence[Region]) -> list[Interval]:
    """Centre/radius bounds as lower and upper ones."""
    return [Interval(region.lower, region.upper) for region in boxes]


def crown_bounds(graph: Graph, region: Region, *, tighten: bool) -> list[Interval]:
    """Bounds of every node, those before a nonlinear layer by backward linear bounds.

    Args:
        tighten: recompute only what intervals leave undecided, and keep the better of both bounds; False takes the
            backward bound of every neuron, and nothing else (plain CROWN).

    Returns:
        one `Interval` per node, each `(batch, *node.shape)`. Only those before nonlinear layers are CROWN bounds.
    """
    wanted = {node.inputs[0] for node in graph.nodes if is_nonlinear(node.layer)}
    # A ReLU needs no more about a stable neuron; a maximum depends on every bound of its window.
    signs_decide = wanted - {node.inputs[0] for node in graph.nodes if isinstance(node.layer, nn.MaxPool2d)}
    exact = _exact_nodes(graph, region)
    bounds = [Interval(region.lower, region.upper)]
    balls = {0: region} if isinstance(region, Ball) else {}
    relaxations: dict[int, Relaxation] = {}

    def stepped(node: Node) -> Region:
        inputs = (balls[source] if source in balls else _as_box(bounds[source]) for source in node.inputs)
        return interval_step(node, list(inputs))

    for index, node in enumerate(graph.nodes[1:-1], start=1):
        step = stepped(node)
        if isinstance(step, Ball):
            balls[index] = step
        interval = Interval(step.lower, step.upper)
        if is_nonlinear(node.layer):
            # The interval of a monotone layer is as tight as any backward bound through its relaxation.
            relaxations[index] = relax(node.layer, bounds[node.inputs[0]])
        elif index in wanted and index not in exact:
            undecided = torch.ones_like(interval.lower, dtype=torch.bool)
            if tighten and index in signs_decide:
                undecided = (interval.lower < 0) & (interval.upper > 0)
            interval = _recomputed(graph, region, relaxations, index, interval, undecided, tighten)
        bounds.append(interval)
    last = stepped(graph.nodes[-1])
    return [*bounds, Interval(last.lower, last.upper)]


@torch.no_grad()
def crown_ibp_bounds(graph: Graph, region: Region, chosen: Mapping[int, Tensor]) -> list[Interval]:
    """Interval bounds of every node, those of the chosen neurons tightened by one backward pass over intervals.

    Args:
        chosen: by node, bool `(batch, *node.shape)`.

    Returns:
        one `Interval` per node, each `(batch, *node.shape)`, nowhere looser than `interval_bounds`.
    """
    bounds = as_intervals(interval_bounds(graph, region))
    relaxations, exact = relax_all(graph, bounds), _exact_nodes(graph, region)
    tightened = {
        index: _recomputed(graph, region, relaxations, index, bounds[index], neurons, tighten=True)
        for index, neurons in chosen.items()
        if index not in exact
    }
    return [tightened.get(index, interval) for index, interval in enumerate(bounds)]


def backward_margins(graph: Graph, region: Region, bounds: Sequence[Bounds], labels: Tensor) -> Tensor:
    """Lower bounds `(batch, classes)` of all margins, given bounds of the input of each nonlinear layer.

    Differentiable in the weights, also by way of `bounds`.
    """
    relaxations = relax_all(graph, bounds)
    weight, bias = graph.last_linear.weight, graph.last_linear.bias
    classes = weight.shape[0]
    parts = []
    for samples in torch.arange(len(labels), device=labels.device).split(max(1, rows_at_once(graph) // classes)):
        true = labels[samples]
        rows = (weight[true][:, None, :] - weight).flatten(0, 1)
        start = torch.zeros_like(rows[:, 0]) if bias is None else (bias[true][:, None] - bias).flatten()
        owner = samples.repeat_interleave(classes)
        parts.append(lower_bounds(graph, region, relaxations, graph.features, rows, start, owner).view(-1, classes))
    return torch.cat(parts) if parts else weight.new_zeros(0, classes)


def backward_combination(graph: Graph, region: Region, bounds: Sequence[Bounds], logit_weights: Tensor) -> Tensor:
    """Lower bounds `(batch,)` of one linear combination of the logits per sample.

    Differentiable in the network's weights, also by way of `bounds`, and in `logit_weights`.

    Args:
        bounds: of the input of each nonlinear layer.
        logit_weights: `(batch, classes)`.
    """
    last = graph.last_linear
    start = torch.zeros_like(logit_weights[:, 0]) if last.bias is None else logit_weights @ last.bias
    rows = logit_weights @ last.weight
    # One row per sample, in their order: a slice is a view, where indices would copy and their gradient would scatter.
    return lower_bounds(graph, region, relax_all(graph, bounds), graph.features, rows, start, slice(None))


def relax_all(graph: Graph, bounds: Sequence[Bounds]) -> dict[int, Relaxation]:
    """The relaxation of each nonlinear layer, by its node, given the bounds of its input."""
    return {
        index: relax(node.layer, bounds[node.inputs[0]])
        for index, node in enumerate(graph.nodes)
        if is_nonlinear(node.layer)
    }


def lower_bounds(
    graph: Graph,
    region: Region,
    relaxations: dict[int, Relaxation],
    index: int,
    rows: Tensor,
    bias: Tensor,
    owner: Tensor | slice,
) -> Tensor:
    """Lower bounds, one per row, of `rows · (value of node index) + bias` over the region of each row's owner."""
    pending = {index: rows}
    for current in range(index, 0, -1):
        if current not in pending:
            continue
        node, rows = graph.nodes[current], pending.pop(current)
        added: Tensor | float = 0.0
        if isinstance(node.layer, Add):
            earlier = [rows, rows]
        elif current in relaxations:
            shape = torch.Size(graph.nodes[node.inputs[0]].shape)
            rows, added = relaxations[current].backward(rows, owner, shape)
            earlier = [rows]
        else:
            rows, added = transpose(node.layer, rows, graph.nodes[node.inputs[0]].shape)
            earlier = [rows]
        bias = bias + added
        for source, part in zip(node.inputs, earlier, strict=True):
            pending[source] = pending[source] + part if source in pending else part
    rows = pending[0].flatten(1)
    return bias + (rows * region.lowest(rows, owner)).sum(1)


def _recomputed(
    graph: Graph,
    region: Region,
    relaxations: dict[int, Relaxation],
    index: int,
    interval: Interval,
    undecided: Tensor,
    tighten: bool,
) -> Interval:
    """Backward bounds of the `undecided` neurons of node `index`, intersected with `interval` if `tighten`."""
    owners, neurons = undecided.flatten(1).nonzero(as_tuple=True)
    if not len(owners):
        return interval
    found = []
    size = max(1, rows_at_once(graph) // 2)
    for owner, neuron in zip(owners.split(size), neurons.split(size), strict=True):
        start, rows, bias = unit_rows(graph, index, neuron, interval.lower)
        rows, bias, owner = torch.cat([rows, -rows]), torch.cat([bias, -bias]), torch.cat([owner, owner])
        below, above = lower_bounds(graph, region, relaxations, start, rows, bias, owner).view(2, -1)
        found.append(torch.stack([below, -above]))
    lower, upper = torch.cat(found, 1)
    if tighten:
        lower, upper = torch.maximum(lower, interval.lower[undecided]), torch.minimum(upper, interval.upper[undecided])
    return Interval(interval.lower.masked_scatter(undecided, lower), interval.upper.masked_scatter(undecided, upper))


def _exact_nodes(graph: Graph, region: Region) -> set[int]:
    """Nodes whose interval bounds are the exact range: one linear layer after the input, scaled or rearranged."""
    exact, plain = set(), {0}
    for index, node in enumerate(graph.nodes[1:], start=1):
        if isinstance(node.layer, Add) or is_nonlinear(node.layer):
            continue
        kind, source = type(node.layer), node.inputs[0]
        moves = kind not in (nn.Linear, nn.Conv2d, nn.AvgPool2d)
        if isinstance(region, Ball) and source in plain:
            # A ball is known through two kinds of layers; after any other intervals have the box around it.
            if kind in REARRANGING:
                plain.add(index)
            elif kind in SPREADING:
                exact.add(index)
        elif moves and source in plain:
            plain.add(index)
        elif source in plain or (moves and source in exact):
            exact.add(index)
    return exact | plain


def _as_box(interval: Interval) -> Box:
    lower, upper = interval
    # Intersected bounds may cross by a rounding error.
    return Box((lower + upper) * 0.5, ((upper - lower) * 0.5).clamp(min=0))


def rows_at_once(graph: Graph) -> int:
    """How many rows of coefficients on any node make a chunk."""
    return max(1, CHUNK_ELEMENTS // max(math.prod(node.shape) for node in graph.nodes))
