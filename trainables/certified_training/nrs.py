"""Stability regulariser, normalised (NRSLoss, arXiv 2206.07311; without the scale: Xiao et al. 2019, 1809.03008)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from ..bounds import Graph
from .base import Batch, Regulariser

LEAST_VARIANCE = 1e-3


@dataclass(frozen=True)
class NRS(Regulariser):
    """`-weight tanh(1 + l u / gamma^2)`, mean over all ReLUs and the batch.

    `l u` of the bounds before a ReLU is negative where it is unstable. gamma is the scale of the BatchNorm just before
    it, taken as a constant, and 1 where there is none; gamma^2 counts as at least 0.001.

    Attributes:
        weight: above 0; 0.001 to 0.01 are usual, 0.01 is the published default.
    """

    description: ClassVar[str] = "regulariser: rewards ReLUs that are stable over the box (NRS)"
    weight: float = 0.01

    def __post_init__(self) -> None:
        if not 0 < self.weight < torch.inf:
            raise ValueError(f"regulariser.weight must be above 0 and finite, but is {self.weight}")

    def penalty(self, graph: Graph, batch: Batch) -> Tensor:
        total, neurons = graph.last_linear.weight.new_zeros(()), 0
        for index, box in batch.before_relus(graph).items():
            stability = (box.centre.square() - box.radius.square()) / _variance(graph.nodes[index].layer, box.centre)
            total = total - torch.tanh(1.0 + stability).sum()
            neurons += stability.numel()
        return self.weight * total / max(neurons, 1)


def _variance(layer: nn.Module, like: Tensor) -> Tensor | float:
    """gamma^2, shaped to broadcast over the values that the layer gives."""
    if not isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d) or not layer.affine:
        return 1.0
    return layer.weight.detach().square().clamp_min(LEAST_VARIANCE).view(1, -1, *[1] * (like.dim() - 2))
