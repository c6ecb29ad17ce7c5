"""Prune once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from .base import Due, Schedule


@dataclass(frozen=True)
class OneShot(Schedule):
    """Train dense until `at`, then prune to the target at once and train on. `at = 0` prunes at initialisation.

    Attributes:
        at: fraction of the epoch budget, in [0, 1).
    """

    description: ClassVar[str] = "schedule: prune to the target at once"
    once: ClassVar[bool] = True
    at: float = 0.1

    def __post_init__(self) -> None:
        if not 0 <= self.at < 1:
            raise ValueError(f"schedule.at is a fraction of training in [0, 1), but is {self.at}")

    def due(self, step: int, steps: int) -> Due:
        progress = step / steps
        return Due(float(progress >= self.at), progress)
