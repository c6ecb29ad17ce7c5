"""Losses between the adversarial and the interval one (De Palma et al. 2024, arXiv 2305.13991)."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from ..bounds import Graph, forward, settle
from .attacked import Attacked
from .base import Batch, check_share
from .interval_loss import interval_margins


@dataclass(frozen=True, kw_only=True)
class Expressive(Attacked):
    """A loss that `alpha` leads from the adversarial one (0) to that of IBP (1), never falling on its way.

    BatchNorm has the statistics of the natural batch; in the authors' code bounds have those of the attacked points.

    Attributes:
        alpha: in [0, 1]. Published for MTL-IBP, CC-IBP and Exp-IBP: 0.01, 0.1 and none on MNIST at 0.1
            (`epsilon_factor` 2, one step); 0.08, 0.3 and none at 0.3 (4/3, one step); 0.004, 0.01 and 0.095 on CIFAR-10
            at 2/255 (`attack_epsilon` 2.1, 8 steps of 0.25); 0.5 for all at 8/255 (one step). Single steps reach a
            corner.
        attack_epsilon: the box that is attacked, as a multiple of the one that is bounded, at least 1. Above 1 the
            adversarial loss may exceed that of IBP.
    """

    alpha: float = 0.01
    attack_epsilon: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_share("alpha", self.alpha)
        if not 1 <= self.attack_epsilon < torch.inf:
            raise ValueError(f"loss.attack_epsilon must be at least 1 and finite, but is {self.attack_epsilon}")

    @abstractmethod
    def combined(self, adversarial: Tensor, interval: Tensor, labels: Tensor) -> Tensor:
        """The losses `(batch,)` from margins `logit_y - logit_k`, each `(batch, classes)`: at the points that were
        attacked, and their lower bounds by intervals."""

    def loss(self, graph: Graph, batch: Batch) -> Tensor:
        settled = settle(graph, batch.x)
        points = self.attack(settled, batch.widened(self.attack_epsilon), batch)
        interval = interval_margins(settled, batch.region, batch)
        # Of lower precision under autocast.
        logits = forward(settled, points).to(interval.dtype)
        return self.combined(logits.gather(1, batch.y[:, None]) - logits, interval, batch.y).mean()
