"""The axes of pruning: what a weight is worth, how the budget is spread over layers, and when it falls due.

Any score goes with any distribution and any schedule; `prune` joins them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor


class Score(ABC):
    """What each weight is worth; the least valuable are pruned first."""

    description: ClassVar[str]

    @abstractmethod
    def scores(self, weights: Mapping[str, Tensor], generator: torch.Generator) -> dict[str, Tensor]:
        """One finite score per weight, of the weight's shape; higher means rather keep.

        Args:
            weights: the prunable weights by name.
            generator: source of randomness, seeded by the trial.
        """


class Distribution(ABC):
    """How many weights each layer keeps."""

    description: ClassVar[str]

    @abstractmethod
    def allocate(self, scores: Mapping[str, Tensor], kept: int) -> dict[str, int]:
        """Numbers of weights that the layers keep: they sum to exactly `kept`, none above its layer's size."""


class Schedule(ABC):
    """When in the course of training the target sparsity falls due."""

    description: ClassVar[str]

    @abstractmethod
    def fraction(self, progress: float) -> float:
        """Share of the target sparsity due at `progress`, both in [0, 1]; never falling."""
