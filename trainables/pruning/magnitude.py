"""Magnitude score (Han et al. 2015, arXiv 1506.02626)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from .base import Candidates, Score


@dataclass(frozen=True)
class Magnitude(Score):
    """A weight is worth its absolute value."""

    description: ClassVar[str] = "score: absolute value of the weight"

    def scores(self, candidates: Candidates) -> dict[str, Tensor]:
        return {name: weight.detach().abs() for name, weight in candidates.weights.items()}
