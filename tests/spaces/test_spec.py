"""The specification of a study: its rules, its round trip, its rungs."""

import json
import pickle
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparsevlr.spaces import (
    FAMILIES,
    OBJECTIVES,
    Dataset,
    Scheduler,
    SearchSpace,
    SpecError,
    Split,
    StudySpec,
    load_dataset,
)

LEAST: dict[str, Any] = {"data": "digits", "epsilon": 0.1}


def spec(**keys: Any) -> StudySpec:
    return StudySpec.from_dict(LEAST | keys)


def test_data_and_epsilon_are_enough() -> None:
    made = spec()

    assert set(made.space) == {*FAMILIES, "sparsity"}
    assert made.objectives == ("verified_accuracy", "sparsity")
    assert made.directions == ("maximize", "maximize")


def test_missing_families_are_added_and_given_ones_kept() -> None:
    made = spec(space={"loss": "ibp", "loss.kappa_end": 0.1, "architecture": ["mlp", "cnn7"]})

    assert made.space["architecture"].contains("cnn7")
    assert set(made.space) == {*FAMILIES, "sparsity", "loss.kappa_end"}


def test_round_trip_is_exact() -> None:
    made = spec(
        data_options={"shape": [1, 8, 8], "scale": 2.5},
        data="own.npz",
        starting_points=[{"sparsity": 0.5}, {"architecture.hidden": [3, 4]}],
        space={"architecture.hidden": {"choices": [[3, 4], [5]]}, "loss.k": {"low": 1e-7, "high": 0.1, "scale": "log"}},
        objectives=["sparsity", "macs"],
        scheduler={"kind": "none"},
        resources={"workers": 3},
        verification={"grid": [0.1, 1], "samples": 7, "stages": ["ibp"]},
    )
    again = StudySpec.from_dict(json.loads(json.dumps(made.to_dict())))

    assert again == made
    assert again.to_dict() == made.to_dict()
    assert pickle.loads(pickle.dumps(made)) == made
    assert hash(again) == hash(made)
    assert made.directions == ("maximize", "minimize")


def test_is_frozen() -> None:
    with pytest.raises(ValueError, match="frozen"):
        spec().epsilon = 0.3


