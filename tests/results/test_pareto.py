"""Against brute force written straight from the definitions."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from sparsevlr.results import pareto

# Few distinct values, so that ties, duplicates, infinities and NaN all come up.
VALUES = st.sampled_from([0.0, -0.0, 0.25, 0.5, 1.0, 1e-320, math.inf, -math.inf, math.nan])
POINTS = st.tuples(st.integers(0, 12), st.integers(1, 4)).flatmap(lambda shape: arrays(float, shape, elements=VALUES))
FINITE = st.tuples(st.integers(1, 6), st.integers(1, 3)).flatmap(
    lambda shape: arrays(float, shape, elements=st.integers(-2, 8).map(lambda n: n / 8))
)


def dominates(a, b):
    return bool((a >= b).all() and (a > b).any())


def brute_ranks(points):
    known = [i for i in range(len(points)) if not np.isnan(points[i]).any()]
    ranks, rank = {}, 0
    left = set(known)
    while left:
        front = {i for i in left if not any(dominates(points[j], points[i]) for j in left)}
        ranks |= dict.fromkeys(front, rank)
        left -= front
        rank += 1
    return [ranks.get(i, rank) for i in range(len(points))]


@given(POINTS)
def test_ranks_equal_brute_force(points):
    assert pareto.non_dominated_ranks(points).tolist() == brute_ranks(points)


@given(POINTS)
def test_front_equals_brute_force(points):
    known = ~np.isnan(points).any(axis=1)
    expected = known & (np.array(brute_ranks(points), dtype=int) == 0)
    assert pareto.front_mask(points).tolist() == expected.tolist()


@given(POINTS, st.randoms())
def test_insertion_order_does_not_change_ranks(points, random):
    order = list(range(len(points)))
    random.shuffle(order)
    assert pareto.non_dominated_ranks(points[order]).tolist() == pareto.non_dominated_ranks(points)[order].tolist()


@given(POINTS)
def test_a_dominating_newcomer_comes_first(points):
    points = np.nan_to_num(points, nan=math.nan, posinf=2.0, neginf=-2.0)
    grown = np.vstack([points, np.full(points.shape[1], 3.0)])
    assert pareto.non_dominated_ranks(grown)[-1] == 0
    assert pareto.order_by_rank_and_spread(grown)[0] == len(points)


@given(POINTS, st.sampled_from(["epsilon-net", "crowding"]), st.integers(0, 14))
def test_order_is_a_permutation_by_rank_and_count_is_its_beginning(points, spread, count):
    order = pareto.order_by_rank_and_spread(points, spread=spread)
    assert sorted(order.tolist()) == list(range(len(points)))
    ranks = pareto.non_dominated_ranks(points)[order]
    assert (np.diff(ranks) >= 0).all()
    assert pareto.order_by_rank_and_spread(points, count, spread).tolist() == order[:count].tolist()


def test_nan_is_last_even_alone():
    points = np.array([[math.nan, 9.0], [0.0, 0.0]])
    assert pareto.non_dominated_ranks(points).tolist() == [1, 0]
    assert pareto.order_by_rank_and_spread(points).tolist() == [1, 0]
    assert not pareto.front_mask(points[:1]).any()


@given(arrays(float, st.tuples(st.integers(0, 12), st.just(1)), elements=st.integers(0, 5).map(float)))
def test_one_objective_is_plain_sorting(points):
    order = pareto.order_by_rank_and_spread(points)
    assert points[order, 0].tolist() == sorted(points[:, 0].tolist(), reverse=True)


def test_spread_takes_ends_and_gaps_before_neighbours():
    front = np.array([[0.0, 1.0], [0.01, 0.99], [0.5, 0.5], [0.52, 0.48], [1.0, 0.0]])
    assert pareto.epsilon_net_order(front).tolist()[:3] == [4, 0, 2]
    assert set(pareto.order_by_rank_and_spread(front, 2, "crowding").tolist()) == {0, 4}
    assert np.isinf(pareto.crowding_distances(front)[[0, 4]]).all()
    assert pareto.crowding_distances(front)[1] == pytest.approx(1.0)


def test_duplicates_share_rank_and_come_after_the_spread():
    front = np.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.5, 0.5]])
    assert pareto.front_mask(front).all()
    assert pareto.epsilon_net_order(front).tolist() == [0, 2, 3, 1]


def brute_volume(points, reference):
    boxes = [np.maximum(p - reference, 0) for p in points]
    return sum(
        (-1) ** (size + 1) * np.prod(np.min(some, axis=0))
        for size in range(1, len(boxes) + 1)
        for some in itertools.combinations(boxes, size)
    )


@given(FINITE)
def test_hypervolume_equals_inclusion_and_exclusion(points):
    reference = np.zeros(points.shape[1])
    assert pareto.hypervolume(points, reference) == pytest.approx(brute_volume(points, reference), abs=1e-12)


def test_hypervolume_leaves_out_what_is_not_finite():
    points = np.array([[0.5, 0.5], [math.nan, 1.0], [math.inf, 1.0]])
    assert pareto.hypervolume(points, [0, 0]) == pytest.approx(0.25)
    assert pareto.hypervolume(np.empty((0, 2)), [0, 0]) == 0.0


def test_orient_flips_what_is_minimised():
    oriented = pareto.orient([[0.9, 100.0], [0.8, 10.0]], ["max", "min"])
    assert oriented.tolist() == [[0.9, -100.0], [0.8, -10.0]]
    assert pareto.front_mask(oriented).all()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: pareto.orient([[1.0, 2.0]], ["max"]), "one direction per objective"),
        (lambda: pareto.orient([[1.0]], ["up"]), "'max' or 'min'; got 'up'"),
        (lambda: pareto.front_mask([1.0, 2.0]), r"shape \(points, objectives\); got \(2,\)"),
        (lambda: pareto.hypervolume([[1.0]], [0.0, 0.0]), "one finite value per objective"),
        (lambda: pareto.hypervolume([[1.0]], [math.nan]), "one finite value per objective"),
        (lambda: pareto.order_by_rank_and_spread([[1.0]], spread="random"), "spread is"),
    ],
)
def test_wrong_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()
