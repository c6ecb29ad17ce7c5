"""HYDRA (Sehwag et al. 2020, arXiv 2002.10509): the mask is learned on the certified loss."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from .base import Candidates, LearnedScore


@dataclass(frozen=True)
class Hydra(LearnedScore):
    """Scores start at `sqrt(6 / fan_in) w / max|w|` in each layer and are trained, the weights being frozen.

    Attributes:
        span: how long, fraction of the epoch budget, in (0, 1); what is left after it finetunes the weights.
        learning_rate: of the scores' own Adam, above 0.
    """

    description: ClassVar[str] = "score: learned on the certified loss, weights frozen meanwhile (HYDRA)"
    span: float = 0.2
    learning_rate: float = 1e-3

    def __post_init__(self) -> None:
        if not 0 < self.span < 1:
            raise ValueError(f"score.span is a fraction of training in (0, 1), but is {self.span}")
        if self.learning_rate <= 0:
            raise ValueError(f"score.learning_rate must be above 0, but is {self.learning_rate}")

    def scores(self, candidates: Candidates) -> dict[str, Tensor]:
        return {name: score.abs() for name, score in self.start(candidates.weights).items()}

    def start(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        scores = {}
        for name, weight in weights.items():
            values = weight.detach()
            largest = float(values.abs().max()) or 1.0
            scores[name] = values * (math.sqrt(6.0 / values[0].numel()) / largest)
        return scores
