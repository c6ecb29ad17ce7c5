"""What counts as growth, and which limit comes first."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparsevlr.results.pareto import front_mask, hypervolume, orient
from sparsevlr.search.limits import Growth, Use, first_end, uses
from sparsevlr.spaces import Limits, SpecError

BOTH_MAXIMISED = ("verified_accuracy", "sparsity")


def ended(growth: Growth, *values: float) -> int:
    growth.measured(values)
    growth.ended(values)
    return growth.stagnation


@given(st.lists(st.tuples(st.floats(0, 1), st.integers(1, 1000)), min_size=1, max_size=20))
def test_the_hypervolume_is_that_of_all_completed_trials(trials: list[tuple[float, int]]) -> None:
    growth = Growth(("verified_accuracy", "macs"), 0.001)
    for trial in trials:
        ended(growth, *trial)
    directions = ["max", "min"]
    corner = orient([[0.0, max(macs for _, macs in trials)]], directions)[0]
    assert growth.hypervolume == pytest.approx(hypervolume(orient(trials, directions), corner))


def test_only_growth_beyond_the_tolerance_starts_the_count_anew() -> None:
    growth = Growth(BOTH_MAXIMISED, 0.1)
    assert ended(growth, 0.5, 0.5) == 0
    assert ended(growth, 0.4, 0.4) == 1
    growth.ended(None)
    assert growth.stagnation == 2
    assert ended(growth, 0.5, 0.54) == 3
    # Little by little counts as well: growth is measured from where the count began.
    assert ended(growth, 0.5, 0.56) == 0


def test_a_network_that_is_worse_than_all_before_is_no_growth() -> None:
    growth = Growth(("verified_accuracy", "macs"), 0.001)
    growth.measured([0.1, 1000.0])
    assert ended(growth, 0.5, 500.0) == 0
    before = growth.hypervolume
    growth.measured([0.1, 9000.0])
    assert growth.hypervolume > before
    assert ended(growth, 0.4, 600.0) == 1
    assert ended(growth, 0.6, 400.0) == 0


@given(
    st.lists(st.sampled_from([[math.nan, math.nan], [0.5, 5.0], [0.6, 5.0], [0.5, 4.0], [0.9, 9.0], [0.1, 1.0]])),
    st.sampled_from([0.0, 0.3]),
)
def test_many_in_turn_are_as_one_after_the_other(values: list[list[float]], tolerance: float) -> None:
    one, many = (Growth(("verified_accuracy", "macs"), tolerance) for _ in range(2))
    for growth in (one, many):
        growth.measured([0.0, 10.0])
    for value in values:
        one.ended(None if math.isnan(value[0]) else value)
    many.ended_in_turn(np.array(values).reshape(-1, 2))
    assert (many.stagnation, many.hypervolume) == (one.stagnation, one.hypervolume)


def test_without_figures_nothing_grows() -> None:
    growth = Growth(BOTH_MAXIMISED, 0.0)
    assert ended(growth, math.nan, 0.9) == 1
    assert ended(growth, 0.0, 0.9) == 2
    assert growth.hypervolume == 0.0


def test_many_trials_cost_little_each() -> None:
    growth = Growth(BOTH_MAXIMISED, 0.001)
    rng = np.random.default_rng(0)
    for point in rng.uniform(0, 0.7, (5000, 2)):
        ended(growth, *point)
    assert front_mask(growth._front).all()
    assert len(growth._front) < 100


def test_what_comes_first_ends_the_study() -> None:
    used = [Use("trials", 4, 10), Use("compute_seconds", 80.0, 100.0), Use("stagnation", 1, 9)]
    assert first_end(used, {"trials": 2, "compute_seconds": 40.0, "stagnation": 2}, 10.0) == ("compute_seconds", 5.0)
    assert first_end(used, {"trials": 2}, 10.0) == ("trials", 30.0)
    assert first_end(used, {}, 10.0) is None


def test_only_limits_that_are_set_are_used_up() -> None:
    (use,) = uses(Limits(stagnation=3), wall_seconds=1e9, compute_seconds=1e9, stagnation=3)
    assert use.reached
    assert "limits.stagnation is reached: 3 of 3 trials" in use.story
    assert use.remedy("a b") == "sparsevlr resume 'a b' --set limits.stagnation=6"
    assert Use("wall_seconds", 70.0, 60.0).remedy("s") == "sparsevlr resume s"


@pytest.mark.parametrize(
    "limits", [{"wall_seconds": 0}, {"compute_seconds": -1}, {"stagnation": 0}, {"rung_seconds": 0}, {"hours": 1}]
)
def test_impossible_limits_are_refused(limits: dict[str, float]) -> None:
    with pytest.raises(SpecError, match=next(iter(limits))):
        Limits(**limits)
