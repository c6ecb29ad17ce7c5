"""Early stopping against a brute-force model of its rule, and the properties that public implementations miss."""

import math
from random import Random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparsevlr.results.pareto import order_by_rank_and_spread
from sparsevlr.search.asha import PromotionASHA, StoppingASHA, ranked_size

NUMBERS = st.sampled_from([0.0, 0.25, 0.5, 0.75, 1.0])
POINTS = st.lists(st.tuples(NUMBERS, NUMBERS), min_size=1, max_size=24)
ETAS = st.sampled_from([2, 3, 4])


def dominates(a: tuple[float, ...], b: tuple[float, ...]) -> bool:
    return all(x >= y for x, y in zip(a, b, strict=True)) and a != b


def ranks(points: list[tuple[float, ...]]) -> list[int]:
    """Peel fronts off, one after the other."""
    left, rank, result = set(range(len(points))), 0, [0] * len(points)
    while left:
        front = {i for i in left if not any(dominates(points[j], points[i]) for j in left)}
        for index in front:
            result[index] = rank
        left, rank = left - front, rank + 1
    return result


def enter(points: list[tuple[float, ...]], eta: int) -> list[bool]:
    asha = StoppingASHA(rungs=2, eta=eta)
    return [asha.enter(f"{index:03d}", 0, point) == "continue" for index, point in enumerate(points)]


@given(POINTS, ETAS)
def test_a_newcomer_that_dominates_all_others_goes_on(points: list[tuple[float, float]], eta: int) -> None:
    assert enter([*points, (2.0, 2.0)], eta)[-1]


@given(POINTS, ETAS)
def test_a_newcomer_behind_enough_others_stops(points: list[tuple[float, float]], eta: int) -> None:
    rank = ranks(points)
    ahead = sum(other < rank[-1] for other in rank)
    if ahead >= len(points) / eta:
        assert not enter(points, eta)[-1]


@given(POINTS, ETAS)
def test_a_newcomer_whose_whole_front_fits_goes_on(points: list[tuple[float, float]], eta: int) -> None:
    rank = ranks(points)
    if sum(other <= rank[-1] for other in rank) <= math.ceil(len(points) / eta):
        assert enter(points, eta)[-1]


@given(st.lists(NUMBERS, min_size=1, max_size=24, unique=True), ETAS)
def test_with_one_objective_it_is_plain_asha(values: list[float], eta: int) -> None:
    decisions = enter([(value,) for value in values], eta)
    for index, value in enumerate(values):
        seen = values[: index + 1]
        assert decisions[index] == (sum(other > value for other in seen) < len(seen) / eta)


@given(POINTS, ETAS, st.randoms(use_true_random=False))
def test_the_order_of_arrival_of_the_others_does_not_matter(
    points: list[tuple[float, float]], eta: int, random: Random
) -> None:
    named = [(f"{index:03d}", point) for index, point in enumerate(points)]
    others = named[:-1]
    verdicts = set()
    for _ in range(3):
        random.shuffle(others)
        asha = StoppingASHA(rungs=2, eta=eta)
        for name, point in others:
            asha.enter(name, 0, point)
        verdicts.add(asha.enter(named[-1][0], 0, named[-1][1]))
    assert len(verdicts) == 1


@pytest.mark.parametrize("seed", range(4))
def test_a_large_rung_compares_a_newcomer_with_those_that_are_ranked(seed: int) -> None:
    random = Random(seed)
    eta, size = random.choice([2, 3, 4]), random.randint(128, 260)
    points = [(random.random(), random.random()) for _ in range(size)]
    asha = StoppingASHA(rungs=2, eta=eta)
    for index, point in enumerate(points):
        asha.enter(f"{index:03d}", 0, point)
    for number in range(8):
        newcomer = (random.random(), random.random()) if number else (2.0, 2.0)
        counted = [*points[: ranked_size(len(points))], newcomer]
        assert len(counted) > 0.98 * len(points)
        rank, places = ranks(counted), math.ceil(len(counted) / eta)
        goes_on = asha.enter(f"new-{number}", 0, newcomer) == "continue"
        if sum(other < rank[-1] for other in rank) >= places:
            assert not goes_on
        if sum(other <= rank[-1] for other in rank) <= places:
            assert goes_on
        points.append(newcomer)


def test_nan_ranks_last() -> None:
    asha = StoppingASHA(rungs=2, eta=2)
    assert asha.enter("a", 0, (0.1, 0.1)) == "continue"
    assert asha.enter("b", 0, (math.nan, 1.0)) == "stop"
    assert asha.enter("c", 0, (0.2, 0.0)) == "continue"


