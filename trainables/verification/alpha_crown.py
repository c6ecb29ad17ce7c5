"""alpha-CROWN as a verifier, through auto_LiRPA."""

from dataclasses import dataclass
from typing import ClassVar, final

import torch
from torch import Tensor

from ..bounds import Box, Graph, crown_bounds, magnitudes
from .auto_lirpa import Method, lirpa_margins
from .base import MarginBounds, Verifier


@final
@dataclass(frozen=True)
class AlphaCrown(Verifier):
    """CROWN with the lower slope of every unstable neuron optimised by gradient steps. This is done for the bounds of
    the margins; those before the ReLUs stay as CROWN finds them.

    Requires:
        auto_LiRPA, and a network that its installed version can bound.
    Returns:
        margins at least about as tight as CROWN's, at several times its cost.
    Sound:
        yes, up to rounding by less than `TOLERANCE`.
    Complete:
        no.
    Reference:
        Xu et al. 2021, "Fast and Complete: Enabling Complete Verification with Rapid and Massively Parallel Incomplete
        Verifiers", arXiv 2011.13824.

    Attributes:
        iterations: gradient steps; a budget in steps, not in seconds, so that results repeat.
    """

    description: ClassVar[str] = "CROWN with optimised slopes, through auto_LiRPA"

    iterations: int = 20

    def __post_init__(self) -> None:
        if self.iterations < 1:
            raise ValueError(f"alpha-CROWN needs at least 1 iteration, got {self.iterations}")

    def margins(self, graph: Graph, box: Box, labels: Tensor) -> MarginBounds:
        with torch.no_grad():
            bounds = crown_bounds(graph, box, tighten=True)
            sizes = magnitudes(graph, bounds)
        lower = lirpa_margins(graph, box, labels, Method.alpha_crown, iterations=self.iterations, bounds=bounds)
        return MarginBounds(lower, sizes)
