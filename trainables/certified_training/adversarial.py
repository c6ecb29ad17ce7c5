"""Adversarial training (Madry et al. 2018, arXiv 1706.06083), the baseline without any bound."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

import torch.nn.functional as F
from torch import Tensor

from ..bounds import Graph, forward, settle
from .attacked import Attacked
from .base import Batch


@final
@dataclass(frozen=True, kw_only=True)
class Adversarial(Attacked):
    """Cross entropy at points that PGD finds."""

    description: ClassVar[str] = "loss: cross entropy at points that PGD finds (baseline, certifies nothing)"
    leaves_boxes: ClassVar[bool] = False

    def loss(self, graph: Graph, batch: Batch) -> Tensor:
        settled = settle(graph, batch.x)
        return F.cross_entropy(forward(settled, self.attack(settled, batch.region, batch)), batch.y)
