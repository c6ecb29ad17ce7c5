"""STAPS: TAPS on SABR's small box (Mao et al. 2023, arXiv 2305.04574)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

from torch import Tensor

from ..bounds import Graph, settle
from .base import Batch
from .latent import LatentlyAttacked
from .small_box import SmallBoxed


@final
@dataclass(frozen=True, kw_only=True)
class STAPS(SmallBoxed, LatentlyAttacked):
    """Interval bounds of a small box around an attacked point up to a latent box, attacks from there on.

    Regularisers see the boxes that belong to the small one.
    """

    description: ClassVar[str] = "loss: that of TAPS on a small box around an attacked point"

    def loss(self, graph: Graph, batch: Batch) -> Tensor:
        settled = settle(graph, batch.x)
        return self.latent_losses(settled, self.small_box(settled, batch), batch).mean()
