"""Gradual pruning (Zhu and Gupta 2017, arXiv 1710.01878)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from .base import Due, Schedule


@dataclass(frozen=True)
class Gradual(Schedule):
    """The target falls due along `s (1 - (1 - p)^3)`, p running from 0 at `start` to 1 at `end` in equal steps.

    Attributes:
        start: fraction of the epoch budget, in [0, end).
        end: fraction of the epoch budget, at most 1.
        updates: number of steps, at least 1: between them the network has time to recover.
    """

    description: ClassVar[str] = "schedule: cubic ramp of the sparsity"
    start: float = 0.0
    end: float = 0.3
    updates: int = 20

    def __post_init__(self) -> None:
        if not 0 <= self.start < self.end <= 1:
            raise ValueError(
                f"schedule.start and schedule.end are fractions of training with 0 <= start < end <= 1, "
                f"but are {self.start} and {self.end}"
            )
        if self.updates < 1:
            raise ValueError(f"schedule.updates must be at least 1, but is {self.updates}")

    def due(self, step: int, steps: int) -> Due:
        progress = step / steps
        p = min(max((progress - self.start) / (self.end - self.start), 0.0), 1.0)
        p = math.floor(p * self.updates) / self.updates
        return Due(1.0 - (1.0 - p) ** 3, progress)
