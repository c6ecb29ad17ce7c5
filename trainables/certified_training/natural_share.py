"""The natural loss beside the robust one (Gowal et al. 2018, arXiv 1810.12715)."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ..bounds import Graph, natural_pass, settle
from .base import Batch, CertifiedLoss, check_share


@dataclass(frozen=True)
class NaturalShare(CertifiedLoss):
    """A loss `kappa CE(natural) + (1 - kappa) robust`.

    Along the ramp `kappa = kappa_start (1 - ramp (1 - kappa_end))`; `kappa_end` 1 holds it. Gowal et al. end at 0.5,
    CROWN-IBP and Shi et al. have no natural loss once epsilon grows (`kappa_start` 0).

    Attributes:
        kappa_start: weight of the natural loss at epsilon 0, in [0, 1].
        kappa_end: the fraction of it that is left at the target epsilon, in [0, 1].
    """

    kappa_start: float = 1.0
    kappa_end: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        check_share("kappa_start", self.kappa_start)
        check_share("kappa_end", self.kappa_end)

    def kappa(self, ramp: float) -> float:
        """Weight of the natural loss at a position of the epsilon ramp in [0, 1]."""
        return self.kappa_start * (1.0 - ramp * (1.0 - self.kappa_end))

    @abstractmethod
    def robust(self, graph: Graph, batch: Batch) -> Tensor:
        """The robust losses `(batch,)`, on a settled graph."""

    def loss(self, graph: Graph, batch: Batch) -> Tensor:
        kappa = self.kappa(batch.ramp)
        if kappa == 0:
            return self.robust(settle(graph, batch.x), batch).mean()
        logits, settled = natural_pass(graph, batch.x)
        return torch.lerp(self.robust(settled, batch).mean(), F.cross_entropy(logits, batch.y), kappa)
