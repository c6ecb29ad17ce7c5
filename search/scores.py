"""What a report is worth: to the sampler at its end, to the scheduler at a rung."""

from __future__ import annotations

import math
from collections.abc import Sequence

from ..results import Record
from ..results.pareto import orient
from ..results.record import DIRECTIONS

RUNG_COLUMNS = {
    # Early in the ramp the verified accuracy at the target epsilon says nothing of the end, or the wrong thing; that at
    # the epsilon of the moment does, and a rung is the same position on the ramp for all (benchmarks/rung_scores.py).
    "verified_accuracy": "verified_ramp",
    # A trial is judged by the sparsity it is meant to have: schedules differ in when they get there.
    "sparsity": "target_sparsity",
}


def objective_values(record: Record, objectives: Sequence[str]) -> list[float]:
    """The objectives of a report as they are, one number each; NaN where it has none."""
    values = [getattr(record, name) for name in objectives]
    return [math.nan if value is None else float(value) for value in values]


def rung_values(record: Record, objectives: Sequence[str]) -> list[float]:
    """What trials are compared by at a rung, larger being better."""
    columns = [RUNG_COLUMNS.get(name, name) for name in objectives]
    oriented = orient([objective_values(record, columns)], [DIRECTIONS[name] for name in objectives])
    return [float(value) for value in oriented[0]]


def at_target(record: Record) -> bool:
    """Whether a trial has reached its target sparsity; before, comparing it would flatter it."""
    assert record.sparsity is not None
    assert record.target_sparsity is not None
    assert record.total_weights is not None
    return record.sparsity >= record.target_sparsity - 1.0 / record.total_weights
