"""CROWN as a verifier."""

from dataclasses import dataclass
from typing import ClassVar, final

import torch
from torch import Tensor

from ..bounds import Graph, Region, backward_margins, crown_bounds, magnitudes
from .base import MarginBounds, Verifier


@final
@dataclass(frozen=True)
class Crown(Verifier):
    """Linear bounds of the margins and of every neuron that is not yet known to be stable.

    Requires:
        any network that `trace` accepts.
    Returns:
        the tightest margins without optimisation; the cost grows with the number of unstable neurons.
    Sound:
        yes, up to rounding by less than `TOLERANCE`.
    Complete:
        no.
    Reference:
        Zhang et al. 2018, "Efficient Neural Network Robustness Certification with General Activation Functions",
        arXiv 1811.00866.
    """

    description: ClassVar[str] = "linear bounds of the margins and of every unstable neuron"

    @torch.no_grad()
    def margins(self, graph: Graph, region: Region, labels: Tensor) -> MarginBounds:
        bounds = crown_bounds(graph, region, tighten=True)
        return MarginBounds(backward_margins(graph, region, bounds, labels), magnitudes(graph, bounds))