def test_constants_are_what_decides_the_network() -> None:
    base = spec().constants()

    assert spec(trials=5, seed=3, objectives=["macs"], name="other").constants() == base
    for change in ({"epsilon": 0.2}, {"epochs": 5}, {"batch_size": 7}, {"ramp": {"end": 0.5}}, {"data": "mnist"}):
        assert spec(**change).constants() != base


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"epsilon": 0}, "epsilon must be above 0, got 0"),
        ({"epsilon": -0.1}, "epsilon must be above 0, got -0.1"),
        ({"epsilon": "0.1"}, "epsilon must be a number, got '0.1'"),
        ({"epsilon": float("nan")}, "epsilon must be a finite number, got nan"),
        ({"epsilon": True}, "epsilon must be a number, got true"),
        ({"trials": 0}, "trials must be at least 1, got 0"),
        ({"trials": None}, "trials must be a whole number, got null"),
        ({"epochs": 0}, "epochs must be at least 1, got 0"),
        ({"epochs": 2.0}, "epochs must be a whole number, got 2.0"),
        ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
        ({"seed": -1}, "seed must be at least 0, got -1"),
        ({"name": "a/b"}, "name must be .* got 'a/b'"),
        ({"name": ".."}, r"name must be .* got '\.\.'"),
        ({"data": "digitz"}, "data names an unknown data set 'digitz'; did you mean 'digits'"),
        ({"data": 3}, "data must be text, got 3"),
        ({"data_options": {"x": {}}}, r"data_options\.x must be text, a number"),
        ({"ramp": {"start": 0.5, "end": 0.5}}, r"ramp\.end must be above start, got start 0.5 and end 0.5"),
        ({"ramp": {"start": -0.1}}, r"ramp\.start must be at least 0, got -0.1"),
        ({"ramp": {"end": 1.1}}, r"ramp\.end must be at most 1, got 1.1"),
        ({"ramp": {"ende": 1}}, r"ramp\.ende is unknown; did you mean 'end'"),
        ({"ramp": 3}, "ramp must be a mapping"),
        ({"epsilom": 0.1}, "epsilom is unknown; did you mean 'epsilon'"),
        ({"allow_code": True}, "allow_code is unknown"),
        ({"objectives": []}, r"objectives must be a list of at least 1, got \[\]"),
        ({"objectives": ["accuracy"]}, "objectives must be of verified_accuracy, .* got 'accuracy'"),
        ({"objectives": ["sparsity", "sparsity"]}, "objectives must name each objective once"),
        ({"objectives": "sparsity"}, "objectives must be a list, got 'sparsity'"),
        (
            {"objectives": ["adversarial_accuracy"], "verification": {"stages": ["ibp"]}},
            "objectives has adversarial_accuracy, which needs the stage pgd in verification.stages",
        ),
        (
            {"objectives": ["adversarial_accuracy"]},
            r"objectives has .*, which needs the stage pgd in verification\.rung_stages",
        ),
        ({"sampler": "grid"}, "sampler must be 'tpe', 'nsga2', 'gp' or 'random', got 'grid'"),
        ({"scheduler": {"eta": 1}}, r"scheduler\.eta must be at least 2, got 1"),
        ({"scheduler": {"kind": "asha"}}, r"scheduler\.kind must be 'stopping', 'promotion' or 'none', got 'asha'"),
        ({"scheduler": {"first_rung": 28}}, r"scheduler\.first_rung must be at most epochs, 27, got 28"),
        ({"verification": {"stages": ["pgd"]}}, r"verification\.stages must have one that proves"),
        ({"verification": {"stages": []}}, r"verification\.stages must have one that proves .* got none"),
        ({"verification": {"stages": ["ibp", "ibp"]}}, r"verification\.stages must name each stage once"),
        ({"verification": {"rung_stages": ["pgd"]}}, r"verification\.rung_stages must have one that proves"),
        ({"verification": {"stages": ["milp"]}}, r"verification\.stages\[0\] must be 'ibp', .* got 'milp'"),
        ({"verification": {"grid": [0.5, 0.5]}}, r"verification\.grid must be growing fractions"),
        ({"verification": {"grid": [0, 1]}}, r"verification\.grid must be growing fractions"),
        ({"verification": {"pgd_steps": 0}}, r"verification\.pgd_steps must be at least 1"),
        ({"resources": {"workers": 0}}, r"resources\.workers must be at least 1, got 0"),
        ({"resources": {"cpus_per_trial": 0}}, r"resources\.cpus_per_trial must be at least 0\.0001, got 0"),
        ({"resources": {"gpus_per_trial": 1e-5}}, r"resources\.gpus_per_trial must be 0, .* got 1e-05"),
        (
            {"resources": {"gpus_per_trial": 1.5}},
            r"resources\.gpus_per_trial must be 0, a fraction of one GPU .* got 1.5",
        ),
        ({"resources": {"memory_gb_per_trial": 0}}, r"resources\.memory_gb_per_trial must be above 0, got 0"),
        ({"space": []}, r"space must be a mapping of names to parameters, got \[\]|space must be a mapping"),
        ({"space": {"sparsity": 1}}, r"space\.sparsity must be at least 0 and below 1 .* got 1"),
        ({"space": {"sparsity": [0.5, 1.0]}}, r"space\.sparsity must be at least 0 and below 1"),
        ({"space": {"sparsity": {"low": 0, "high": 1}}}, r"space\.sparsity must be .* got a number from 0 to 1"),
        ({"space": {"sparsity": "high"}}, r"space\.sparsity must be at least 0 and below 1 .* got high"),
        ({"space": {"sparsety": 0.5}}, r"space\.sparsety is unknown; did you mean 'sparsity'"),
        ({"space": {"loss.a.b": 0.5}}, r"space\.loss\.a\.b is unknown"),
        ({"space": {"loss.": 0.5}}, r"space\.loss\. is unknown"),
        ({"space": {"loss": 3}}, r"space\.loss must be the name of a method or a list of names, got 3"),
        ({"space": {"loss": ["ibp", True]}}, r"space\.loss must be the name of a method"),
        (
            {"space": {"score": "a", "loss": {"value": "ibp", "when": {"score": "a"}}}},
            r"space\.loss must exist in every configuration",
        ),
        (
            {"space": {"schedule.start": {"low": 0, "high": 0.3}, "schedule.end": {"low": 0.3, "high": 1}}},
            r"space\.schedule\.end must always be above schedule\.start",
        ),
        ({"starting_points": [{}, {"sparsity": 1}]}, r"starting_points\[1\]\.sparsity must be a number from 0"),
        ({"starting_points": [{"x": 1}]}, r"starting_points\[0\]\.x is no parameter of the space"),
        ({"starting_points": [{"sparsity": None}]}, r"starting_points\[0\]\.sparsity must be text, a number"),
        ({"starting_points": [3]}, r"starting_points\[0\] must be a mapping"),
    ],
)
def test_one_line_for_what_is_wrong(keys: dict[str, Any], message: str) -> None:
    with pytest.raises(SpecError, match=f"^(?:{message})") as caught:
        spec(**keys)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("key", LEAST)
