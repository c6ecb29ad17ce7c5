"""CC-IBP (De Palma et al. 2024, arXiv 2305.13991)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

import torch
from torch import Tensor

from .expressive import Expressive
from .interval_loss import margin_cross_entropy


@final
@dataclass(frozen=True, kw_only=True)
class CcIBP(Expressive):
    """Cross entropy on the margins `(1 - alpha) attacked + alpha interval bounds`."""

    description: ClassVar[str] = "loss: cross entropy on a convex combination of adversarial and interval margins"

    def combined(self, adversarial: Tensor, interval: Tensor, labels: Tensor) -> Tensor:
        return margin_cross_entropy(torch.lerp(adversarial, interval, self.alpha), labels)
