"""Random score, the baseline that every other score has to beat."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from .base import Score


@dataclass(frozen=True)
class Random(Score):
    """A weight is worth a uniform random number, reproducible from the trial's seed."""

    description: ClassVar[str] = "score: uniform random number (baseline)"

    def scores(self, weights: Mapping[str, Tensor], generator: torch.Generator) -> dict[str, Tensor]:
        return {
            name: torch.rand(weight.shape, generator=generator).to(weight.device) for name, weight in weights.items()
        }
