"""Gradients that scores are computed from, taken without a trace in the network."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from ..bounds import Graph
from ..certified_training import Batch
from .base import Candidates

Objective = Callable[[Graph, Batch], Tensor]
"""A scalar of one batch, differentiable in the weights."""


def mean_over_batches(
    candidates: Candidates,
    objective: Objective,
    *,
    batches: int,
    ramp: float,
    of: Callable[[Tensor, Tensor], Tensor],
) -> dict[str, Tensor]:
    """The mean over batches of `of(w, g)` per prunable weight `w`, in float64; `g` is the batch's gradient.

    The network computes as in training: BatchNorm takes the statistics of the batch. A gradient that is not finite
    counts as 0: it says nothing about its weight. A pruned weight has a gradient too.

    Args:
        objective: what is differentiated; it may leave out weights, whose gradient then is 0.
        batches: how many, at least 1.
        ramp: the share of the target epsilon at which boxes are made, in [0, 1].
        of: element by element, such as `effect` or `gradient_alone`.
    """
    weights = candidates.weights
    sums = {name: torch.zeros_like(weight, dtype=torch.float64) for name, weight in weights.items()}
    with undisturbed(candidates.graph.network), torch.enable_grad():
        for weight in weights.values():
            weight.requires_grad_(True)
        candidates.graph.network.train()
        for batch in candidates.batches(batches, ramp):
            gradients = torch.autograd.grad(
                objective(candidates.graph, batch), list(weights.values()), allow_unused=True, materialize_grads=True
            )
            for (name, weight), gradient in zip(weights.items(), gradients, strict=True):
                finite = gradient.detach().double().nan_to_num(nan=0.0, posinf=0.0, neginf=0.0)
                sums[name] += of(weight.detach().double(), finite)
    return {name: total / batches for name, total in sums.items()}


def effect(weight: Tensor, gradient: Tensor) -> Tensor:
    """What the objective would lose, to first order, if the weight went; 0 where it is pruned."""
    return weight * gradient


def gradient_alone(weight: Tensor, gradient: Tensor) -> Tensor:
    """What the objective would change by if the weight grew."""
    return gradient


@contextmanager
def undisturbed(network: nn.Module) -> Iterator[None]:
    """Within it the network may be run and switched at will: modes, buffers and `requires_grad` come back as they were.

    Buffers are BatchNorm's running statistics. `.grad` is left alone, as `torch.autograd.grad` does not write it.
    """
    modes = {module: module.training for module in network.modules()}
    buffers = {buffer: buffer.clone() for buffer in network.buffers()}
    differentiable = {parameter: parameter.requires_grad for parameter in network.parameters()}
    try:
        yield
    finally:
        for module, training in modes.items():
            module.training = training
        with torch.no_grad():
            for buffer, value in buffers.items():
                buffer.copy_(value)
        for parameter, required in differentiable.items():
            parameter.requires_grad_(required)


def finite(score: Tensor) -> Tensor:
    """The score with what is not finite replaced: NaN by 0, infinities by the largest numbers."""
    return score.nan_to_num()


def check_options(batches: int, ramp: float) -> None:
    """
    Raises:
        ValueError: no batches, or a position outside the ramp.
    """
    if batches < 1:
        raise ValueError(f"score.batches must be at least 1, but is {batches}")
    if not 0 <= ramp <= 1:
        raise ValueError(f"score.ramp is a share of epsilon in [0, 1], but is {ramp}")
