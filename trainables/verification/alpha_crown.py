"""alpha-CROWN as a verifier."""

from dataclasses import dataclass
from typing import ClassVar, final

import torch
from torch import Tensor

from ..bounds import TOLERANCE, Graph, Region, crown_bounds, magnitudes, optimised_margins
from .base import MarginBounds, Verifier


@final
@dataclass(frozen=True)
class AlphaCrown(Verifier):
    """CROWN with the lower slope of every unstable neuron optimised by gradient steps, for each margin that CROWN does
    not prove. The bounds before the ReLUs stay as CROWN finds them.

    Requires:
        a network of the layers that CROWN can bound.
    Returns:
        margins at least as tight as CROWN's, at several times its cost.
    Sound:
        yes, up to rounding by less than `TOLERANCE`.
    Complete:
        no.
    Reference:
        Xu et al. 2021, "Fast and Complete: Enabling Complete Verification with Rapid and Massively Parallel Incomplete
        Verifiers", arXiv 2011.13824, who optimise the bounds before ReLUs as well.

    Attributes:
        iterations: gradient steps; a budget in steps, not in seconds, so that results repeat.
    """

    description: ClassVar[str] = "CROWN with optimised slopes, for the margins that CROWN leaves"

    iterations: int = 20

    def __post_init__(self) -> None:
        if self.iterations < 1:
            raise ValueError(f"alpha-CROWN needs at least 1 iteration, got {self.iterations}")

    def margins(self, graph: Graph, region: Region, labels: Tensor) -> MarginBounds:
        with torch.no_grad():
            bounds = crown_bounds(graph, region, tighten=True)
            scale = magnitudes(graph, bounds)
        enough = TOLERANCE[scale.dtype] * scale
        lower = optimised_margins(graph, region, bounds, labels, enough, iterations=self.iterations)
        return MarginBounds(lower, scale)
