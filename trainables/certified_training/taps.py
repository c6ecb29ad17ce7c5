"""TAPS (Mao et al. 2023, arXiv 2305.04574)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

from torch import Tensor

from ..bounds import Graph, settle
from .base import Batch
from .latent import LatentlyAttacked


@final
@dataclass(frozen=True, kw_only=True)
class TAPS(LatentlyAttacked):
    """Interval bounds of the input box up to a latent box, attacks from there on."""

    description: ClassVar[str] = "loss: interval bounds through the first layers, attacks through the last"

    def loss(self, graph: Graph, batch: Batch) -> Tensor:
        return self.latent_losses(settle(graph, batch.x), batch.region, batch).mean()
