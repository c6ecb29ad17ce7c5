"""No pattern."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, final

import torch
from torch import Tensor

from ..bounds import Graph
from ..mask import prunable_weights
from .base import Distribution, Pattern
from .budget import at_least, room


@final
@dataclass(frozen=True)
class Unstructured(Pattern):
    """Any weight may go, but for one in each layer. The sparsity is exact."""

    description: ClassVar[str] = "pattern: none, any weight may go"

    def groups(self, weight: Tensor) -> Tensor:
        return torch.arange(weight.numel()).view(weight.shape)

    def limits(self, graph: Graph) -> tuple[float, float]:
        return 0.0, one_per_layer(graph)

    def select(
        self, scores: Mapping[str, Tensor], kept: int, distribution: Distribution, graph: Graph
    ) -> dict[str, Tensor]:
        return highest(scores, kept, distribution)


def one_per_layer(graph: Graph) -> float:
    """The sparsity at which every layer keeps a single weight."""
    sizes = [weight.numel() for weight in prunable_weights(graph.network).values()]
    return 1.0 - len(sizes) / sum(sizes)


def highest(
    scores: Mapping[str, Tensor], kept: int, distribution: Distribution, *, least: int = 1
) -> dict[str, Tensor]:
    """Per layer, True for as many of the best weights as the distribution gives it; ties keep the lower flat index.

    Args:
        least: weights that every layer gets, as far as it has room.

    Raises:
        ValueError: these are more than `kept`.
    """
    allocation = at_least(distribution.allocate(scores, kept), room(scores), least)
    return {name: _highest(values, allocation[name]) for name, values in scores.items()}


def _highest(scores: Tensor, count: int) -> Tensor:
    order = torch.sort(scores.flatten(), descending=True, stable=True).indices
    keep = torch.zeros(scores.numel(), dtype=torch.bool)
    keep[order[:count]] = True
    return keep.view(scores.shape)