def test_what_has_no_default(key: str) -> None:
    with pytest.raises(SpecError, match=f"^{key} is missing"):
        StudySpec.from_dict({name: value for name, value in LEAST.items() if name != key})


def test_a_misspelt_key_is_named_before_the_one_it_leaves_missing() -> None:
    with pytest.raises(SpecError, match=r"^epsilom is unknown; did you mean 'epsilon'"):
        StudySpec.from_dict({"data": "digits", "epsilom": 0.1})


def test_the_constructor_raises_the_same_one_line() -> None:
    with pytest.raises(SpecError, match=r"^epsilon must be above 0, got 0"):
        StudySpec(data="digits", epsilon=0)
    with pytest.raises(SpecError, match=r"^eta must be at least 2, got 1"):
        Scheduler(eta=1)


@given(st.integers(1, 400), st.integers(2, 5), st.one_of(st.none(), st.integers(1, 50)))
def test_rungs_grow_geometrically_to_the_last_epoch(epochs: int, eta: int, first: int | None) -> None:
    rungs = Scheduler(eta=eta, first_rung=first).rungs(epochs)

    assert rungs[-1] == epochs
    assert list(rungs) == sorted(set(rungs))
    if first is not None and len(rungs) > 1:
        assert rungs[0] == first
    assert all(after == eta * before for before, after in pairwise(rungs[:-1]))
    if len(rungs) > 1:
        assert eta**0.5 <= rungs[-1] / rungs[-2] + 1e-9
        assert rungs[-1] / rungs[-2] < eta**1.5 + 1e-9


def test_rungs_by_hand() -> None:
    assert spec(epochs=27).rungs == (3, 9, 27)
    assert spec(epochs=27, scheduler={"first_rung": 1}).rungs == (1, 3, 9, 27)
    assert spec(epochs=28, scheduler={"first_rung": 1}).rungs == (1, 3, 9, 28)
    assert spec(epochs=2).rungs == (1, 2)
    assert spec(epochs=1).rungs == (1,)
    assert spec(scheduler={"kind": "none"}).rungs == (27,)


def dataset(low: float = 0.0, high: float = 1.0) -> Dataset:
    split = Split(np.full((6, 3), high, np.float32), np.arange(6) % 2)
    return Dataset("small", split, split, split, classes=2, low=low, high=high)


def test_epsilon_is_checked_against_the_input_range() -> None:
    spec(epsilon=2).check_against(dataset(-1, 1))
    spec(epsilon=1).check_against(dataset())
    with pytest.raises(
        SpecError, match=r"^epsilon must be at most 1, the width of the input range \[0, 1\] .* got 1.5"
    ):
        spec(epsilon=1.5).check_against(dataset())


@pytest.mark.parametrize(
    ("scale", "message"),
    [
        (0.5, "must be a list, got 0.5"),
        ([], "must be above 0 somewhere"),
        ([0, 0.0], r"must be above 0 somewhere \(0 holds a feature fixed\), got 2 zeros"),
        ([[1, 0.5], [-0.5, 1]], "must be at least 0 everywhere, got -0.5"),
        ([1, float("nan")], "must be finite, got nan"),
        ([1, "2"], "must be a list of numbers, .* got '2' in it"),
        ([1, True], "must be a list of numbers, .* got True in it"),
        ([[1, 2], [1]], r"must be a list of numbers, or lists of equal length .* got \(1, 2\) in it"),
    ],
)
def test_scales_of_epsilon_are_refused_in_one_line(scale: Any, message: str) -> None:
    with pytest.raises(SpecError, match=f"^epsilon_scale {message}") as caught:
        spec(epsilon_scale=scale)
    assert "\n" not in str(caught.value)


def test_scales_of_epsilon_broadcast_to_an_input() -> None:
    for scale in ([1, 0, 0.5], [0.5]):
        made = spec(epsilon_scale=scale)
        made.check_against(dataset())
        assert StudySpec.from_dict(json.loads(json.dumps(made.to_dict()))) == made
    for scale, shape in (([1, 1], r"\(2,\)"), ([[1, 0, 1]], r"\(1, 3\)")):
        with pytest.raises(SpecError, match=rf"^epsilon_scale must be nested .*'small'.* \(3,\) .* got shape {shape}"):
            spec(epsilon_scale=scale).check_against(dataset())
    spec(epsilon=2, epsilon_scale=[0.5, 0, 0]).check_against(dataset())
    with pytest.raises(SpecError, match=r"^epsilon times the largest of epsilon_scale must be at most 1, .* got 1.5"):
        spec(epsilon=0.5, epsilon_scale=[3, 0, 0]).check_against(dataset())


