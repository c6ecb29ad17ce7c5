"""Parameters and spaces: what is drawn, what is accepted, what is refused."""

import json
import pickle
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparsevlr.spaces import Categorical, Constant, Float, Int, Parameter, SearchSpace, SpecError

SPACE = SearchSpace(
    {
        "architecture": ["mlp", "cnn-small", "cnn7"],
        "architecture.hidden": {"choices": [[8], [8, 4]], "when": {"architecture": "mlp"}},
        "architecture.width": {"low": 0.1, "high": 2.0, "when": {"architecture": ["cnn-small", "cnn7"]}},
        "loss": "ibp",
        "sparsity": {"low": 0, "high": 0.99, "scale": "log-complement"},
        "steps": {"type": "int", "low": 1, "high": 100, "log": True},
        "deep": {"low": 0, "high": 1, "when": {"architecture.hidden": [[8, 4]], "loss": "ibp"}},
        "fixed": {"value": 3, "when": {"architecture": "cnn7"}},
    }
)


@st.composite
def floats(draw: st.DrawFn) -> Float:
    scale = draw(st.sampled_from(["linear", "log", "log-complement"]))
    least, most = {"linear": (-1e3, 1e3), "log": (1e-6, 1e3), "log-complement": (-10.0, 0.9999)}[scale]
    low = draw(st.floats(least, most - 1e-5))
    high = draw(st.floats(low + 1e-6, most))
    return Float(low=low, high=high, scale=scale)


@given(floats(), st.floats(0, 1))
def test_floats_stay_in_range_and_know_their_place(parameter: Float, u: float) -> None:
    value = parameter.from_unit(u)

    assert parameter.contains(value)
    # Back to the same place, up to what rounding of x does to a narrow range.
    width = parameter.high - parameter.low
    slack = 1e-9 + 1e-12 * max(1, abs(parameter.low), abs(parameter.high)) / width
    assert parameter.to_unit(value) == pytest.approx(u, abs=min(1, slack * 1e3))


@given(floats(), st.lists(st.floats(0, 1), min_size=2, max_size=2, unique=True))
def test_floats_grow_with_u(parameter: Float, us: list[float]) -> None:
    low, high = sorted(us)
    assert parameter.from_unit(low) <= parameter.from_unit(high)


def test_ends_of_each_scale_are_exact() -> None:
    for scale, low, high in (("linear", -1.0, 3.0), ("log", 1e-4, 1e-2), ("log-complement", 0.0, 0.995)):
        parameter = Float(low=low, high=high, scale=scale)
        assert parameter.from_unit(0) == pytest.approx(low, abs=0 if low == 0 else 1e-15)
        assert parameter.from_unit(1) == pytest.approx(high, rel=1e-14)


def test_log_complement_draws_the_density_log_uniformly() -> None:
    parameter = Float(low=0.0, high=0.99, scale="log-complement")
    rng = np.random.default_rng(0)
    density = 1 - np.array([parameter.random(rng) for _ in range(4_000)])

    # Densities 1 to 0.1 and 0.1 to 0.01 are one decade each.
    assert np.mean(density > 0.1) == pytest.approx(0.5, abs=0.03)
    assert np.mean(density > 10**-0.5) == pytest.approx(0.25, abs=0.03)


def test_log_draws_decades_evenly() -> None:
    parameter = Float(low=1e-4, high=1e-2, scale="log")
    rng = np.random.default_rng(0)
    assert np.mean([parameter.random(rng) < 1e-3 for _ in range(4_000)]) == pytest.approx(0.5, abs=0.03)


@pytest.mark.parametrize("log", [False, True])
def test_ints_reach_both_ends_and_nothing_else(log: bool) -> None:
    parameter = Int(low=1, high=4, log=log)
    rng = np.random.default_rng(0)
    counts = np.bincount([parameter.random(rng) for _ in range(2_000)], minlength=5)

    assert counts[0] == 0
    assert counts[1:].min() > 150
    assert (counts[1] > 1.5 * counts[4]) == log


