"""Early stopping under several objectives at once, on plain arrays. Free of Ray, stores and trials.

Asynchronous successive halving (Li et al. 2020, arXiv 1810.05934) with the multi-objective ranking of Schmucker et al.
(2021, arXiv 2106.12639): rank by non-dominated sorting, break ties within a front by spread.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from ..results.pareto import non_dominated_ranks, order_by_rank_and_spread


class ParetoASHA:
    """The stopping type: whoever reports at a rung goes on if it is among the best 1/eta that have reported there.

    - A newcomer that dominates every other entry always goes on.
    - A newcomer with at least n/eta entries on better fronts always stops, n counting the newcomer.
    - While a rung has no more than 2 eta entries, spread says little, and a newcomer's whole front goes on.
    - The last rung stops nobody.

    Args:
        rungs: number of rungs, the last being the end of training.
        eta: one in eta goes on, above 1.
    """

    def __init__(self, rungs: int, eta: float) -> None:
        self._eta = eta
        self._entries: list[dict[str, tuple[float, ...]]] = [{} for _ in range(rungs)]

    def goes_on(self, trial: str, rung: int, values: Sequence[float]) -> bool:
        """Enter `trial` at `rung` and decide on it. A trial's second entry at a rung replaces its first.

        Args:
            trial: name of the trial.
            rung: 0-based.
            values: one number per objective, larger is better; NaN ranks last.
        """
        entries = self._entries[rung]
        entries[trial] = tuple(values)
        if rung == len(self._entries) - 1:
            return True
        # Sorted, so that fronts and ties depend on who has reported and not on who did first.
        names = sorted(entries)
        points = np.array([entries[name] for name in names], dtype=np.float64)
        newcomer = names.index(trial)
        if len(names) <= 2 * self._eta:
            ranks = non_dominated_ranks(points)
            return int((ranks < ranks[newcomer]).sum()) < len(names) / self._eta
        return newcomer in order_by_rank_and_spread(points, count=math.ceil(len(names) / self._eta))
