"""No pattern."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, final

import torch
from torch import Tensor

from ..bounds import Graph
from .base import Distribution, Pattern


@final
@dataclass(frozen=True)
class Unstructured(Pattern):
    """Any weight may go. The sparsity is exact."""

    description: ClassVar[str] = "pattern: none, any weight may go"

    def groups(self, weight: Tensor) -> Tensor:
        return torch.arange(weight.numel()).view(weight.shape)

    def limits(self, graph: Graph) -> tuple[float, float]:
        return 0.0, 1.0

    def select(
        self, scores: Mapping[str, Tensor], kept: int, distribution: Distribution, graph: Graph
    ) -> dict[str, Tensor]:
        return highest(scores, kept, distribution)


def highest(scores: Mapping[str, Tensor], kept: int, distribution: Distribution) -> dict[str, Tensor]:
    """Per layer, True for as many of the best weights as the distribution gives it; ties keep the lower flat index."""
    allocation = distribution.allocate(scores, kept)
    return {name: _highest(values, allocation[name]) for name, values in scores.items()}


def _highest(scores: Tensor, count: int) -> Tensor:
    order = torch.sort(scores.flatten(), descending=True, stable=True).indices
    keep = torch.zeros(scores.numel(), dtype=torch.bool)
    keep[order[:count]] = True
    return keep.view(scores.shape)
