"""No regulariser."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from ..bounds import Graph
from .base import Batch, Regulariser


@dataclass(frozen=True)
class NoRegulariser(Regulariser):
    """Nothing is added to the certified loss."""

    description: ClassVar[str] = "regulariser: none"
    reads_boxes: ClassVar[bool] = False

    def penalty(self, graph: Graph, batch: Batch) -> Tensor:
        return graph.last_linear.weight.new_zeros(())
