"""Exp-IBP (De Palma et al. 2024, arXiv 2305.13991)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

from torch import Tensor

from .expressive import Expressive
from .geometric import geometric_mean
from .interval_loss import margin_cross_entropy


@final
@dataclass(frozen=True, kw_only=True)
class ExpIBP(Expressive):
    """`CE(attacked)^(1 - alpha) CE(interval bounds)^alpha`, sample by sample, as the paper defines it.

    The authors' code takes the means over the batch first.
    """

    description: ClassVar[str] = "loss: geometric mean of adversarial and interval cross entropy, weighted"

    def combined(self, adversarial: Tensor, interval: Tensor, labels: Tensor) -> Tensor:
        return geometric_mean(
            margin_cross_entropy(adversarial, labels), margin_cross_entropy(interval, labels), self.alpha
        )
