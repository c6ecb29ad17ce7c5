"""SABR (Müller et al. 2023, arXiv 2210.04871)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

from torch import Tensor

from ..bounds import Graph, settle
from .base import Batch
from .interval_loss import interval_margins, margin_cross_entropy
from .small_box import SmallBoxed


@final
@dataclass(frozen=True, kw_only=True)
class SABR(SmallBoxed):
    """Cross entropy on the interval bounds of a small box around an attacked point.

    Regularisers see the boxes that belong to the small one.
    """

    description: ClassVar[str] = "loss: cross entropy on interval bounds of a small box around an attacked point"

    def loss(self, graph: Graph, batch: Batch) -> Tensor:
        settled = settle(graph, batch.x)
        margins = interval_margins(settled, self.small_box(settled, batch), batch)
        return margin_cross_entropy(margins, batch.y).mean()