def test_log_ints_give_the_ends_their_share() -> None:
    rng = np.random.default_rng(0)
    drawn = [Int(low=1, high=4, log=True).random(rng) for _ in range(4_000)]

    # Rounded from a draw that is uniform in the logarithm over [0.5, 4.5], of which 1 covers [0.5, 1.5].
    assert np.mean(np.array(drawn) == 1) == pytest.approx(np.log(3) / np.log(9), abs=0.03)


@pytest.mark.parametrize(
    ("parameter", "inside", "outside"),
    [
        (Float(low=0, high=1), [0, 1, 0.5], [-0.1, 1.1, "0.5", True, None, float("nan"), float("inf")]),
        (Int(low=1, high=3), [1, 3], [0, 4, 1.5, 2.0, True, "2"]),
        (Categorical(choices=["a", 1, [2, 3]]), ["a", 1, 1.0, [2, 3], (2, 3)], ["b", True, [3, 2], [2], None]),
        (Categorical(choices=[True, "x"]), [True], [1, 1.0, False]),
        (Constant(value=[1, 2]), [[1, 2], (1, 2)], [[1], 1]),
    ],
)
def test_contains(parameter: Parameter, inside: list[Any], outside: list[Any]) -> None:
    for value in inside:
        assert parameter.contains(value), value
    for value in outside:
        assert not parameter.contains(value), value


@given(st.integers(0, 2**32 - 1))
def test_random_configurations_are_complete_and_allowed(seed: int) -> None:
    values = SPACE.random(np.random.default_rng(seed))

    SPACE.check_point(values, complete=True)
    # The conditions, by hand.
    assert ("architecture.hidden" in values) == (values["architecture"] == "mlp")
    assert ("architecture.width" in values) == (values["architecture"] != "mlp")
    assert ("deep" in values) == (values.get("architecture.hidden") == (8, 4))
    assert ("fixed" in values) == (values["architecture"] == "cnn7")
    assert list(values) == [name for name in SPACE if name in values]
    # Left with a value for what does not exist, or without one for what does, it is refused.
    for name in SPACE:
        if name not in values:
            with pytest.raises(SpecError, match=f"^{name} exists only when"):
                SPACE.check_point(values | {name: 0.5})
        elif not isinstance(SPACE[name], Constant):
            rest = {key: value for key, value in values.items() if key != name}
            with pytest.raises(SpecError):
                SPACE.check_point(rest, complete=True)


def test_random_is_a_function_of_the_generator() -> None:
    drawn = [SPACE.random(np.random.default_rng(seed)) for seed in (5, 5, 6)]

    assert drawn[0] == drawn[1]
    assert drawn[0] != drawn[2]


def test_sample_asks_for_active_parameters_only_and_never_for_constants() -> None:
    asked: list[str] = []

    def draw(name: str, parameter: Parameter) -> Any:
        asked.append(name)
        return "cnn7" if name == "architecture" else parameter.random(np.random.default_rng(0))

    values = SPACE.sample(draw)
    assert asked == ["architecture", "architecture.width", "sparsity", "steps"]
    assert (values["loss"], values["fixed"]) == ("ibp", 3)


def test_sample_refuses_what_the_parameter_cannot_take() -> None:
    with pytest.raises(SpecError, match=r"^architecture must be one of mlp, cnn-small, cnn7, got 'vgg'"):
        SPACE.sample(lambda name, parameter: "vgg")


def test_sample_takes_array_scalars_and_lists_as_plain_values() -> None:
    space = SearchSpace({"a": {"low": 0, "high": 1}, "b": [[1, 2], [3]]})
    values = space.sample(lambda name, _: np.float64(0.5) if name == "a" else [1, 2])

    assert type(values["a"]) is float
    assert values["b"] == (1, 2)