def test_a_second_arrival_counts_once_and_rungs_are_apart() -> None:
    asha = StoppingASHA(rungs=3, eta=3)
    assert {asha.enter("a", 0, (0.5, 0.5)) for _ in range(5)} == {"continue"}
    assert asha.enter("b", 0, (0.4, 0.4)) == "stop"
    assert asha.enter("b", 1, (0.4, 0.4)) == "continue"


def promotions(asha: PromotionASHA) -> list[str]:
    """Promote as long as there is somebody to promote."""
    promoted = []
    while (name := asha.next_promotion()) is not None:
        asha.leave(name)
        promoted.append(name)
    return promoted


@given(POINTS, ETAS)
def test_of_n_paused_trials_the_best_floor_n_by_eta_are_promoted_each_once(
    points: list[tuple[float, float]], eta: int
) -> None:
    asha = PromotionASHA(rungs=2, eta=eta)
    assert {asha.enter(f"{index:03d}", 0, point) for index, point in enumerate(points)} == {"pause"}
    promoted = [int(name) for name in promotions(asha)]
    assert len(promoted) == len(set(promoted)) == len(points) // eta
    rank = ranks(points)
    left = set(range(len(points))) - set(promoted)
    assert all(rank[one] <= rank[other] for one in promoted for other in left)
    assert [rank[one] for one in promoted] == sorted(rank[one] for one in promoted)


@given(POINTS, ETAS)
def test_a_paused_newcomer_that_dominates_all_is_promoted_once_there_are_enough(
    points: list[tuple[float, float]], eta: int
) -> None:
    asha = PromotionASHA(rungs=2, eta=eta)
    for index, point in enumerate([*points, (2.0, 2.0)]):
        asha.enter(f"{index:03d}", 0, point)
    assert (asha.next_promotion() == f"{len(points):03d}") == (len(points) + 1 >= eta)


def test_higher_rungs_are_promoted_first_and_a_late_arrival_can_lift_an_early_one() -> None:
    asha = PromotionASHA(rungs=3, eta=2)
    asha.enter("a", 0, (0.3, 0.3))
    assert asha.next_promotion() is None
    asha.enter("b", 0, (0.1, 0.1))
    assert promotions(asha) == ["a"]
    asha.enter("c", 0, (0.2, 0.2))
    assert promotions(asha) == []
    asha.enter("d", 0, (0.0, 0.0))
    assert asha.next_promotion() == "c"
    asha.enter("a", 1, (0.3, 0.3))
    asha.enter("x", 1, (0.1, 0.1))
    assert promotions(asha) == ["a", "c"]


@pytest.mark.parametrize("objectives", [1, 2, 3])
def test_large_rungs_are_ranked_in_steps_and_to_the_last_entry_when_asked(objectives: int) -> None:
    """Against the rule by brute force, at every size; promotions happen as they fall due."""
    points = np.random.default_rng(objectives).random((400, objectives)).round(2)
    asha, promoted = PromotionASHA(rungs=2, eta=3), set[str]()
    for index, point in enumerate(points):
        asha.enter(f"{index:03d}", 0, point.tolist())
        size = index + 1
        counted = size - size % (1 if size < 128 else 2 if size < 256 else 4)
        best = [f"{one:03d}" for one in order_by_rank_and_spread(points[:counted], count=counted // 3)]
        due = next((name for name in best if name not in promoted), None)
        assert asha.next_promotion() == due
        if due is not None and index % 3:
            asha.leave(due)
            promoted.add(due)
    everyone = [f"{one:03d}" for one in order_by_rank_and_spread(points[:399], count=399 // 3)]
    late = PromotionASHA(rungs=2, eta=3)
    for index, point in enumerate(points[:399]):
        late.enter(f"{index:03d}", 0, point.tolist())
    assert late.next_promotion(exact=True) == everyone[0]
    found = []
    while (name := late.next_promotion(exact=True)) is not None:
        late.leave(name)
        found.append(name)
    assert found == everyone


def test_a_paused_trial_without_a_number_is_promoted_last() -> None:
    asha = PromotionASHA(rungs=2, eta=2)
    for name, value in (("a", math.nan), ("b", 0.1), ("c", 0.2), ("d", math.nan)):
        asha.enter(name, 0, (value,))
    assert promotions(asha) == ["c", "b"]


@pytest.mark.parametrize("eta", [2, 3])
def test_the_sparse_end_survives_where_one_metric_would_lose_it(eta: int) -> None:
    """Sparser trials score lower; ranked by accuracy alone the sparsest would always stop."""
    sparsities = np.linspace(0.0, 0.99, 30)
    points = [(1.0 - sparsity**4, float(sparsity)) for sparsity in np.random.default_rng(0).permutation(sparsities)]
    kept = [point for point, goes_on in zip(points, enter(points, eta), strict=True) if goes_on]
    assert max(sparsity for _, sparsity in kept) > 0.9
    assert min(sparsity for _, sparsity in kept) < 0.2
