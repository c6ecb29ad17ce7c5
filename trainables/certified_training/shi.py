"""The two regularisers of Shi et al. (2021, arXiv 2103.17268)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, final

import torch
from torch import Tensor

from ..bounds import Graph, Region
from .base import Batch, Regulariser


@final
@dataclass(frozen=True)
class Shi(Regulariser):
    """`(1 - ramp) (tightness L_tight + balance L_relu)`, while epsilon is on its ramp.

    `L_tight`, mean over ReLU layers of `relu(tolerance - tau_in / tau) / tolerance`: the mean radius tau before a ReLU
    shall not outgrow that at the input. `L_relu`, mean over ReLU layers of the same for two ratios in [0, 1] in place
    of `tau_in / tau`: active and inactive neurons shall contribute alike to the mean of what a ReLU reads, and to its
    variance. The ratio is that of the smaller to the larger contribution, over the batch; 0 where there is none.

    The authors' code has the penalty before the ramp too, at a radius of 1e-6; here it begins with the ramp.

    Attributes:
        tightness, balance: weights at the start of the ramp, at least 0; 0.5 is published for both.
        tolerance: in (0, 1]; 0.5 is published.
    """

    description: ClassVar[str] = "regulariser: tight bounds and balanced ReLUs while epsilon grows (Shi et al. 2021)"
    tightness: float = 0.5
    balance: float = 0.5
    tolerance: float = 0.5

    def __post_init__(self) -> None:
        for name in ("tightness", "balance"):
            if not 0 <= getattr(self, name) < torch.inf:
                raise ValueError(f"regulariser.{name} must be at least 0 and finite, but is {getattr(self, name)}")
        if not 0 < self.tolerance <= 1:
            raise ValueError(f"regulariser.tolerance must lie in (0, 1], but is {self.tolerance}")

    def penalty(self, graph: Graph, batch: Batch) -> Tensor:
        assert batch.boxes is not None
        before = list(batch.before_relus(graph).values())
        if not 0 < batch.ramp < 1 or not before:
            return graph.last_linear.weight.new_zeros(())
        tightness = self._tightness(batch.boxes[0].radius.mean(), before)
        return (1.0 - batch.ramp) * (self.tightness * tightness + self.balance * self._balance(before))

    def _tightness(self, at_input: Tensor, before: Sequence[Region]) -> Tensor:
        radii = torch.stack([box.radius.mean() for box in before])
        # A layer tighter than the input is beyond every tolerance, and may have no radius at all to divide by.
        ratios = at_input / torch.maximum(radii, at_input).clamp_min(torch.finfo(radii.dtype).tiny)
        return self._short(ratios).mean()

    def _balance(self, before: Sequence[Region]) -> Tensor:
        return torch.stack([self._short(ratio) for box in before for ratio in _ratios(box)]).sum() / len(before)

    def _short(self, ratio: Tensor) -> Tensor:
        return (self.tolerance - ratio).clamp_min(0) / self.tolerance


def _ratios(box: Region) -> tuple[Tensor, Tensor]:
    """Of inactive and active neurons: of their share in the mean, and in the variance of the centres."""
    active, inactive = box.lower > 0, box.upper < 0
    spread = (box.centre - box.centre.mean()).square()
    means = (box.centre * active).sum(), -(box.centre * inactive).sum()
    return _smaller_to_larger(*means), _smaller_to_larger((spread * active).sum(), (spread * inactive).sum())


def _smaller_to_larger(one: Tensor, other: Tensor) -> Tensor:
    larger = torch.maximum(one, other)
    return torch.minimum(one, other) / larger.clamp_min(torch.finfo(larger.dtype).tiny)
