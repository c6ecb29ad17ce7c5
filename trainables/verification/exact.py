"""The exact stage: branch and bound."""

import time
from dataclasses import dataclass
from typing import ClassVar, final

import torch
from torch import Tensor

from ..bounds import (
    Box,
    Graph,
    Region,
    TooManyVariables,
    backward_margins,
    crown_bounds,
    interval_bounds,
    magnitudes,
    reduce_margins,
)
from .base import MarginBounds, Reason, Unsupported, Verifier, proved
from .branching import Search
from .verdict import Cause

MOST_UNDECIDED = 6000
"""ReLUs whose coefficients on each other and on the inputs are still held in memory, 300 MB and more."""


@final
@dataclass(frozen=True)
class Exact(Verifier):
    """Branch and bound: undecided ReLUs are split into on and off until every part is proved or has a counterexample.

    What is stable over a box, by CROWN bounds, is eliminated first; maxima become ReLUs.

    Requires:
        boxes, not balls; any network that `trace` accepts, with at most `MOST_UNDECIDED` undecided ReLUs per sample.
    Returns:
        bounds of all margins and a counterexample where there is one, or why it gave up.
    Sound:
        yes, up to rounding by less than `TOLERANCE` in float64; no solver is trusted.
    Complete:
        yes, given the time, up to margins within rounding of 0.
    Reference:
        Bunel et al. 2020, "Branch and Bound for Piecewise Linear Neural Network Verification", arXiv 1909.06588;
        Wang et al. 2021, "Beta-CROWN", arXiv 2103.06624.

    Attributes:
        seconds: of processor time per sample.
    """

    description: ClassVar[str] = "branch and bound on undecided ReLUs; proves or falsifies, seconds per sample"
    largest_batch: ClassVar[int | None] = 1
    in_double: ClassVar[bool] = True

    seconds: float = 30.0

    def __post_init__(self) -> None:
        if not self.seconds > 0:
            raise ValueError(f"the exact stage needs more than 0 seconds per sample, got {self.seconds}")

    @torch.no_grad()
    def margins(self, graph: Graph, region: Region, labels: Tensor) -> MarginBounds:
        if not isinstance(region, Box):
            raise Unsupported("the exact stage is for boxes (norm linf): its linear programs know no balls")
        lower, scale, points, reasons = [], [], [], {}
        for sample, label in enumerate(labels.tolist()):
            one = region.pick(slice(sample, sample + 1))
            found, size, point, reason = self._sample(graph, one, label)
            lower.append(found)
            scale.append(size)
            points.append(torch.full_like(one.centre, torch.nan) if point is None else point.view_as(one.centre))
            if reason is not None:
                reasons[sample] = reason
        return MarginBounds(torch.cat(lower), torch.cat(scale), torch.cat(points), reasons)

    def _sample(self, graph: Graph, box: Box, label: int) -> tuple[Tensor, Tensor, Tensor | None, Reason | None]:
        """Margins `(1, classes)`, magnitude `(1,)`, a counterexample, or why there is neither that nor a proof."""
        deadline = time.thread_time() + self.seconds
        bounds = crown_bounds(graph, box, tighten=True)
        labels = torch.tensor([label], device=box.centre.device)
        lower, scale = backward_margins(graph, box, bounds, labels), magnitudes(graph, bounds)
        open_margins = (~proved(lower, scale, labels)[0]).nonzero().squeeze(1)
        if not len(open_margins):
            return lower, scale, None, None
        if not bool(lower.isfinite().all()):
            return lower, scale, None, Reason(Cause.failure, "a bound is not finite")
        try:
            problem = reduce_margins(graph, box, bounds, label, MOST_UNDECIDED)
        except TooManyVariables as found:
            text = f"{found.variables} undecided ReLUs, at most {MOST_UNDECIDED} can be branched on"
            return lower, scale, None, Reason(Cause.budget, text)

        def find(points: Tensor, least: float) -> Tensor | None:
            """The point whose class is another by the most, if by more than `least`."""
            inputs = points.view(-1, *box.centre.shape[1:])
            logits = interval_bounds(graph, Box(inputs, torch.zeros_like(inputs)))[-1].centre
            others = logits.index_fill(1, labels, -torch.inf).amax(1) - logits[:, label]
            worst = int(others.argmax())
            differs = others[worst] > least or (least == 0 and int(logits[worst].argmax()) != label)
            return points[worst] if bool(differs) else None

        outcome = Search(problem, scale.item(), find, deadline).run(open_margins)
        lower[0, open_margins] = torch.maximum(lower[0, open_margins], outcome.lower[open_margins])
        return lower, scale, outcome.point, outcome.reason
