"""Interval bounds beside the natural activations, as certified training needs them in every step."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .graph import Add, Graph
from .interval import Box, interval_step, per_channel, scale_and_shift


def natural_and_interval(
    graph: Graph,
    x: Tensor | None,
    centre: Tensor,
    radius: Tensor,
    *,
    before_relu: dict[int, Box] | None = None,
) -> tuple[Tensor | None, Tensor, Tensor]:
    """One pass of the natural activations and of the box beside them, differentiable in all weights.

    BatchNorm in training mode takes its batch statistics from the natural activations, updates its running statistics
    with them once, and applies the same statistics to the box, gradients flowing through them (Shi et al. 2021).

    Args:
        x: natural inputs `(batch, *shape)`; None skips the natural pass.
        centre, radius: of the input box, each `(batch, *shape)`.
        before_relu: filled with the boxes that ReLUs read, by the node that gives them.

    Returns:
        natural logits `(batch, classes)` (None without `x`), and centre and radius, each `(batch, features)`, of what
        the last linear layer reads: `margin_lower_bounds` and `logit_bounds` merge with that layer.

    Raises:
        ValueError: without `x` while a BatchNorm is in training mode, or with one value per channel in such a layer.
        UnsupportedLayer: for a Dropout in training mode.
    """
    natural: list[Tensor | None] = [x]
    boxes = [Box(centre, radius)]
    for node in graph.nodes[1:-1]:
        layer = node.layer
        if isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d) and layer.training:
            value = natural[node.inputs[0]]
            if value is None:
                raise ValueError(
                    "a BatchNorm in training mode takes its statistics from the natural pass: "
                    "give x, or put the network in eval mode"
                )
            value, box = _batchnorm(layer, value, boxes[node.inputs[0]])
            natural.append(value)
            boxes.append(box)
            continue
        # The box first: it refuses what has no bounds before anything is computed from it.
        boxes.append(interval_step(node, [boxes[index] for index in node.inputs]))
        natural.append(None if x is None else _natural_step(layer, *(natural[index] for index in node.inputs)))
    if before_relu is not None:
        read = (node.inputs[0] for node in graph.nodes if isinstance(node.layer, nn.ReLU))
        before_relu.update({index: boxes[index] for index in read})
    features = graph.features
    value = natural[features]
    logits = None if value is None else F.linear(value, graph.last_linear.weight, graph.last_linear.bias)
    return logits, *boxes[features]


def _natural_step(layer: nn.Module, *inputs: Tensor | None) -> Tensor:
    if isinstance(layer, nn.ReLU):
        # Never in place: the box of the same node and a residual branch may still read the value.
        value = inputs[0]
        assert value is not None
        return F.relu(value)
    assert isinstance(layer, Add) or len(inputs) == 1
    return layer(*inputs)


def _batchnorm(layer: nn.BatchNorm1d | nn.BatchNorm2d, x: Tensor, box: Box) -> tuple[Tensor, Box]:
    dims = [0, *range(2, x.dim())]
    count = x.numel() // x.shape[1]
    if count < 2:
        raise ValueError(
            f"BatchNorm in training mode needs more than one value per channel, got input {tuple(x.shape)}: "
            "use a larger batch"
        )
    var, mean = torch.var_mean(x, dims, correction=0)
    with torch.no_grad():
        _update_running(layer, mean, var * (count / (count - 1)))
    scale, shift = (per_channel(values, x.dim()) for values in scale_and_shift(layer, mean, var))
    return (
        torch.addcmul(shift, x, scale),
        Box(torch.addcmul(shift, box.centre, scale), box.radius * scale.abs()),
    )


def _update_running(layer: nn.BatchNorm1d | nn.BatchNorm2d, mean: Tensor, var: Tensor) -> None:
    """Torch's own rule: exponential average with `momentum`, or the plain mean over all batches where it is None."""
    assert layer.running_mean is not None
    assert layer.running_var is not None
    assert layer.num_batches_tracked is not None
    layer.num_batches_tracked.add_(1)
    momentum = 1.0 / float(layer.num_batches_tracked) if layer.momentum is None else layer.momentum
    layer.running_mean.lerp_(mean.to(layer.running_mean.dtype), momentum)
    layer.running_var.lerp_(var.to(layer.running_var.dtype), momentum)
