"""Iterative pruning with rewinding (Frankle and Carbin 2019, arXiv 1803.03635; Frankle et al. 2020, 1912.05671)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from .base import Due, Schedule


@dataclass(frozen=True)
class Iterative(Schedule):
    """Rounds of equal length: train, prune, rewind the weights that are left, train again.

    Each round has its own epsilon ramp and learning-rate course, and each pruning keeps the same fraction of what is
    left. The last round trains at the target sparsity; a single round so prunes before the first step.

    Attributes:
        rounds: at least 1.
        rewind_to: fraction of a round, in [0, 1): weights and statistics go back to what they were there in the first
            round, and later rounds take up ramp and learning rate from there; 0 rewinds to initialisation.
    """

    description: ClassVar[str] = "schedule: rounds of training, pruning and rewinding (lottery ticket)"
    restarts: ClassVar[bool] = True
    rounds: int = 5
    rewind_to: float = 0.0

    def __post_init__(self) -> None:
        if self.rounds < 1:
            raise ValueError(f"schedule.rounds must be at least 1, but is {self.rounds}")
        if not 0 <= self.rewind_to < 1:
            raise ValueError(f"schedule.rewind_to is a fraction of a round in [0, 1), but is {self.rewind_to}")

    def due(self, step: int, steps: int) -> Due:
        done = self._rounds_done(step, steps)
        within = step * self.rounds / steps - done
        return Due(
            done / (self.rounds - 1) if self.rounds > 1 else 1.0,
            self.rewind_to + (1.0 - self.rewind_to) * within if done else within,
            geometric=True,
            keep=self.rounds > 1 and step == math.ceil(self.rewind_to * steps / self.rounds),
            # Training ends with the network that the last round has trained, however few steps there are.
            rewind=0 < step < steps and done > self._rounds_done(step - 1, steps),
        )

    def _rounds_done(self, step: int, steps: int) -> int:
        return min(step * self.rounds // steps, self.rounds - 1)
