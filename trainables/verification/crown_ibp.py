"""CROWN-IBP as a verifier."""

from dataclasses import dataclass
from typing import ClassVar, final

import torch
from torch import Tensor

from ..bounds import Box, Graph, as_intervals, backward_margins, interval_bounds
from .base import MarginBounds, Verifier, largest_logit


@final
@dataclass(frozen=True)
class CrownIbp(Verifier):
    """One backward pass of linear bounds from the margins, over interval bounds of the hidden layers.

    Requires:
        any network that `trace` accepts.
    Returns:
        margins that are mostly, not always, tighter than those of intervals: keep the better of both.
    Sound:
        yes, up to float rounding, which `TOLERANCE` stands in for.
    Complete:
        no.
    Reference:
        Zhang et al. 2020, "Towards Stable and Efficient Training of Verifiably Robust Neural Networks",
        arXiv 1906.06316.
    """

    description: ClassVar[str] = "linear bounds of the margins over interval bounds of the hidden layers"

    @torch.no_grad()
    def margins(self, graph: Graph, box: Box, labels: Tensor) -> MarginBounds:
        bounds = interval_bounds(graph, *box)
        return MarginBounds(
            backward_margins(graph, box, as_intervals(bounds), labels),
            largest_logit(graph, bounds[graph.features]),
        )
