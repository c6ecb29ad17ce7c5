"""The epsilon ramps: schedules on plain numbers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import final

MID, BETA = 0.25, 4


@dataclass(frozen=True)
class Ramp(ABC):
    """The share of the target epsilon in the course of training, from 0 to 1.

    Attributes:
        start: first step of the ramp.
        end: the step from which the value is 1, above `start`.
    """

    start: float
    end: float

    def __post_init__(self) -> None:
        if not 0 <= self.start < self.end:
            raise ValueError(f"a ramp needs 0 <= start < end, but starts at {self.start} and ends at {self.end}")

    def value(self, step: float) -> float:
        """Share of the target epsilon at `step`, in [0, 1]; never falling."""
        if step <= self.start:
            return 0.0
        if step >= self.end:
            return 1.0
        return self.along((step - self.start) / (self.end - self.start))

    @abstractmethod
    def along(self, position: float) -> float:
        """The value at a position in (0, 1) between start and end."""


@final
@dataclass(frozen=True)
class SmoothedRamp(Ramp):
    """A power of degree 4 over the first quarter, then linear with matching slope.

    (Zhang et al. 2020, arXiv 1906.06316, and its implementations.)
    """

    def along(self, position: float) -> float:
        # On the unit interval: alpha p^beta up to mid, then a line of slope alpha beta mid^(beta-1) that ends at 1.
        power = MID ** (BETA - 1)
        alpha = 1.0 / ((1.0 - MID) * BETA * power + MID * power)
        if position <= MID:
            return alpha * position**BETA
        return alpha * MID**BETA + alpha * BETA * power * (position - MID)


@final
@dataclass(frozen=True)
class LinearRamp(Ramp):
    """A straight line (Gowal et al. 2018, arXiv 1810.12715)."""

    def along(self, position: float) -> float:
        return position


RAMPS: dict[str, type[Ramp]] = {"smoothed": SmoothedRamp, "linear": LinearRamp}
"""By the `ramp.shape` of a study."""
