"""CROWN bounds of margins with optimised slopes (alpha-CROWN, Xu et al. 2021, arXiv 2011.13824)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .graph import Graph
from .linear import backward_margins, lower_bounds, relax_all, rows_at_once
from .region import Region
from .relaxation import Bounds, Relaxation, ReLURelaxation, SlopedReLU

RATE, DECAY = 0.1, 0.98
"""Of Adam, and of its rate from step to step."""
_GRADIENT_SHARE = 8
"""A row takes about so many times the memory when its gradient is wanted."""


def optimised_margins(
    graph: Graph, region: Region, bounds: Sequence[Bounds], labels: Tensor, enough: Tensor, *, iterations: int
) -> Tensor:
    """Lower bounds `(batch, classes)` of all margins, each by lower slopes of its own, which gradient steps optimise.

    The bounds before ReLUs stay as they are.

    Args:
        bounds: of the input of each nonlinear layer.
        enough: `(batch,)`, margins whose CROWN bound is above it keep that, and others are done once they are.
        iterations: gradient steps at most.
    """
    with torch.no_grad():
        lower = backward_margins(graph, region, bounds, labels)
        relaxations = relax_all(graph, bounds)
    wanted = (lower <= enough[:, None]).scatter(1, labels[:, None], False)
    owners, others = wanted.nonzero(as_tuple=True)
    size = max(1, rows_at_once(graph) // _GRADIENT_SHARE)
    for owner, other in zip(owners.split(size), others.split(size), strict=True):
        found = _optimised(graph, region, relaxations, labels[owner], other, owner, enough[owner], iterations)
        lower[owner, other] = torch.fmax(lower[owner, other], found)
    return lower


def _optimised(
    graph: Graph,
    region: Region,
    relaxations: dict[int, Relaxation],
    label: Tensor,
    other: Tensor,
    owner: Tensor,
    enough: Tensor,
    iterations: int,
) -> Tensor:
    """Of one margin per row, `logit_label - logit_other` over the region of its owner."""
    weight, bias = graph.last_linear.weight.detach(), graph.last_linear.bias
    rows = weight[label] - weight[other]
    start = torch.zeros_like(rows[:, 0]) if bias is None else (bias[label] - bias[other]).detach()
    chosen, lows, undecided = dict(relaxations), [], []
    for index, relaxation in relaxations.items():
        if isinstance(relaxation, ReLURelaxation):
            middle, slope, depth = (values[owner] for values in relaxation)
            # Begins where CROWN is. A ReLU that is decided has one slope, and it is this one.
            low = (middle > 0).to(slope.dtype).requires_grad_()
            chosen[index] = SlopedReLU(low, slope, depth)
            lows.append(low)
            undecided.append((slope > 0) & (depth > 0))
    best, done = torch.full_like(start, -torch.inf), torch.zeros_like(start, dtype=torch.bool)
    if not lows:
        return best
    optimizer = torch.optim.Adam(lows, RATE)
    schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, DECAY)
    for step in range(iterations + 1):
        with torch.set_grad_enabled(step < iterations):
            value = lower_bounds(graph, region, chosen, graph.features, rows, start, owner)
            total = value.sum()
        # What is done stays as it is, whatever else is in the batch.
        best = torch.where(done, best, torch.fmax(best, value.detach()))
        done = best > enough
        if step == iterations or bool(done.all()):
            break
        gradients = torch.autograd.grad(total, lows)
        with torch.no_grad():
            for low, gradient, open_ in zip(lows, gradients, undecided, strict=True):
                low.grad = -gradient * open_
            optimizer.step()
            schedule.step()
            for low in lows:
                low.clamp_(0, 1)
    return best