def test_balls_may_be_as_wide_as_the_range_and_have_no_exact_stage() -> None:
    spec(norm="l2", epsilon=1.7).check_against(dataset())
    with pytest.raises(SpecError, match=r"^epsilon must be at most 1.73205, the diagonal of the input .* got 1.8"):
        spec(norm="l2", epsilon=1.8).check_against(dataset())
    for key in ("stages", "rung_stages", "test_stages"):
        with pytest.raises(SpecError, match=rf"^verification.{key} has exact, .*: norm must be linf, got l2"):
            spec(norm="l2", verification={key: ["ibp", "exact"]})
    with pytest.raises(SpecError, match=r"^norm must be 'linf' or 'l2', got 'l1'"):
        spec(norm="l1")
    assert "norm" not in spec().constants()
    assert spec(norm="l2").constants()["norm"] == "l2"


def test_scales_of_epsilon_are_in_the_fingerprint_where_they_are_given() -> None:
    assert spec().constants() == spec(epsilon_scale=None).constants()
    assert "epsilon_scale" not in spec().constants()
    assert spec(epsilon_scale=[1, 0.5]).constants()["epsilon_scale"] == [1, 0.5]


def test_samples_are_checked_against_the_validation_split_and_of_the_test_split_there_are_at_most_so_many() -> None:
    spec(verification={"samples": 6, "test_samples": 7}).check_against(dataset())
    with pytest.raises(
        SpecError, match=r"^verification\.samples must be at most 6, .* of the validation split .* got 7"
    ):
        spec(verification={"samples": 7}).check_against(dataset())


@pytest.mark.parametrize(
    ("space", "message"),
    [
        ({"architecture": ["mlp", "vgg"]}, "unknown architecture 'vgg'"),
        ({"architecture": "mlp", "architecture.hiden": 3}, r"space\.architecture\.hiden is no option .* mean 'hidden'"),
        (
            {"architecture": ["mlp", "cnn7"], "architecture.hidden": [3, 4]},
            r"space\.architecture\.hidden is no option of architecture 'cnn7'.* say when: \{architecture",
        ),
        ({"architecture": "mlp", "architecture.hidden": [[3], [0]]}, r"space\.architecture\.hidden must be a list"),
        (
            {"architecture": "cnn7", "architecture.width": {"low": 0, "high": 1}},
            r"architecture\.width must be .* got 0",
        ),
        ({"architecture": "own_module:net"}, "architecture 'own_module:net' would run code .* --allow-code"),
    ],
)
def test_architectures_are_checked_before_any_trial(space: dict[str, Any], message: str) -> None:
    with pytest.raises(SpecError, match=message):
        spec(space=space).check_against(dataset())


def test_option_of_one_architecture_among_several() -> None:
    space = {
        "architecture": ["mlp", "cnn7"],
        "architecture.hidden": {"choices": [[3], [4]], "when": {"architecture": "mlp"}},
        "architecture.width": [0.5, 1],
    }
    spec(space=space).check_against(dataset())


def test_objectives_have_fixed_directions() -> None:
    assert {name for name, direction in OBJECTIVES.items() if direction == "minimize"} == {
        "macs",
        "size_bytes",
        "nonzero_weights",
        "unstable_relu_fraction",
    }
    assert set(OBJECTIVES.values()) == {"maximize", "minimize"}


def test_a_space_may_be_given_as_an_object() -> None:
    space = SearchSpace({"architecture": "mlp", "sparsity": 0.5})
    made = StudySpec(data="digits", epsilon=0.1, space=space)

    assert made.space["sparsity"].contains(0.5)
    assert len(made.space) == len(FAMILIES) + 1


def test_splits_do_not_depend_on_the_studys_seed(tmp_path: Path) -> None:
    first = load_dataset("breast-cancer")
    np.random.seed(7)  # noqa: NPY002
    assert np.array_equal(load_dataset("breast-cancer").validation.x, first.validation.x)


def test_the_default_shape_of_the_ramp_leaves_no_trace() -> None:
    plain = spec()
    assert plain.constants()["ramp"] == {"start": 0.0, "end": 0.6}
    assert spec(ramp={"shape": "smoothed"}).constants() == plain.constants()
    linear = spec(ramp={"shape": "linear"})
    assert linear.constants()["ramp"] == {"start": 0.0, "end": 0.6, "shape": "linear"}
    assert StudySpec.from_dict(linear.to_dict()) == linear
    assert StudySpec.from_dict(plain.to_dict()) == plain
    with pytest.raises(SpecError, match=r"ramp\.shape must be .*'linear'.*got 'cubic'"):
        spec(ramp={"shape": "cubic"})
