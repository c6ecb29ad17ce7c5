"""How much of a study's limits is used up. Free of Ray, stores and trials."""

from __future__ import annotations

import math
import shlex
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple, final

import numpy as np

from ..results.pareto import Floats, hypervolume, orient
from ..results.record import DIRECTIONS
from ..results.study import worst_value
from ..spaces import Limits

UNITS = {
    "trials": "trials over",
    "wall_seconds": "seconds of this session",
    "compute_seconds": "seconds of training and verification",
    "stagnation": "trials over since the hypervolume last grew",
}

_BLOCK = 1_024
"""Trials that are compared with a front at once."""


class Use(NamedTuple):
    """How much of one limit is used up, in the unit that its name tells: seconds, or trials for stagnation."""

    limit: str
    used: float
    allowed: float

    @property
    def reached(self) -> bool:
        return self.used >= self.allowed

    @property
    def left(self) -> float:
        return max(0.0, self.allowed - self.used)

    def __str__(self) -> str:
        return f"{self.used:,.5g} of {self.allowed:,.5g} {UNITS[self.limit]}"

    @property
    def story(self) -> str:
        """That the limit is reached, in words."""
        return f"limits.{self.limit} is reached: {self}"

    def remedy(self, uri: str) -> str:
        """The command that lets the study at `uri` go on: every session has its own wall time, other limits are to be
        raised."""
        again = f"sparsevlr resume {shlex.quote(uri)}"
        higher = math.ceil(2 * max(self.used, self.allowed))
        return again if self.limit == "wall_seconds" else f"{again} --set limits.{self.limit}={higher}"


class End(NamedTuple):
    """What ends a study first at its present pace, and in how many seconds."""

    limit: str
    seconds: float


def first_end(uses: Iterable[Use], gained: Mapping[str, float], seconds: float) -> End | None:
    """The limit that is reached first, if all go on as in the last `seconds`, in which so much was `gained` of each;
    None while nothing moves."""
    ends = [End(use.limit, use.left / gained[use.limit] * seconds) for use in uses if gained.get(use.limit, 0.0) > 0]
    return min(ends, key=lambda end: end.seconds, default=None)


def uses(limits: Limits, **used: float) -> list[Use]:
    """The use of each limit that is set, given what is used up of all, by name."""
    return [
        Use(name, amount, float(allowed))
        for name, amount in used.items()
        if (allowed := getattr(limits, name)) is not None
    ]


@final
class Growth:
    """The front of the completed trials, and how long its hypervolume has not grown.

    The reference of the hypervolume moves while a study grows, where an objective is minimised. So the front of today
    and that of the last growth are both measured from today's reference: a new worst value is no growth.

    Args:
        objectives: names of record columns.
        tolerance: relative growth that is none yet.

    Attributes:
        stagnation: trials that have come to their end since the hypervolume last grew.
    """

    def __init__(self, objectives: Sequence[str], tolerance: float) -> None:
        self._objectives, self._tolerance = tuple(objectives), tolerance
        self._directions = [DIRECTIONS[name] for name in objectives]
        self._worst = [worst_value(name, np.empty(0)) for name in objectives]
        self._front: Floats = np.empty((0, len(self._objectives)))
        self._at_growth = self._front
        self.stagnation = 0

    @property
    def hypervolume(self) -> float:
        return self._volume(self._front)

    def measured(self, values: Sequence[float]) -> None:
        """A report of any trial: its objectives, NaN where it has none."""
        known = zip(self._objectives, self._worst, values, strict=True)
        self._worst = [worst_value(name, np.array([worst, value])) for name, worst, value in known]

    def ended(self, values: Sequence[float] | None) -> None:
        """A trial has come to its end: its objectives, None where it was not completed."""
        self.stagnation += 1
        if values is None:
            return
        point = orient([values], self._directions)[0]
        if not np.isfinite(point).all() or (self._front >= point).all(axis=1).any():
            return
        self._front = np.vstack([self._front[~(self._front <= point).all(axis=1)], point])
        if self.hypervolume > self._volume(self._at_growth) * (1 + self._tolerance):
            self._at_growth, self.stagnation = self._front, 0

    def ended_in_turn(self, values: Floats) -> None:
        """Many trials, one after the other ``(trials, objectives)``: as `ended` of each, NaN in place of None."""
        for start in range(0, len(values), _BLOCK):
            points = orient(values[start : start + _BLOCK], self._directions)
            known = np.flatnonzero(np.isfinite(points).all(axis=1))
            ahead = np.ones((len(known), len(self._front)), dtype=bool)
            for best, column in zip(self._front.T, points[known].T, strict=True):
                ahead &= best >= column[:, None]
            before = -1
            for number in known[~ahead.any(axis=1)].tolist():
                self.stagnation += number - before - 1
                self.ended(values[start + number].tolist())
                before = number
            self.stagnation += len(points) - before - 1

    def _volume(self, front: Floats) -> float:
        return hypervolume(front, orient([self._worst], self._directions)[0])
