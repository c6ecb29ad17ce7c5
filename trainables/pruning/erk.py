"""Erdos-Renyi-Kernel densities (Evci et al. 2020, arXiv 1911.11134)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, final

from torch import Tensor

from .base import Distribution
from .budget import room, spread


@final
@dataclass(frozen=True)
class Erk(Distribution):
    """The density of a layer is proportional to `sum(dims) / prod(dims)` of its weight: large layers are the sparser.

    Layers that this would give a density above 1 stay dense, and the rest is solved again, so that the sum is exact.
    """

    description: ClassVar[str] = "distribution: Erdos-Renyi-Kernel densities, large layers sparser"

    def allocate(self, scores: Mapping[str, Tensor], kept: int) -> dict[str, int]:
        # Density times prod(dims) is the number of weights.
        return spread({name: sum(score.shape) for name, score in scores.items()}, room(scores), kept)
