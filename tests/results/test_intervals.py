import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparsevlr.results.intervals import wilson_interval


@pytest.mark.parametrize(
    ("successes", "samples", "low", "high"),
    # Newcombe (1998), table I, method 3, to the four decimals printed there.
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_published_values(successes, samples, low, high):
    assert wilson_interval(successes, samples) == pytest.approx((low, high), abs=5e-5)


@given(st.integers(1, 10_000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_contains_the_proportion_and_is_symmetric(case):
    successes, samples = case
    low, high = wilson_interval(successes, samples)
    assert 0 <= low <= successes / samples <= high <= 1
    mirrored = wilson_interval(samples - successes, samples)
    assert (1 - mirrored[1], 1 - mirrored[0]) == pytest.approx((low, high), abs=1e-12)
    assert wilson_interval(successes, samples, 0.99)[1] >= high


def test_nothing_measured_nothing_known():
    assert wilson_interval(0, 0) == (0.0, 1.0)


@pytest.mark.parametrize("case", [(-1, 10, 0.95), (11, 10, 0.95), (1, 10, 1.0), (float("nan"), 10, 0.95)])
def test_impossible_input(case):
    with pytest.raises(ValueError, match="must lie"):
        wilson_interval(*case)
