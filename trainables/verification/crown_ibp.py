"""CROWN-IBP as a verifier."""

from dataclasses import dataclass
from typing import ClassVar, final

import torch
from torch import Tensor

from ..bounds import Graph, Region, as_intervals, backward_margins, interval_bounds, magnitudes
from .base import MarginBounds, Verifier


@final
@dataclass(frozen=True)
class CrownIbp(Verifier):
    """One backward pass of linear bounds from the margins, over interval bounds of the hidden layers.

    Requires:
        any network that `trace` accepts.
    Returns:
        margins that are mostly, not always, tighter than those of intervals: keep the better of both.
    Sound:
        yes, up to rounding by less than `TOLERANCE`.
    Complete:
        no.
    Reference:
        Zhang et al. 2020, "Towards Stable and Efficient Training of Verifiably Robust Neural Networks",
        arXiv 1906.06316.
    """

    description: ClassVar[str] = "linear bounds of the margins over interval bounds of the hidden layers"

    @torch.no_grad()
    def margins(self, graph: Graph, region: Region, labels: Tensor) -> MarginBounds:
        bounds = as_intervals(interval_bounds(graph, region))
        return MarginBounds(backward_margins(graph, region, bounds, labels), magnitudes(graph, bounds))
