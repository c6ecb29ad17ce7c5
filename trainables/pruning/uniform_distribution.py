"""The same density in every layer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from .base import Distribution
from .budget import room, spread


@dataclass(frozen=True)
class Uniform(Distribution):
    """Every layer keeps the same fraction; the remainders go to the layers with the largest fractional parts."""

    description: ClassVar[str] = "distribution: the same density in every layer"

    def allocate(self, scores: Mapping[str, Tensor], kept: int) -> dict[str, int]:
        return spread({name: score.numel() for name, score in scores.items()}, room(scores), kept)
