"""Early stopping under several objectives at once, on plain arrays. Free of Ray, stores and trials.

Asynchronous successive halving (Li et al. 2020, arXiv 1810.05934) with the multi-objective ranking of Schmucker et al.
(2021, arXiv 2106.12639): rank by non-dominated sorting, break ties within a front by spread.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Sequence
from itertools import islice
from typing import NamedTuple, final

import numpy as np
from numpy.typing import NDArray

from ..results.pareto import Spread, non_dominated_ranks, order_by_rank_and_spread

RANKED_AT_ONCE = 7
"""Bits of a rung's size that matter: above 2^7 entries, it is ranked when the size is a multiple of a power of two."""


def ranked_size(entries: int) -> int:
    """How many of a rung's entries are ranked: all, or the first so many where it is large."""
    return entries - entries % (1 << max(0, entries.bit_length() - RANKED_AT_ONCE))


class ParetoASHA(ABC):
    """Rungs at which trials are compared; a trial's second entry at a rung replaces its first.

    Args:
        rungs: number of rungs, the last being the end of training, where nothing is decided any more.
        eta: one in eta goes on, above 1.
        spread: what breaks ties within a front; by replayed searches neither is better than the other
            (benchmarks/search_efficiency.py).
    """

    def __init__(self, rungs: int, eta: float, spread: Spread = "epsilon-net") -> None:
        self._eta, self._spread = eta, spread
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
    def leave(self, trial: str) -> None:
        """A paused trial waits no longer: it is promoted, or stopped for good. It still counts where it is."""

    @abstractmethod
    def next_promotion(self, *, exact: bool = False) -> str | None:
        """The paused trial that should go on next, if any.

        Args:
            exact: count every entry, even where a rung is so large that the latest ones would wait for the next
                ranking; for when there is nothing else to run.
        """

    def _ranked(self, rung: int, count: int | None = None) -> tuple[list[str], NDArray[np.float64]]:
        """Names and values of the first `count` entries at a rung (default: all), sorted by name: fronts and ties
        depend on who has reported, not on who was first."""
        names = sorted(islice(self._entries[rung], count))
        return names, np.array([self._entries[rung][name] for name in names], dtype=np.float64)


@final
class StoppingASHA(ParetoASHA):
    """Whoever reports at a rung goes on if it is among the best 1/eta that have reported there, else it is stopped.

    - A newcomer that dominates every other entry always goes on.
    - A newcomer with at least n/eta entries on better fronts always stops, n counting the newcomer.
    - While a rung has no more than 2 eta entries, spread says little, and a newcomer's whole front goes on.
    - From 128 entries on, those that a newcomer is compared with are ranked anew when they have grown by about 1 %.
    """

    def __init__(self, rungs: int, eta: float, spread: Spread = "epsilon-net") -> None:
        super().__init__(rungs, eta, spread)
        self._others = [_Ranked.of([], np.empty((0, 1))) for _ in self._entries]

    def enter(self, trial: str, rung: int, values: Sequence[float]) -> str:
        newcomer = tuple(map(float, values))
        again = self._entries[rung].pop(trial, None) is not None
        count = ranked_size(len(self._entries[rung]))
        if again or len(self._others[rung].names) != count:
            self._others[rung] = _Ranked.of(*self._ranked(rung, count)) if count else _Ranked.of([], np.empty((0, 1)))
        self._entries[rung][trial] = newcomer
        return "continue" if self._goes_on(trial, newcomer, self._others[rung]) else "stop"

    def _goes_on(self, trial: str, newcomer: tuple[float, ...], others: _Ranked) -> bool:
        total = len(others.names) + 1
        ahead, beside = others.around(newcomer)
        if total <= 2 * self._eta:
            return ahead < total / self._eta
        places = math.ceil(total / self._eta) - ahead
        if places <= 0 or len(beside) < places:
            return places > 0
        # Sorted by name, as whole rungs are: ties depend on who has reported, not on who was first.
        front = sorted(
            [(trial, newcomer), *((others.names[index], tuple(others.columns[:, index])) for index in beside)]
        )
        chosen = order_by_rank_and_spread([point for _, point in front], places, self._spread)
        return [name for name, _ in front].index(trial) in chosen

    def leave(self, trial: str) -> None:
        raise ValueError(f"nobody pauses here; got {trial!r}")

    def next_promotion(self, *, exact: bool = False) -> str | None:
        return None


