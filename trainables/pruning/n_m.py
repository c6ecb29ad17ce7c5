"""N:M sparsity (Zhou et al. 2021, arXiv 2102.04010)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, final

import torch
from torch import Tensor
from torch.nn import functional as F

from ..bounds import Graph
from .base import Distribution, Pattern
from .unstructured import highest, one_per_layer


@final
@dataclass(frozen=True)
class NM(Pattern):
    """At most `n` of every `m` consecutive weights along the input dimension, at each kernel position by itself.

    At the end of the input dimension a group is shorter, and `n` of it may stay all the same. The rest of the budget is
    pruned within what the pattern allows. Below a sparsity of `1 - n / m`, on the way of a schedule, the weights
    outside the pattern go first, so that the sparsity is exact at every step.

    Attributes:
        n: of each group, at least 1.
        m: size of a group, above n.
    """

    description: ClassVar[str] = "pattern: at most n of every m consecutive weights along the input"
    n: int = 2
    m: int = 4

    def __post_init__(self) -> None:
        if not 1 <= self.n < self.m:
            raise ValueError(f"pattern.n and pattern.m must keep to 1 <= n < m, but are {self.n} and {self.m}")

    def groups(self, weight: Tensor) -> Tensor:
        return torch.arange(weight.numel()).view(weight.shape)

    def limits(self, graph: Graph) -> tuple[float, float]:
        return 1.0 - self.n / self.m, one_per_layer(graph)

    def select(
        self, scores: Mapping[str, Tensor], kept: int, distribution: Distribution, graph: Graph
    ) -> dict[str, Tensor]:
        inside = {name: self._inside(values) for name, values in scores.items()}
        allowed = sum(int(best.sum()) for best in inside.values())
        # Within a parent's mask groups may lack n weights: then fewer are kept than asked for, never some outside.
        if kept <= sum(self._most(values.shape) for values in scores.values()):
            return highest(_only(scores, inside), min(kept, allowed), distribution)
        outside = {name: ~best for name, best in inside.items()}
        extra = highest(_only(scores, outside), kept - allowed, distribution, least=0)
        return {name: best | extra[name] for name, best in inside.items()}

    def _most(self, shape: torch.Size) -> int:
        """How many weights of a layer the pattern can hold."""
        groups, rest = divmod(shape[1], self.m)
        return shape[0] * math.prod(shape[2:]) * (groups * self.n + min(rest, self.n))

    def _inside(self, scores: Tensor) -> Tensor:
        """The best n of each group, of equal ones the earlier, of the shape of the weight."""
        flat = scores.flatten(2) if scores.dim() > 2 else scores.unsqueeze(2)
        rows, inputs, taps = flat.shape
        padded = F.pad(flat, (0, 0, 0, -inputs % self.m), value=-torch.inf).view(rows, -1, self.m, taps)
        order = torch.sort(padded, dim=2, descending=True, stable=True).indices
        best = torch.zeros_like(padded, dtype=torch.bool).scatter_(2, order[:, :, : self.n], True)
        best &= padded != -torch.inf
        return best.view(rows, -1, taps)[:, :inputs].reshape(scores.shape)


def _only(scores: Mapping[str, Tensor], allowed: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: values.masked_fill(~allowed[name], -torch.inf) for name, values in scores.items()}
