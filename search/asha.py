"""Early stopping under several objectives at once, on plain arrays. Free of Ray, stores and trials.

Asynchronous successive halving (Li et al. 2020, arXiv 1810.05934) with the multi-objective ranking of Schmucker et al.
(2021, arXiv 2106.12639): rank by non-dominated sorting, break ties within a front by spread.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import final

import numpy as np
from numpy.typing import NDArray

from ..results.pareto import non_dominated_ranks, order_by_rank_and_spread


class ParetoASHA(ABC):
    """Rungs at which trials are compared; a trial's second entry at a rung replaces its first.

    Args:
        rungs: number of rungs, the last being the end of training, where nothing is decided any more.
        eta: one in eta goes on, above 1.
    """

    def __init__(self, rungs: int, eta: float) -> None:
        self._eta = eta
        self._entries: list[dict[str, tuple[float, ...]]] = [{} for _ in range(rungs - 1)]

    @abstractmethod
    def enter(self, trial: str, rung: int, values: Sequence[float]) -> str:
        """Enter `trial` at `rung` and decide on it: `continue`, `stop` or `pause`.

        Args:
            trial: name of the trial.
            rung: 0-based, below the last.
            values: one number per objective, larger is better; NaN ranks last.
        """

    @abstractmethod
    def promoted(self, trial: str) -> None:
        """A paused trial goes on to the next rung."""

    @abstractmethod
    def next_promotion(self) -> str | None:
        """The paused trial that should go on next, if any."""

    def _ranked(self, rung: int) -> tuple[list[str], NDArray[np.float64]]:
        """Names and values at a rung, sorted by name: fronts and ties depend on who has reported, not on who was
        first."""
        names = sorted(self._entries[rung])
        return names, np.array([self._entries[rung][name] for name in names], dtype=np.float64)


@final
class StoppingASHA(ParetoASHA):
    """Whoever reports at a rung goes on if it is among the best 1/eta that have reported there, else it is stopped.

    - A newcomer that dominates every other entry always goes on.
    - A newcomer with at least n/eta entries on better fronts always stops, n counting the newcomer.
    - While a rung has no more than 2 eta entries, spread says little, and a newcomer's whole front goes on.
    """

    def enter(self, trial: str, rung: int, values: Sequence[float]) -> str:
        self._entries[rung][trial] = tuple(values)
        names, points = self._ranked(rung)
        newcomer = names.index(trial)
        if len(names) <= 2 * self._eta:
            ranks = non_dominated_ranks(points)
            goes_on = int((ranks < ranks[newcomer]).sum()) < len(names) / self._eta
        else:
            goes_on = newcomer in order_by_rank_and_spread(points, count=math.ceil(len(names) / self._eta))
        return "continue" if goes_on else "stop"

    def promoted(self, trial: str) -> None:
        raise ValueError(f"nobody pauses here, so nobody is promoted; got {trial!r}")

    def next_promotion(self) -> str | None:
        return None


@final
class PromotionASHA(ParetoASHA):
    """Every trial pauses at every rung; it is promoted once it is among the best floor(n/eta) of the n trials there.

    Nobody is judged by who happened to report before: a trial that pauses now may be promoted when more is known.
    Higher rungs come first, and within a rung the best.
    """

    def __init__(self, rungs: int, eta: float) -> None:
        super().__init__(rungs, eta)
        self._promoted: list[set[str]] = [set() for _ in self._entries]
        self._candidates: list[list[str] | None] = [None for _ in self._entries]

    def enter(self, trial: str, rung: int, values: Sequence[float]) -> str:
        self._entries[rung][trial] = tuple(values)
        self._candidates[rung] = None
        return "pause"

    def promoted(self, trial: str) -> None:
        rung = max(index for index, entries in enumerate(self._entries) if trial in entries)
        self._promoted[rung].add(trial)

    def next_promotion(self) -> str | None:
        for rung in reversed(range(len(self._entries))):
            for name in self._best(rung):
                if name not in self._promoted[rung]:
                    return name
        return None

    def _best(self, rung: int) -> list[str]:
        best = self._candidates[rung]
        if best is None:
            names, points = self._ranked(rung)
            count = math.floor(len(names) / self._eta)
            best = [names[index] for index in order_by_rank_and_spread(points, count=count)] if count else []
            self._candidates[rung] = best
        return best


SCHEDULERS: dict[str, type[ParetoASHA]] = {"stopping": StoppingASHA, "promotion": PromotionASHA}
