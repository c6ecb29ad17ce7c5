"""Branch and bound over the ReLUs that are undecided in one sample's box."""

import heapq
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, final

import torch
from torch import Tensor

from ..bounds import TOLERANCE, PiecewiseLinear
from .base import Reason
from .verdict import Cause

ROOT_STEPS, STEPS = 30, 20
"""Gradient steps of the slopes and multipliers of a bound, before the first branching and after each."""
SLOPE_RATE, MULTIPLIER_RATE = 0.2, 0.3
CANDIDATES = 40
"""ReLUs of a node that are tried out before one is split: many, since a split that gains little doubles the rest."""
ELEMENTS = 2**22
"""A batch of nodes has about this many coefficients."""
MOST_AT_ONCE = 64
_PENALTY = 1e4
"""What violating a split costs in the linear program of a leaf, per magnitude of the margin."""

TIME_OUT = "undecided in time"

FindCounterexample = Callable[[Tensor, float], Tensor | None]
"""Of inputs `(points, n)`, one whose class is another by more than a margin, if any."""
_CLEAR = 1e-6
"""Share of the scale by which a counterexample must be wrong to still be so as an input in float32."""


@final
@dataclass(frozen=True)
class Outcome:
    """How far a search has come.

    Attributes:
        lower: `(classes,)`, lower bounds of the margins that were asked for, infinity elsewhere.
        point: `(n,)`, a counterexample, if one was found.
        reason: why a search without counterexample has not proved all margins; None where it has.
    """

    lower: Tensor
    point: Tensor | None = None
    reason: Reason | None = None


class _Nodes(NamedTuple):
    """Some subproblems: of one margin each, with some ReLUs split.

    Attributes:
        margin: `(nodes,)`, the class k of `logit_y - logit_k`.
        sign: `(nodes, u)`: 1 for a ReLU that is on, -1 for one that is off, 0 for one that is not split.
        slope: `(nodes, u)` in [0, 1], of the lower bound of each ReLU.
        multiplier: `(nodes, u)`, at least 0, of the constraint that a split is.
    """

    margin: Tensor
    sign: Tensor
    slope: Tensor
    multiplier: Tensor

    def pick(self, index: Tensor) -> "_Nodes":
        return _Nodes(*(part[index] for part in self))


class _Bounds(NamedTuple):
    """Of some nodes.

    Attributes:
        value: `(nodes,)`, lower bounds.
        corner: `(nodes, n)`, coefficients of the inputs: the linear bound is least in the corner opposite to them.
        weight: `(nodes, u)`, coefficients on the output of each ReLU.
    """

    value: Tensor
    corner: Tensor
    weight: Tensor


