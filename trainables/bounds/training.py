"""The passes of one step of certified training: the natural one first, whose statistics all others share."""

from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .affine import Affine, BatchNorm, scale_and_shift
from .graph import Add, Graph, Node
from .interval import interval_step
from .region import Box, Region


def natural_pass(graph: Graph, x: Tensor) -> tuple[Tensor, Graph]:
    """The logits of a batch, and the network as the function that it is for this batch.

    BatchNorm in training mode takes its statistics from the natural activations and updates its running ones with them
    once; in the graph that is returned it is an `Affine` by the same statistics, gradients flowing through them (Shi et
    al. 2021, arXiv 2103.17268). Boxes, attacks and backward bounds of the same step go through that graph, and so all
    speak of one function.

    Args:
        x: natural inputs `(batch, *shape)`.

    Returns:
        logits `(batch, classes)`, and the graph: `graph` itself where no BatchNorm is in training mode.

    Raises:
        ValueError: one value per channel in a BatchNorm in training mode.
    """
    nodes, values = list(graph.nodes), [x]
    for index, node in enumerate(graph.nodes[1:], start=1):
        if _by_batch(node):
            nodes[index] = node = replace(node, layer=_settled(node.layer, values[node.inputs[0]]))
        values.append(_natural_step(node.layer, *(values[source] for source in node.inputs)))
    return values[-1], replace(graph, nodes=tuple(nodes)) if any(map(_by_batch, graph.nodes)) else graph


def settle(graph: Graph, x: Tensor) -> Graph:
    """The graph of `natural_pass`, for whoever does not need the logits: no pass at all without such a BatchNorm."""
    return natural_pass(graph, x)[1] if any(map(_by_batch, graph.nodes)) else graph


def forward(graph: Graph, value: Tensor, *, start: int = 0) -> Tensor:
    """The logits `(batch, classes)`, from the input or from the value `(batch, *shape)` of a later node.

    No statistics move: a BatchNorm must be settled or in eval mode.

    Args:
        start: the node whose value it is; no node after it may read one before it.
    """
    values = {start: value}
    for index, node in enumerate(graph.nodes[start + 1 :], start=start + 1):
        assert not _by_batch(node), "settle the graph first"
        values[index] = _natural_step(node.layer, *(values[source] for source in node.inputs))
    return values[len(graph.nodes) - 1]


def interval_boxes(graph: Graph, region: Region) -> list[Region]:
    """Boxes `(batch, *node.shape)` of all nodes but the last, differentiable in all weights; the input, and what only
    rearranges it, is as `region` is.

    The one at `graph.features` is what the last linear layer reads: `margin_bounds` merges with it.

    Raises:
        UnsupportedLayer: for a Dropout in training mode.
    """
    boxes = [region]
    for node in graph.nodes[1:-1]:
        boxes.append(interval_step(node, [boxes[index] for index in node.inputs]))
    return boxes


def natural_and_interval(
    graph: Graph, x: Tensor | None, centre: Tensor, radius: Tensor
) -> tuple[Tensor | None, Tensor, Tensor]:
    """The natural pass and that of the box beside it.

    Args:
        x: natural inputs `(batch, *shape)`; None skips the natural pass.
        centre, radius: of the input box, each `(batch, *shape)`.

    Returns:
        natural logits `(batch, classes)` (None without `x`), and centre and radius, each `(batch, features)`, of what
        the last linear layer reads.

    Raises:
        ValueError: without `x` while a BatchNorm is in training mode, or with one value per channel in such a layer.
        UnsupportedLayer: for a Dropout in training mode.
    """
    logits = None
    if x is not None:
        logits, graph = natural_pass(graph, x)
    elif any(map(_by_batch, graph.nodes)):
        raise ValueError(
            "a BatchNorm in training mode takes its statistics from the natural pass: "
            "give x, or put the network in eval mode"
        )
    return logits, *interval_boxes(graph, Box(centre, radius))[graph.features]


def _by_batch(node: Node) -> bool:
    return isinstance(node.layer, nn.BatchNorm1d | nn.BatchNorm2d) and node.layer.training


def _natural_step(layer: nn.Module, *inputs: Tensor) -> Tensor:
    if isinstance(layer, nn.ReLU):
        # Never in place: a residual branch may still read the value.
        return F.relu(inputs[0])
    assert isinstance(layer, Add) or len(inputs) == 1
    output: Tensor = layer(*inputs)
    return output


def _settled(layer: nn.Module, x: Tensor) -> Affine:
    """The layer by the statistics of `x`, which its running ones are updated with."""
    assert isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d)
    assert layer.running_var is not None
    dims = [0, *range(2, x.dim())]
    count = x.numel() // x.shape[1]
    if count < 2:
        raise ValueError(
            f"BatchNorm in training mode needs more than one value per channel, got input {tuple(x.shape)}: "
            "use a larger batch"
        )
    # Under autocast, in the precision of the running statistics.
    var, mean = torch.var_mean(x.to(layer.running_var.dtype), dims, correction=0)
    with torch.no_grad():
        _update_running(layer, mean, var * (count / (count - 1)))
    return Affine(*scale_and_shift(layer, mean, var))


def _update_running(layer: BatchNorm, mean: Tensor, var: Tensor) -> None:
    """Torch's own rule: exponential average with `momentum`, or the plain mean over all batches where it is None."""
    assert layer.running_mean is not None
    assert layer.running_var is not None
    assert layer.num_batches_tracked is not None
    layer.num_batches_tracked.add_(1)
    momentum = 1.0 / float(layer.num_batches_tracked) if layer.momentum is None else layer.momentum
    layer.running_mean.lerp_(mean.to(layer.running_mean.dtype), momentum)
    layer.running_var.lerp_(var.to(layer.running_var.dtype), momentum)
