"""Taylor score (Molchanov et al. 2019, arXiv 1906.10771)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

from torch import Tensor

from .base import Candidates, Score
from .gradients import check_options, effect, finite, mean_over_batches


@final
@dataclass(frozen=True)
class Taylor(Score):
    """A weight is worth the mean over batches of `(w * g)^2`, g being the batch's gradient of the certified loss.

    Unlike SNIP's, effects of opposite sign do not cancel over batches.

    Attributes:
        batches: how many are averaged, at least 1.
        ramp: share of epsilon that the loss is taken at, in [0, 1]; 0 is the clean loss, as in the paper.
    """

    description: ClassVar[str] = "score: mean over batches of (weight * gradient of the certified loss)^2"
    batches: int = 4
    ramp: float = 1.0

    def __post_init__(self) -> None:
        check_options(self.batches, self.ramp)

    def scores(self, candidates: Candidates) -> dict[str, Tensor]:
        squares = mean_over_batches(
            candidates,
            candidates.loss.loss,
            batches=self.batches,
            ramp=self.ramp,
            of=lambda weight, gradient: effect(weight, gradient).square(),
        )
        return {name: finite(square) for name, square in squares.items()}
