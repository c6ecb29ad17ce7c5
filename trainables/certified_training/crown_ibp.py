"""CROWN-IBP (Zhang et al. 2020, arXiv 1906.06316) with loss fusion (Xu et al. 2020, arXiv 2002.12920)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

import torch
from torch import Tensor

from ..bounds import Box, Graph, Region, backward_combination, backward_margins, interval_boxes, margin_bounds
from .base import Batch, check_share
from .interval_loss import margin_cross_entropy
from .natural_share import NaturalShare

SERIES = 1e-2
"""Below this width `(1 - exp(-d)) / d` is taken from its series: the quotient of differences has no exact gradient."""


@final
@dataclass(frozen=True)
class CrownIBP(NaturalShare):
    """Cross entropy on the worst case by one backward pass of linear bounds over interval bounds.

    Along the ramp the share `beta` of the backward bounds, the rest being interval bounds, goes linearly from
    `beta_start` to `beta_end`; at 0 the loss is that of IBP, at its cost.

    Attributes:
        beta_start, beta_end: in [0, 1]; the published models end at 0, but that of CIFAR-10 at 2/255 at 1.
        fusion: bound the sum over classes that cross entropy is the logarithm of by one backward pass, instead of every
            margin by its own. Much cheaper, and an upper bound too; neither is the tighter one everywhere. beta then
            weighs the bounds of the sum, as in the published code, not those of the margins.
    """

    description: ClassVar[str] = "loss: cross entropy on CROWN-IBP bounds, giving way to intervals along the ramp"
    beta_start: float = 1.0
    beta_end: float = 0.0
    fusion: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        check_share("beta_start", self.beta_start)
        check_share("beta_end", self.beta_end)

    def beta(self, ramp: float) -> float:
        """Share of the backward bounds at a position of the epsilon ramp in [0, 1]."""
        return self.beta_start + ramp * (self.beta_end - self.beta_start)

    def robust(self, graph: Graph, batch: Batch) -> Tensor:
        beta = self.beta(batch.ramp)
        boxes = interval_boxes(graph, batch.region)
        batch.leave(boxes)
        margins = margin_bounds(graph.last_linear, boxes[graph.features], batch.y)
        if beta == 0:
            return margin_cross_entropy(margins.lower, batch.y)
        if self.fusion:
            return _fused(graph, batch, boxes, margins, beta)
        backward = backward_margins(graph, batch.region, boxes, batch.y)
        return margin_cross_entropy(torch.lerp(margins.lower, backward, beta), batch.y)


def _fused(graph: Graph, batch: Batch, boxes: list[Region], margins: Box, beta: float) -> Tensor:
    """Upper bounds `(batch,)` of cross entropy, `log sum_k exp(o_k)` with `o_k = logit_k - logit_y`.

    Over the interval `[l, u]` of `o_k`, `exp(o_k)` is at most its chord; the sum of chords is one linear function of
    the logits, bounded backwards. Everything is scaled by `exp(-shift)`, which changes nothing but the range of floats.
    """
    upper, width = -margins.lower, 2.0 * margins.radius
    shift = upper.detach().amax(1, keepdim=True)
    top = torch.exp(upper - shift)
    near = width < SERIES
    divisor = torch.where(near, torch.ones_like(width), width)
    series = 1.0 - width / 2.0 * (1.0 - width / 3.0 * (1.0 - width / 4.0))
    slope = top * torch.where(near, series, -torch.expm1(-divisor) / divisor)
    labels = batch.y[:, None]
    weights = slope.scatter_add(1, labels, -slope.sum(1, keepdim=True))
    linear = -backward_combination(graph, batch.region, boxes, -weights)
    backward = linear + (top - slope * upper).sum(1)
    # The summand of the label alone is exp(-shift): an upper bound below it is a rounding error.
    least = torch.exp(-shift.squeeze(1)).clamp_min(torch.finfo(shift.dtype).tiny)
    total = torch.lerp(top.sum(1), torch.maximum(backward, least), beta)
    return torch.log(total) + shift.squeeze(1)
