"""Distributions that give every layer a part in proportion to its shape."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, final

from torch import Tensor

from .base import Distribution
from .budget import room, spread


class Proportional(Distribution):
    """Layers that have no room for their part stay dense, and the rest is solved again, so that the sum is exact; the
    remainders go to the layers with the largest fractional parts.
    """

    @abstractmethod
    def part(self, weight: Tensor) -> int:
        """What the number of weights that a layer keeps is proportional to."""

    def allocate(self, scores: Mapping[str, Tensor], kept: int) -> dict[str, int]:
        return spread({name: self.part(score) for name, score in scores.items()}, room(scores), kept)


@final
@dataclass(frozen=True)
class Uniform(Proportional):
    """Every layer keeps the same fraction."""

    description: ClassVar[str] = "distribution: the same density in every layer"

    def part(self, weight: Tensor) -> int:
        return weight.numel()


@final
@dataclass(frozen=True)
class Erk(Proportional):
    """Erdos-Renyi-Kernel densities, proportional to `sum(dims) / prod(dims)`: large layers are the sparser (Evci et al.
    2020, arXiv 1911.11134).
    """

    description: ClassVar[str] = "distribution: Erdos-Renyi-Kernel densities, large layers sparser"

    def part(self, weight: Tensor) -> int:
        # Density times prod(dims) is the number of weights.
        return sum(weight.shape)


@final
@dataclass(frozen=True)
class FanIn(Proportional):
    """A layer keeps weights in proportion to its outputs, neurons or channels: on average all have the same fan-in
    (Lasby et al. 2023, arXiv 2305.02299, keep it constant). Small convolutions before a large linear layer so keep far
    more than by Erdos-Renyi-Kernel densities, which count inputs too.
    """

    description: ClassVar[str] = "distribution: equal fan-in, weights in proportion to neurons and channels"

    def part(self, weight: Tensor) -> int:
        return len(weight)


BASES: Mapping[str, type[Proportional]] = {"uniform": Uniform, "erk": Erk, "fan-in": FanIn}
