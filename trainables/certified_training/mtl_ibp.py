"""MTL-IBP (De Palma et al. 2024, arXiv 2305.13991)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

import torch
from torch import Tensor

from .expressive import Expressive
from .interval_loss import margin_cross_entropy


@final
@dataclass(frozen=True, kw_only=True)
class MtlIBP(Expressive):
    """`(1 - alpha) CE(attacked) + alpha CE(interval bounds)`."""

    description: ClassVar[str] = "loss: mean of adversarial and interval cross entropy, weighted"

    def combined(self, adversarial: Tensor, interval: Tensor, labels: Tensor) -> Tensor:
        return torch.lerp(margin_cross_entropy(adversarial, labels), margin_cross_entropy(interval, labels), self.alpha)
