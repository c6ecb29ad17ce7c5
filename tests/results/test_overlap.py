from itertools import combinations
from math import comb

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparsevlr.results.overlap import Overlap, overlap, packed


def compared(a, b):
    return overlap(packed(np.array(a, bool)), packed(np.array(b, bool)), len(a))


def test_by_hand():
    one = compared([1, 1, 1, 0, 0, 0, 0, 0, 0, 0], [1, 1, 0, 1, 1, 0, 0, 0, 0, 0])
    assert (one.weights, one.kept_a, one.kept_b, one.shared, one.most) == (10, 3, 4, 2, 3)
    assert one.jaccard == 2 / 5
    assert one.overlap == 2 / 3
    assert one.by_chance == pytest.approx(1.2)
    assert one.jaccard_by_chance == pytest.approx(1.2 / 5.8)
    assert one.overlap_by_chance == pytest.approx(0.4)
    assert one.agreement == pytest.approx(0.8 / 1.8)


@pytest.mark.parametrize(("weights", "kept_a", "kept_b"), [(7, 3, 2), (6, 6, 2), (5, 0, 3), (1, 1, 1), (8, 4, 4)])
def test_chance_is_the_mean_over_all_masks_of_those_densities(weights, kept_a, kept_b):
    fixed = set(range(kept_a))
    shared = [len(fixed & set(chosen)) for chosen in combinations(range(weights), kept_b)]
    assert len(shared) == comb(weights, kept_b)
    one = Overlap.counted(weights, kept_a, kept_b, max(shared))
    assert one.by_chance == pytest.approx(np.mean(shared))
    assert one.variance == pytest.approx(np.var(shared))
    assert one.most == max(shared)


def test_layers_add_up_and_chance_keeps_the_density_of_each():
    """A dense layer is shared whole, which is no agreement."""
    dense, sparse = compared([1] * 8, [1] * 8), compared([1, 0, 0, 0], [0, 1, 0, 0])
    whole = dense + sparse
    assert (whole.weights, whole.shared, whole.by_chance) == (12, 8, 8.25)
    assert whole.overlap == 8 / 9
    assert whole.agreement == pytest.approx(-0.25 / 0.75)
    assert dense.agreement is None
    assert dense.deviations is None
    assert whole.deviations == sparse.deviations < 0


def test_empty_masks_have_no_ratios():
    one = compared([0, 0, 0], [0, 0, 0])
    assert (one.jaccard, one.overlap, one.agreement, one.deviations) == (None, None, None, None)
    assert compared([0, 0, 0], [1, 0, 0]).jaccard == 0


MASKS = st.integers(1, 40).flatmap(lambda n: st.tuples(*[st.lists(st.booleans(), min_size=n, max_size=n)] * 2))


@given(MASKS)
def test_properties(masks):
    a, b = masks
    one, other = compared(a, b), compared(b, a)
    assert one.shared == sum(x and y for x, y in zip(a, b, strict=True)) <= one.most
    assert (one.shared, one.by_chance, one.jaccard) == (other.shared, other.by_chance, other.jaccard)
    assert one.variance == pytest.approx(other.variance)
    same = compared(a, a)
    if any(a):
        assert (same.jaccard, same.overlap) == (1.0, 1.0)
    if any(a) and not all(a):
        assert same.agreement == pytest.approx(1.0)


def test_independent_masks_agree_as_chance_says():
    rng = np.random.default_rng(0)
    deviations = [compared(rng.random(2000) < 0.1, rng.random(2000) < 0.2).deviations for _ in range(300)]
    assert abs(np.mean(deviations)) < 0.2
    assert np.std(deviations) == pytest.approx(1, abs=0.15)
