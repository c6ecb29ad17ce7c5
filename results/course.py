"""How the trials of a study went, one after the other: what its limits and its pace are told from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from .fold import Fold
from .pieces import Positions
from .record import OVER, STATES

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Course:
    """Trials that are over, in the order in which they came to their end, and what all trials cost.

    Attributes:
        objectives: of those trials ``(over, objectives)``, NaN where a trial was not completed or has no value.
        over_since: how many of them ended since the moment that was asked about.
        worse: objectives of the reports that were worse than all before in an objective that is minimised.
        ended_before: how many trials had ended before each of these reports came.
        compute_seconds, compute_seconds_since: of training and verification, of all trials.
    """

    objectives: Floats
    over_since: int
    worse: Floats
    ended_before: Positions
    compute_seconds: float
    compute_seconds_since: float


def course_of(fold: Fold, objectives: Sequence[str], since: float) -> Course:
    """The course of the trials of a fold."""
    ended = np.flatnonzero(np.isin(fold.state, [STATES.index(state) for state in OVER]))
    ended = ended[np.argsort(fold.stated[ended])]
    values = np.full((len(ended), len(objectives)), np.nan)
    completed = fold.state[ended] == STATES.index("completed")
    values[completed] = floats(fold.rows(ended[completed], objectives))
    time = fold.events.numbers("time")
    worse = fold.worse(objectives)
    spent = _cost(fold, fold.measured)
    return Course(
        objectives=values,
        over_since=int((time[fold.stated[ended]] >= since).sum()),
        worse=floats(fold.events.take(objectives, worse)),
        ended_before=np.searchsorted(fold.stated[ended], worse),
        compute_seconds=spent,
        compute_seconds_since=spent - _cost(fold, fold.last_measured(time < since)),
    )


def floats(table: pa.Table) -> Floats:
    """Columns of numbers as an array ``(rows, columns)``, NaN for null."""
    columns = [pc.fill_null(column.cast(pa.float64(), safe=False), np.nan).to_numpy() for column in table.columns]
    return np.column_stack(columns)


def _cost(fold: Fold, reports: Positions) -> float:
    """Seconds up to a report of each trial, in all."""
    known = reports[reports >= 0]
    return sum(float(np.nansum(fold.events.numbers(name)[known])) for name in ("train_seconds", "verify_seconds"))
