"""Interval bound propagation as a verifier."""

from dataclasses import dataclass
from typing import ClassVar, final

import torch
from torch import Tensor

from ..bounds import Graph, Region, as_intervals, interval_bounds, magnitudes, margin_lower_bounds
from .base import MarginBounds, Verifier


@final
@dataclass(frozen=True)
class Ibp(Verifier):
    """Intervals through every layer, the last one merged with the margins.

    Requires:
        any network that `trace` accepts.
    Returns:
        the loosest margins of all verifiers, at about the cost of two forward passes.
    Sound:
        yes, up to rounding by less than `TOLERANCE`.
    Complete:
        no.
    Reference:
        Gowal et al. 2018, "On the Effectiveness of Interval Bound Propagation", arXiv 1810.12715.
    """

    description: ClassVar[str] = "interval bounds; cheapest, decides most samples of an IBP-trained network"

    @torch.no_grad()
    def margins(self, graph: Graph, region: Region, labels: Tensor) -> MarginBounds:
        bounds = interval_bounds(graph, region)
        return MarginBounds(
            margin_lower_bounds(graph.last_linear, bounds[graph.features], labels),
            magnitudes(graph, as_intervals(bounds)),
        )