@final
class PromotionASHA(ParetoASHA):
    """Every trial pauses at every rung; it is promoted once it is among the best floor(n/eta) of the n trials there.

    Nobody is judged by who happened to report before: a trial that pauses now may be promoted when more is known.
    Higher rungs come first, and within a rung the best. From 128 entries on a rung is ranked anew each time it has
    grown by about 1 %, not at every report: which entries a ranking counts depends on their number alone.
    """

    def __init__(self, rungs: int, eta: float, spread: Spread = "epsilon-net") -> None:
        super().__init__(rungs, eta, spread)
        self._left: list[set[str]] = [set() for _ in self._entries]
        self._rankings = [_Ranking(0, deque()) for _ in self._entries]

    def enter(self, trial: str, rung: int, values: Sequence[float]) -> str:
        self._entries[rung][trial] = tuple(values)
        return "pause"

    def leave(self, trial: str) -> None:
        rung = max(index for index, entries in enumerate(self._entries) if trial in entries)
        self._left[rung].add(trial)

    def next_promotion(self, *, exact: bool = False) -> str | None:
        for rung in reversed(range(len(self._entries))):
            best = self._best(rung, exact)
            while best and best[0] in self._left[rung]:
                best.popleft()
            if best:
                return best[0]
        return None

    def _best(self, rung: int, exact: bool) -> deque[str]:
        """The best 1/eta at a rung, best first, less those at the head who have left."""
        count = len(self._entries[rung])
        if not exact:
            count = ranked_size(count)
        if self._rankings[rung].size != count:
            names, points = self._ranked(rung, count)
            wanted = math.floor(count / self._eta)
            left = np.array([name in self._left[rung] for name in names], dtype=bool)
            order = order_by_rank_and_spread(points, wanted, self._spread, left) if wanted else ()
            self._rankings[rung] = _Ranking(count, deque(names[index] for index in order))
        return self._rankings[rung].best


class _Ranked(NamedTuple):
    """Entries of a rung with their fronts: NaN is behind all that has a rank.

    Attributes:
        columns: ``(objectives, entries)``; a newcomer is compared with all at once, which is faster by columns.
    """

    names: Sequence[str]
    columns: NDArray[np.float64]
    ranks: NDArray[np.int64]

    @classmethod
    def of(cls, names: Sequence[str], points: NDArray[np.float64]) -> _Ranked:
        unknown = np.isnan(points).any(axis=1)
        return cls(names, np.ascontiguousarray(points.T), np.where(unknown, len(points), non_dominated_ranks(points)))

    def around(self, newcomer: tuple[float, ...]) -> tuple[int, NDArray[np.int64]]:
        """How many are on better fronts than a newcomer, and who is on the same, if it came in.

        Its rank is one more than that of the worst that dominates it. Whom it dominates falls behind it, and takes
        along only those whom it dominates too; all others stay where they are.
        """
        if not len(self.names):
            return 0, np.empty(0, dtype=np.int64)
        if any(map(math.isnan, newcomer)):
            known = self.ranks < len(self.names)
            return int(known.sum()), np.flatnonzero(~known)
        point = np.array(newcomer)[:, None]
        better, worse = (self.columns >= point).all(axis=0), (self.columns <= point).all(axis=0)
        rank = int(self.ranks[better & ~worse].max(initial=-1)) + 1
        left = ~(worse & ~better)
        beside = left & (self.ranks == rank) & (self.ranks < len(self.names))
        return int((left & (self.ranks < rank)).sum()), np.flatnonzero(beside)


class _Ranking(NamedTuple):
    size: int
    best: deque[str]


SCHEDULERS: dict[str, type[ParetoASHA]] = {"stopping": StoppingASHA, "promotion": PromotionASHA}
