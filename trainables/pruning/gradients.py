"""The gradient of the certified loss in all weights, pruned ones included."""

from __future__ import annotations

import torch
from torch import Tensor

from .base import Candidates


def loss_gradients(candidates: Candidates, count: int, ramp: float) -> dict[str, Tensor]:
    """Gradient by prunable weight, the mean over `count` batches with boxes at `ramp`.

    The network is looked at as it trains, BatchNorm by the statistics of each batch, and left as it was.
    """
    network, weights = candidates.graph.network, candidates.weights
    was_training, buffers = network.training, {name: value.clone() for name, value in network.named_buffers()}
    network.train()
    sums = {name: torch.zeros_like(weight) for name, weight in weights.items()}
    for batch in candidates.batches(count, ramp):
        loss = candidates.loss.loss(candidates.graph, batch)
        for name, gradient in zip(sums, torch.autograd.grad(loss, list(weights.values())), strict=True):
            sums[name] += gradient / count
    network.train(was_training)
    for name, value in network.named_buffers():
        value.copy_(buffers[name])
    return sums
