"""Block sparsity (Narang et al. 2017, arXiv 1711.02782)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, final

import torch
from torch import Tensor

from ..bounds import Graph
from ..mask import prunable_weights
from .base import Distribution, Pattern
from .groups import choose_groups, group_mask, group_sizes


@final
@dataclass(frozen=True)
class Block(Pattern):
    """Weights go in blocks of `size` outputs by `size` inputs; one of a convolution spans the whole kernel.

    Blocks at the edges are what is left there. A block is worth the mean of its weights. At least one stays in each
    layer. The sparsity is the lowest that whole blocks reach without falling below the target.

    Attributes:
        size: side of a block, at least 1; 1 removes whole kernels of a convolution.
    """

    description: ClassVar[str] = "pattern: blocks of size outputs by size inputs, kernels whole"
    size: int = 4

    def __post_init__(self) -> None:
        if self.size < 1:
            raise ValueError(f"pattern.size must be at least 1, but is {self.size}")

    def groups(self, weight: Tensor) -> Tensor:
        outputs, inputs = weight.shape[:2]
        across = -(-inputs // self.size)
        block = (torch.arange(outputs) // self.size)[:, None] * across + torch.arange(inputs) // self.size
        return block.view(outputs, inputs, *[1] * (weight.dim() - 2)).expand(weight.shape)

    def limits(self, graph: Graph) -> tuple[float, float]:
        """Up to the sparsity at which the largest block of each layer may be all that is left."""
        weights = prunable_weights(graph.network).values()
        largest = sum(int(group_sizes(weight.detach().cpu(), self.groups(weight)).max()) for weight in weights)
        return 0.0, 1.0 - largest / sum(weight.numel() for weight in weights)

    def select(
        self, scores: Mapping[str, Tensor], kept: int, distribution: Distribution, graph: Graph
    ) -> dict[str, Tensor]:
        index = {name: self.groups(values) for name, values in scores.items()}
        sizes = {name: group_sizes(values, index[name]) for name, values in scores.items()}

        def measure(chosen: Mapping[str, Tensor]) -> int:
            return sum(int(sizes[name][blocks].sum()) for name, blocks in chosen.items())

        chosen = choose_groups(scores, index, kept, distribution, measure, least=1)
        return {name: group_mask(chosen[name], index[name]) for name in scores}
