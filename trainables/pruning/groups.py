"""Weights that stay or go together."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from .base import Distribution
from .ranking import Global, Ranking

HALVINGS = 8
"""How often a budget is halved before groups are added one by one: a distribution sorts the whole network each time."""


def group_means(scores: Tensor, index: Tensor) -> Tensor:
    """What each group is worth: the mean over those of its weights that may be kept, -inf without any.

    Args:
        scores: of weights; -inf where one cannot be kept.
        index: of the same shape, the number of each weight's group, from 0 without gaps.

    Returns:
        `(groups,)`, float64.
    """
    sizes = group_sizes(scores, index)
    sums = torch.bincount(
        index.flatten(), scores.masked_fill(scores == -torch.inf, 0.0).flatten().double(), minlength=len(sizes)
    )
    return torch.where(sizes > 0, sums / sizes.clamp(min=1), -torch.inf)


def group_sizes(scores: Tensor, index: Tensor) -> Tensor:
    """`(groups,)`: how many weights of each group may be kept."""
    return torch.bincount(
        index.flatten(), (scores != -torch.inf).flatten().double(), minlength=int(index.max()) + 1
    ).long()


def group_mask(chosen: Tensor, index: Tensor) -> Tensor:
    """The weights, of the shape of `index`, whose groups are chosen; `chosen` is bool `(groups,)`."""
    return chosen[index]


class _Ranking(NamedTuple):
    """The groups of one layer: those that may be kept, best first, and how many weights they are up to each."""

    order: Tensor
    weights: list[int]
    total: int

    @classmethod
    def of(cls, means: Tensor, sizes: Tensor) -> _Ranking:
        order = torch.sort(means, descending=True, stable=True).indices[: int((sizes > 0).sum())]
        return cls(order, torch.cumsum(sizes[order], 0).tolist(), len(means))

    def best(self, count: int) -> Tensor:
        chosen = torch.zeros(self.total, dtype=torch.bool)
        chosen[self.order[:count]] = True
        return chosen


def choose_groups(
    scores: Mapping[str, Tensor],
    index: Mapping[str, Tensor],
    kept: int,
    distribution: Distribution,
    measure: Callable[[Mapping[str, Tensor]], int],
    *,
    least: int = 0,
) -> dict[str, Tensor]:
    """The groups that stay, per layer bool `(groups,)`: with the next best of any layer, over `kept` weights would.

    A group's worth is spread over its weights, the distribution gives each layer a budget, and the layer keeps its
    best groups as far as that goes. The budget that is handed out is not `kept` but the largest with which `measure`
    comes to no more: it makes good what rounding to whole groups loses, or what groups take along. It is found by
    halving; the last of it, below 1/256 of the weights, goes to the layers group by group in proportion to what they
    have.

    Args:
        measure: how many weights are left if only these groups stay; it must not fall when one is added.
        least: groups that every layer keeps.

    Raises:
        ValueError: even the fewest groups leave more than `kept`.
    """
    means = {name: group_means(values, index[name]) for name, values in scores.items()}
    ranked = {name: _Ranking.of(means[name], group_sizes(values, index[name])) for name, values in scores.items()}
    worth = {
        name: group_mask(means[name], index[name]).masked_fill(values == -torch.inf, -torch.inf)
        for name, values in scores.items()
    }

    if isinstance(distribution, Ranking):
        # Once, not for every budget that is tried.
        worth = {name: distribution.comparable(values) for name, values in worth.items()}
        distribution = Global()

    def chosen(counts: Mapping[str, int]) -> dict[str, Tensor]:
        return {name: ranking.best(counts[name]) for name, ranking in ranked.items()}

    def whole(budget: int) -> tuple[dict[str, int], dict[str, int]]:
        weights = distribution.allocate(worth, budget)
        counts = {name: max(least, bisect_right(r.weights, weights[name])) for name, r in ranked.items()}
        return weights, counts

    low, high = 0, sum(ranking.weights[-1] for ranking in ranked.values() if ranking.weights)
    weights, counts = whole(low)
    if measure(chosen(counts)) > kept:
        raise ValueError(
            f"the pattern leaves at least {measure(chosen(counts))} weights, more than the {kept} asked for"
        )
    for _ in range(HALVINGS):
        middle = (low + high) // 2
        tried = whole(middle)
        if measure(chosen(tried[1])) <= kept:
            low, (weights, counts) = middle, tried
        else:
            high = middle
    further = sorted(
        (ranking.weights[place] / max(weights[name], 0.5), position, name)
        for name, ranking in ranked.items()
        for position, place in enumerate(range(counts[name], len(ranking.weights)))
    )

    while further:
        steps = bisect_right(
            range(1, len(further) + 1), kept, key=lambda n: measure(chosen(_more(counts, further[:n])))
        )
        counts = _more(counts, further[:steps])
        # The next best of a layer does not fit in; that of another, with smaller groups, may.
        full = {name for _, _, name in further[steps : steps + 1]}
        further = [step for step in further[steps:] if step[2] not in full]
    return chosen(counts)


def _more(counts: Mapping[str, int], steps: Iterable[tuple[float, int, str]]) -> dict[str, int]:
    """One group more for the layer of each step."""
    more = dict(counts)
    for _, _, name in steps:
        more[name] += 1
    return more