class Search:
    """Is any margin of `problem` negative anywhere? Decided by splitting undecided ReLUs into on and off.

    Bounds are those of CROWN with optimised slopes, a split being a constraint whose multiplier is optimised as well
    (Wang et al. 2021, beta-CROWN, arXiv 2103.06624): whatever slopes in [0, 1] and multipliers >= 0 are reached, the
    bound holds. Where every ReLU is split the best multipliers come from a linear program; its result is not trusted,
    but put into the same bound.

    Args:
        problem: in float64.
        scale: what the rounding of its margins is relative to.
        find: confirms counterexamples.
        deadline: by `time.thread_time`, when `run` gives up.
    """

    def __init__(self, problem: PiecewiseLinear, scale: float, find: FindCounterexample, deadline: float) -> None:
        self._problem, self._scale, self._find, self._deadline = problem, scale, find, deadline
        self._on, self._off = problem.lower >= 0, problem.upper <= 0
        self._undecided = ~self._on & ~self._off
        span = torch.where(self._undecided, problem.upper - problem.lower, 1.0)
        self._chord = torch.where(self._undecided, problem.upper / span, self._on.double())
        self._gap = torch.where(self._undecided, -self._chord * problem.lower, 0.0)
        reach = torch.cat([problem.centre.abs() + problem.radius, problem.upper.clamp(min=0)])
        self._inputs = len(problem.centre)
        self._size = problem.weight.abs() @ reach + problem.constant.abs()
        width = problem.margins.shape[1]
        self._at_once = max(1, min(MOST_AT_ONCE, ELEMENTS // (2 * CANDIDATES * width)))

    def run(self, margins: Tensor) -> Outcome:
        """Search below the margins of these classes, `(asked,)`."""
        lower = self._problem.margins.new_full((len(self._problem.margins),), torch.inf)
        if not len(margins):
            return Outcome(lower)
        nodes = self._roots(margins)
        # A multiplier that is as large as what it is added to takes its ReLU out of the bound.
        with torch.no_grad():
            unit = (self._bounds(nodes).weight * self._chord).abs().mean(0).clamp(min=1e-6 * self._scale)
        waiting: list[tuple[float, int, _Nodes, Tensor]] = []
        pushed, steps = 0, ROOT_STEPS
        failure: Reason | None = None
        while True:
            nodes, bounds, closed = self._optimised(nodes, unit, steps)
            steps = STEPS
            if not bool(bounds.value.isfinite().all()):
                return Outcome(lower.fill_(-torch.inf), reason=Reason(Cause.failure, "a bound is not finite"))
            point = self._find(self._corners(bounds.corner), _CLEAR * self._scale)
            for index, value in enumerate(bounds.value.tolist()):
                if closed[index]:
                    _lower(lower, nodes.margin[index], value)
                    continue
                one = torch.tensor([index])
                heapq.heappush(waiting, (value, pushed, nodes.pick(one), bounds.weight[one]))
                pushed += 1
            while point is None and waiting and not self._late():
                taken = [heapq.heappop(waiting) for _ in range(min(self._at_once, len(waiting)))]
                inner = [entry for entry in taken if self._unsplit(entry[2]).any()]
                for _, _, leaf, _ in (entry for entry in taken if not self._unsplit(entry[2]).any()):
                    value, found, trouble = self._solved(leaf)
                    _lower(lower, leaf.margin[0], value)
                    point, failure = (found if point is None else point), trouble or failure
                if inner and point is None:
                    nodes = _Nodes(*(torch.cat(parts) for parts in zip(*(entry[2] for entry in inner), strict=True)))
                    nodes = self._branched(nodes, torch.cat([entry[3] for entry in inner]))
                    break
                for entry in inner:
                    heapq.heappush(waiting, entry)
            else:
                break
        for value, _, node, _ in waiting:
            _lower(lower, node.margin[0], self._unproved(value))
        if point is None and waiting:
            failure = Reason(Cause.time_out, f"{TIME_OUT}, after {pushed} subproblems")
        return Outcome(lower, point, None if point is not None else failure)

    def _roots(self, margins: Tensor) -> _Nodes:
        problem = self._problem
        shape = (len(margins), len(problem.constant))
        slope = (problem.upper > -problem.lower).to(problem.lower).expand(shape)
        return _Nodes(margins, slope.new_zeros(shape), slope.clone(), slope.new_zeros(shape))

    def _unsplit(self, nodes: _Nodes) -> Tensor:
        """`(nodes, u)`: ReLUs that can still be branched on."""
        return self._undecided & (nodes.sign == 0)

    def _bounds(self, nodes: _Nodes) -> _Bounds:
        problem = self._problem
        on, off = self._on | (nodes.sign > 0), self._off | (nodes.sign < 0)
        below = torch.where(on, 1.0, torch.where(off, 0.0, nodes.slope))
        above = torch.where(on, 1.0, torch.where(off, 0.0, self._chord))
        gap = torch.where(on | off, 0.0, self._gap)
        held = nodes.multiplier * nodes.sign
        rows, value = problem.margins[nodes.margin], problem.margin_constants[nodes.margin]
        weights = []
        for block in reversed(problem.blocks):
            first = self._inputs + block.start
            weight = rows[:, first:]
            plus, minus = weight.clamp(min=0), weight.clamp(max=0)
            read = plus * below[:, block] + minus * above[:, block] - held[:, block]
            value = value + (minus * gap[:, block]).sum(1) + read @ problem.constant[block]
            rows = rows[:, :first] + read @ problem.weight[block, :first]
            weights.append(weight)
        value = value + rows @ problem.centre - rows.abs() @ problem.radius
        weight = torch.cat(weights[::-1], 1) if weights else nodes.slope
        return _Bounds(value, rows, weight)

    def _closed(self, value: Tensor, nodes: _Nodes) -> Tensor:
        """`(nodes,)`: whether a bound is a proof; multipliers add to what rounding is relative to."""
        return value > TOLERANCE[value.dtype] * (self._scale + nodes.multiplier @ self._size)

    def _late(self) -> bool:
        return time.thread_time() > self._deadline

    def _unproved(self, value: float) -> float:
        """A bound that is no proof, no larger than what nobody takes for one."""
        return min(value, TOLERANCE[torch.float64] * self._scale)

    def _optimised(self, nodes: _Nodes, unit: Tensor, steps: int) -> tuple[_Nodes, _Bounds, Tensor]:
        """The best slopes and multipliers on the way of gradient ascent, their bounds, and which of them are proofs."""
        slope, share = nodes.slope.clone(), nodes.multiplier / unit
        best: tuple[_Nodes, _Bounds] | None = None
        optimizer = torch.optim.Adam(
            [{"params": [slope], "lr": SLOPE_RATE}, {"params": [share], "lr": MULTIPLIER_RATE}], maximize=True
        )
        for step in range(steps + 1):
            with torch.enable_grad():
                slope.requires_grad_(True)
                share.requires_grad_(True)
                bounds = self._bounds(nodes._replace(slope=slope, multiplier=share * unit))
                total = bounds.value.sum()
            found = _Bounds(*(part.detach() for part in bounds))
            here = nodes._replace(slope=slope.detach().clone(), multiplier=share.detach() * unit)
            best = (here, found) if best is None else _better(best, (here, found))
            closed = self._closed(best[1].value, best[0])
            if step == steps or bool(closed.all()) or not total.requires_grad or self._late():
                break
            slope.grad, share.grad = torch.autograd.grad(total, (slope, share))
            optimizer.step()
            with torch.no_grad():
                slope.clamp_(0, 1)
                share.clamp_(min=0)
            for group in optimizer.param_groups:
                group["lr"] *= 0.95
        assert best is not None
        return *best, closed

    @torch.no_grad()
    def _branched(self, nodes: _Nodes, weight: Tensor) -> _Nodes:
        """Two children of each node: of the ReLUs that loosen its bound most, the one whose children gain most is
        split."""
        loose = torch.where(self._unsplit(nodes), weight.abs() * self._gap, -1.0)
        score, candidate = loose.topk(min(CANDIDATES, loose.shape[1]), 1)
        count = candidate.shape[1]
        tried = _Nodes(*(part.repeat_interleave(2 * count, 0) for part in nodes))
        signs = weight.new_tensor([1.0, -1.0]).repeat(candidate.numel())
        where = candidate.repeat_interleave(2, 1).flatten()[:, None]
        tried = tried._replace(sign=tried.sign.scatter(1, where, signs[:, None]))
        # What a child gains beyond a proof is of no use.
        gain = self._bounds(tried).value.clamp(max=0).view(-1, count, 2).sum(2).masked_fill(score < 0, -torch.inf)
        split = candidate.gather(1, gain.argmax(1, keepdim=True))
        children = _Nodes(*(part.repeat_interleave(2, 0) for part in nodes))
        signs = weight.new_tensor([1.0, -1.0]).repeat(len(split))[:, None]
        return children._replace(sign=children.sign.scatter(1, split.repeat_interleave(2, 0), signs))

    def _corners(self, coefficients: Tensor) -> Tensor:
        """`(nodes, n)`: where a linear function of the inputs is least."""
        return self._problem.centre - self._problem.radius * coefficients.sign()

    @torch.no_grad()
    def _solved(self, leaf: _Nodes) -> tuple[float, Tensor | None, Reason | None]:
        """The bound of a node without ReLUs to split, a counterexample, or why it has neither.

        The linear program is over the inputs and one variable that relaxes all splits at a price, so that it has a
        solution even where the splits contradict each other; its multipliers then prove just that.
        """
        # Every worker imports this module, and hardly one comes here.
        from scipy.optimize import linprog

        problem, count = self._problem, self._inputs
        split = (leaf.sign[0] != 0).nonzero().squeeze(1)
        output, shift = problem.weight.new_zeros(len(problem.constant), count), torch.zeros_like(problem.constant)
        read, constant = torch.zeros_like(output), torch.zeros_like(shift)
        on = (self._on | (leaf.sign[0] > 0)).to(output)
        for block in problem.blocks:
            earlier = problem.weight[block, count : count + block.start]
            read[block] = problem.weight[block, :count] + earlier @ output[: block.start]
            constant[block] = problem.constant[block] + earlier @ shift[: block.start]
            output[block], shift[block] = read[block] * on[block, None], constant[block] * on[block]
        row = problem.margins[leaf.margin[0]]
        sign = leaf.sign[0, split]
        slack = read.new_ones(len(split), 1)
        box = torch.stack([problem.centre - problem.radius, problem.centre + problem.radius], 1)
        solution = linprog(
            torch.cat([row[:count] + row[count:] @ output, row.new_tensor([_PENALTY * self._scale])]).cpu().numpy(),
            A_ub=-torch.cat([sign[:, None] * read[split], slack], 1).cpu().numpy() if len(split) else None,
            b_ub=(sign * constant[split]).cpu().numpy() if len(split) else None,
            bounds=[*box.tolist(), (0, None)],
            method="highs",
            options={"time_limit": max(1e-3, self._deadline - time.thread_time())},
        )
        if solution.status == 1:
            return -torch.inf, None, Reason(Cause.time_out, f"{TIME_OUT}, in a linear program")
        if solution.status != 0:
            return -torch.inf, None, Reason(Cause.failure, f"linear program: {solution.message.splitlines()[0]}")
        multiplier = torch.zeros_like(leaf.multiplier)
        if len(split):
            multiplier[0, split] = torch.from_numpy(-solution.ineqlin.marginals).to(multiplier).clamp(min=0)
        leaf = leaf._replace(multiplier=multiplier)
        value = self._bounds(leaf).value
        if bool(self._closed(value, leaf).all()):
            return value.item(), None, None
        point = self._find(torch.from_numpy(solution.x[None, :count]).to(value), 0.0)
        close = Reason(Cause.rounding, f"a margin is within rounding of 0: {value.item():.2e}")
        return self._unproved(value.item()), point, None if point is not None else close


def _lower(lower: Tensor, margin: Tensor, value: float) -> None:
    lower[margin] = min(lower[margin].item(), value)


def _better(one: tuple[_Nodes, _Bounds], other: tuple[_Nodes, _Bounds]) -> tuple[_Nodes, _Bounds]:
    """Node by node the one with the larger bound."""
    rises = other[1].value > one[1].value

    def chosen(old: Tensor, new: Tensor) -> Tensor:
        return torch.where(rises.view(-1, *[1] * (old.dim() - 1)), new, old)

    return _Nodes(*map(chosen, one[0], other[0])), _Bounds(*map(chosen, one[1], other[1]))
