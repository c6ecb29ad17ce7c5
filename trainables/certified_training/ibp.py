"""Interval bound propagation (Gowal et al. 2018, arXiv 1810.12715)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

from torch import Tensor

from ..bounds import Graph
from .base import Batch
from .interval_loss import interval_margins, margin_cross_entropy
from .natural_share import NaturalShare


@final
@dataclass(frozen=True)
class IBP(NaturalShare):
    """Cross entropy on the worst margins by interval bounds, mixed with the natural one."""

    description: ClassVar[str] = "loss: cross entropy on interval bounds, mixed with the natural one"

    def robust(self, graph: Graph, batch: Batch) -> Tensor:
        return margin_cross_entropy(interval_margins(graph, batch.region, batch), batch.y)