def test_partial_points() -> None:
    SPACE.check_point({})
    SPACE.check_point({"sparsity": 0.5})
    # Whether this exists depends on a value that the sampler has yet to draw.
    SPACE.check_point({"architecture.hidden": [8]})
    with pytest.raises(SpecError, match=r"^sparsty is no parameter of the space; did you mean 'sparsity'"):
        SPACE.check_point({"sparsty": 0.5})
    with pytest.raises(SpecError, match=r"^sparsity must be a number from 0 to 0.99, got 1"):
        SPACE.check_point({"sparsity": 1})
    with pytest.raises(SpecError, match=r"^loss must be ibp, got 'other'"):
        SPACE.check_point({"loss": "other"})


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        ({"low": 1, "high": 0}, "x.high must be above low, got low 1 and high 0"),
        ({"low": 1, "high": 1}, "x.high must be above low"),
        ({"low": 0, "high": 1, "scale": "log"}, "x.low must be above 0 on scale log, got 0"),
        ({"low": 0, "high": 1, "scale": "log-complement"}, "x.high must be below 1 on scale log-complement, got 1"),
        ({"low": 0, "high": 1, "scale": "cubic"}, "x.scale must be 'linear', 'log' or 'log-complement', got 'cubic'"),
        ({"low": 0, "high": "a"}, "x.high must be a number, got 'a'"),
        ({"low": 0, "high": float("inf")}, "x.high must be a finite number, got inf"),
        ({"low": False, "high": 1}, "x.low must be a number, got false"),
        ({"low": 0}, "x.high is missing"),
        ({"low": 0, "hihg": 1}, "x.hihg is unknown; did you mean 'high'"),
        ({"type": "int", "low": 0.5, "high": 2}, "x.low must be a whole number, got 0.5"),
        ({"type": "int", "low": 0, "high": 2, "log": True}, "x.low must be at least 1 with log, got 0"),
        ({"type": "int", "low": 3, "high": 2}, "x.high must be above low"),
        ({"type": "text", "low": 3, "high": 2}, "x.type must be float or int, got 'text'"),
        ([], "x.choices must be a list of at least 1"),
        ([1, 1.0], "x.choices must name each choice once, got 1.0 twice"),
        ([None], "x.choices must be text, a number"),
        ({"choices": "ab"}, "x.choices must be a list, got 'ab'"),
        ({"value": {}}, "x.value must be text, a number"),
        (None, "x.value must be text, a number"),
        ({"value": 1, "when": {"y": 1}}, "x.when must name a parameter that stands before it, got 'y'"),
        ({"value": 1, "when": {"firts": 1}}, "x.when must name .* got 'firts'; did you mean 'first'"),
        ({"value": 1, "when": {"first": 3}}, "x.when.first must be one of 1, 2, got 3"),
        ({"value": 1, "when": {"first": []}}, "x.when.first must be a value or a list of at least one"),
        ({"value": 1, "when": "first"}, "x.when must be a mapping"),
    ],
)
def test_impossible_parameters(raw: Any, message: str) -> None:
    with pytest.raises(SpecError, match=f"^{message}") as caught:
        SearchSpace({"first": [1, 2], "x": raw})
    assert "\n" not in str(caught.value)


def test_constructors_raise_the_same_one_line() -> None:
    with pytest.raises(SpecError, match=r"^high must be above low, got low 1 and high 0$"):
        Float(low=1.0, high=0.0)


def test_round_trip_through_json_and_pickle() -> None:
    assert SearchSpace(json.loads(json.dumps(SPACE.to_dict()))) == SPACE
    assert pickle.loads(pickle.dumps(SPACE)) == SPACE
    reordered = dict(reversed(SearchSpace({"a": [1, 2], "b": 3}).to_dict().items()))
    assert SearchSpace(reordered) != SearchSpace({"a": [1, 2], "b": 3})


def test_true_and_one_stay_apart_in_conditions() -> None:
    space = SearchSpace({"norm": [True, False, 1], "x": {"value": 2, "when": {"norm": True}}})

    assert "x" in space.sample(lambda *_: True)
    assert "x" not in space.sample(lambda *_: 1)
