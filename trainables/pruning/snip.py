"""SNIP (Lee et al. 2019, arXiv 1810.02340)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

from torch import Tensor

from .base import Candidates, Score
from .gradients import check_options, effect, finite, mean_over_batches


@final
@dataclass(frozen=True)
class Snip(Score):
    """A weight is worth `|w * g|`, g being the mean gradient of the certified loss: the change of the loss, to first
    order, if the weight went.

    Attributes:
        batches: how many the gradient is the mean of, at least 1.
        ramp: share of epsilon that the loss is taken at, in [0, 1]; 0 is the clean loss, as in the paper.
    """

    description: ClassVar[str] = "score: |weight * mean gradient of the certified loss|"
    batches: int = 4
    ramp: float = 1.0

    def __post_init__(self) -> None:
        check_options(self.batches, self.ramp)

    def scores(self, candidates: Candidates) -> dict[str, Tensor]:
        effects = mean_over_batches(candidates, candidates.loss.loss, batches=self.batches, ramp=self.ramp, of=effect)
        return {name: finite(mean.abs()) for name, mean in effects.items()}
