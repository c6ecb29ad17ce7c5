"""What losses that attack have in common."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ..bounds import Graph, Region, forward
from ..verification.pgd import Pgd
from .base import Batch, CertifiedLoss


@dataclass(frozen=True, kw_only=True)
class Attacked(CertifiedLoss):
    """A loss at points that PGD finds, by cross entropy, from a random start.

    The attack sees the network as the step does: BatchNorm by the statistics of the natural batch (published code
    attacks by the running ones). It ends at its last point; published code takes the best of all it has passed, which
    matters less where steps shrink, as they do here.

    Attributes:
        attack_steps: at least 1.
        attack_step_size: of the first half of the steps, as a share of the radius, in (0, 2]; it falls as that of
            `Pgd`. A step of 2 reaches a corner of a box from anywhere, as published steps of 10 radii do.
    """

    attack_steps: int = 8
    attack_step_size: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        check_pgd("attack", self.attack_steps, self.attack_step_size)

    def attack(self, graph: Graph, region: Region, batch: Batch) -> Tensor:
        """Points `(batch, *shape)` of `region` that cross entropy is large at, on a settled graph."""
        return Pgd(self.attack_steps, step_size=self.attack_step_size).ascend(
            lambda points: F.cross_entropy(forward(graph, points), batch.y, reduction="sum"),
            region,
            random_start(region.centre, batch.seed),
        )


def random_start(like: Tensor, seed: int) -> Tensor:
    """Uniform positions in [-1, 1], shaped as `like`; drawn on the CPU, so that all devices start alike."""
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(like.shape, generator=generator, dtype=like.dtype).mul_(2).sub_(1).to(like.device)


def check_pgd(name: str, steps: int, step_size: float) -> None:
    """
    Raises:
        ValueError: options of a loss that are no attack.
    """
    if steps < 1:
        raise ValueError(f"loss.{name}_steps must be at least 1, but is {steps}")
    if not 0 < step_size <= 2:
        raise ValueError(f"loss.{name}_step_size is a share of the radius in (0, 2], but is {step_size}")
