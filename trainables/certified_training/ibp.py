"""Interval bound propagation (Gowal et al. 2018, arXiv 1810.12715)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from ..bounds import Graph, margin_lower_bounds, natural_and_interval
from .base import Batch, CertifiedLoss


@dataclass(frozen=True)
class IBP(CertifiedLoss):
    """`kappa CE(natural) + (1 - kappa) CE(worst-case margins)`, the worst case by interval bounds.

    Along the ramp `kappa = kappa_start (1 - ramp (1 - kappa_end))`.

    Attributes:
        kappa_start: weight of the natural loss at epsilon 0, in [0, 1].
        kappa_end: the fraction of it that is left at the target epsilon, in [0, 1].
    """

    description: ClassVar[str] = "loss: cross entropy on interval bounds, mixed with the natural one"
    kappa_start: float = 1.0
    kappa_end: float = 0.5

    def __post_init__(self) -> None:
        for name in ("kappa_start", "kappa_end"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"loss.{name} is a share in [0, 1], but is {getattr(self, name)}")

    def kappa(self, ramp: float) -> float:
        """Weight of the natural loss at a position of the epsilon ramp in [0, 1]."""
        return self.kappa_start * (1.0 - ramp * (1.0 - self.kappa_end))

    def loss(self, graph: Graph, batch: Batch) -> Tensor:
        kappa = self.kappa(batch.ramp)
        logits, centre, radius = natural_and_interval(
            graph, batch.x, batch.centre, batch.radius, before_relu=batch.before_relu
        )
        margins = margin_lower_bounds(graph.last_linear, centre, radius, batch.y)
        # Logits worst for the label differ from the negated margins by a constant, which cross entropy does not see.
        robust = F.cross_entropy(-margins, batch.y)
        if logits is None or kappa == 0:
            return robust
        return torch.lerp(robust, F.cross_entropy(logits, batch.y), kappa)
