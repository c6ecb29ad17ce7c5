"""Densities over layers against independent solutions."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import brentq

from sparsevlr.trainables.pruning import DISTRIBUTIONS


def scores(*shapes: tuple[int, ...]) -> dict[str, torch.Tensor]:
    return {str(index): torch.rand(shape) for index, shape in enumerate(shapes)}


SHAPES = ((16, 1, 3, 3), (16, 16, 3, 3), (64, 256), (64, 64), (10, 64))


@given(st.floats(0.0, 1.0, exclude_max=True))
def test_erk_solves_its_equation(density: float) -> None:
    given_scores = scores(*SHAPES)
    sizes = [score.numel() for score in given_scores.values()]
    kept = round(density * sum(sizes))
    allocation = DISTRIBUTIONS["erk"]().allocate(given_scores, kept)

    def left(scale: float) -> float:
        densities = (min(1.0, scale * sum(shape) / size) for shape, size in zip(SHAPES, sizes, strict=True))
        return sum(share * size for share, size in zip(densities, sizes, strict=True)) - kept

    scale = brentq(left, 0.0, 1e4, xtol=1e-12)
    for count, shape, size in zip(allocation.values(), SHAPES, sizes, strict=True):
        assert abs(count - min(size, scale * sum(shape))) <= 1 + 1e-6


def test_erk_by_hand() -> None:
    # sum(dims): 22 and 110, sizes 40 and 1000. Of 66 weights 11 and 55; of 264 weights the first would get 44.
    given_scores = scores((2, 20), (10, 100))
    assert DISTRIBUTIONS["erk"]().allocate(given_scores, 66) == {"0": 11, "1": 55}
    assert DISTRIBUTIONS["erk"]().allocate(given_scores, 264) == {"0": 40, "1": 224}


def test_equal_fan_in_gives_every_output_as_many_weights() -> None:
    given_scores = scores((8, 1, 4, 4), (16, 8, 4, 4), (100, 784), (10, 100))
    assert list(DISTRIBUTIONS["fan-in"]().allocate(given_scores, 134 * 6).values()) == [48, 96, 600, 60]
    # At 20 each the first layer is full, and 126 outputs share the rest.
    assert list(DISTRIBUTIONS["fan-in"]().allocate(given_scores, 128 + 126 * 20).values()) == [128, 320, 2000, 200]


def test_lamp_by_hand() -> None:
    # Squares 16, 9, 4, 1 are 1, 9/25, 4/29, 1/30 of the sums so far; 100, 1, 1, 1 are 1, 1/101, 1/102, 1/103.
    layers = {"a": torch.tensor([[1.0, 4.0], [2.0, 3.0]]), "b": torch.tensor([1.0, 10.0, 1.0, 1.0])}
    allocate = DISTRIBUTIONS["lamp"]().allocate
    assert [allocate(layers, kept) for kept in (1, 2, 3, 4, 5)] == [
        {"a": 1, "b": 0},
        {"a": 1, "b": 1},
        {"a": 2, "b": 1},
        {"a": 3, "b": 1},
        {"a": 4, "b": 1},
    ]


@given(st.integers(0, 2**31), st.integers(1, 300), st.floats(1e-6, 1e6))
def test_lamp_does_not_see_the_scale_of_a_layer(seed: int, kept: int, scale: float) -> None:
    drawn = torch.Generator().manual_seed(seed)
    layers = {str(index): torch.rand(100, generator=drawn) for index in range(3)}
    layers["1"][:40] = -torch.inf
    allocate = DISTRIBUTIONS["lamp"]().allocate
    kept = min(kept, 260)
    counts = allocate(layers, kept)
    assert sum(counts.values()) == kept
    assert counts["1"] <= 60
    other = allocate(layers | {"2": layers["2"] * scale}, kept)
    assert all(abs(counts[name] - other[name]) <= 1 for name in counts)


def test_lamp_takes_any_finite_scores() -> None:
    allocate = DISTRIBUTIONS["lamp"]().allocate
    assert allocate({"a": torch.zeros(5), "b": torch.full((5,), -torch.inf)}, 3) == {"a": 3, "b": 0}
    shifted = {"a": torch.tensor([-2.0, 2.0, 1.0, 0.0]), "b": torch.tensor([0.0, 4.0, 3.0, 2.0])}
    assert all(len(set(allocate(shifted, kept).values())) == 1 for kept in (2, 4, 6))


def test_layered_by_hand() -> None:
    layers = scores((10, 10), (10, 10), (10, 10))
    bent = DISTRIBUTIONS["layered"](first=1.0, middle=0.0, last=-1.0, base="uniform")
    assert bent.allocate(layers, 111) == {"0": 100, "1": 10, "2": 1}
    # The first layer is full; the others stay 10 to 1.
    assert bent.allocate(layers, 155) == {"0": 100, "1": 50, "2": 5}


def test_layered_reads_between_its_points() -> None:
    layers = scores(*[(100, 100)] * 5)
    bent = DISTRIBUTIONS["layered"](first=0.0, middle=2.0, last=0.0, base="uniform")
    counts = list(bent.allocate(layers, 1220).values())
    assert counts == [10, 100, 1000, 100, 10]


@pytest.mark.parametrize("base", ["uniform", "erk", "fan-in"])
def test_equal_bends_change_nothing(base: str) -> None:
    given_scores = scores(*SHAPES)
    for bend in (-2.0, 0.0, 1.3):
        bent = DISTRIBUTIONS["layered"](first=bend, middle=bend, last=bend, base=base)
        for kept in (100, 3000, 20000):
            plain = DISTRIBUTIONS[base]().allocate(given_scores, kept)
            assert all(abs(plain[name] - count) <= 1 for name, count in bent.allocate(given_scores, kept).items())


def test_impossible_bends_are_refused() -> None:
    with pytest.raises(ValueError, match=r"distribution.middle is a log10 multiplier in \[-2, 2\], but is 2.5"):
        DISTRIBUTIONS["layered"](middle=2.5)
    with pytest.raises(ValueError, match=r"distribution\.base must be one of uniform, erk, fan-in, but is 'global'"):
        DISTRIBUTIONS["layered"](base="global")


@given(st.lists(st.lists(st.sampled_from([-torch.inf, 0.0, 0.5, 1.0, torch.inf]), min_size=1), min_size=1), st.data())
def test_global_keeps_the_winners_of_one_sorted_list(layers: list[list[float]], data: st.DataObject) -> None:
    ranked = sorted(
        ((-score, layer) for layer, values in enumerate(layers) for score in values if score != -torch.inf),
    )
    kept = data.draw(st.integers(0, len(ranked)))
    expected = {str(layer): sum(owner == layer for _, owner in ranked[:kept]) for layer in range(len(layers))}
    given_scores = {str(layer): torch.tensor(values) for layer, values in enumerate(layers)}
    assert DISTRIBUTIONS["global"]().allocate(given_scores, kept) == expected
