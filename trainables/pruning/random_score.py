"""Random score, the baseline that every other score has to beat."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from .base import Candidates, Score


@dataclass(frozen=True)
class Random(Score):
    """A weight is worth a uniform random number, reproducible from the trial's seed."""

    description: ClassVar[str] = "score: uniform random number (baseline)"

    def scores(self, candidates: Candidates) -> dict[str, Tensor]:
        return {
            name: torch.rand(weight.shape, generator=candidates.generator).to(weight.device)
            for name, weight in candidates.weights.items()
        }
