"""Plain training, the baseline without any robustness."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

import torch.nn.functional as F
from torch import Tensor

from ..bounds import Graph, natural_pass
from .base import Batch, CertifiedLoss


@final
@dataclass(frozen=True, kw_only=True)
class CrossEntropy(CertifiedLoss):
    """Cross entropy at the natural inputs; the box is not looked at."""

    description: ClassVar[str] = "loss: plain cross entropy (baseline, certifies nothing)"
    leaves_boxes: ClassVar[bool] = False

    def loss(self, graph: Graph, batch: Batch) -> Tensor:
        return F.cross_entropy(natural_pass(graph, batch.x)[0], batch.y)
