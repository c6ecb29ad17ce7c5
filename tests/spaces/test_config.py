"""A trial's configuration: frozen, checked, fingerprinted."""

import json
import math
import pickle
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparsevlr.spaces import SpecError, TrialConfig

VALUES: dict[str, Any] = {
    "architecture": "mlp",
    "architecture.hidden": [64, 32],
    "sparsity": 0.95,
    "loss": "ibp",
    "loss.kappa_end": 0.5,
    "optimizer": "adam",
}
scalars = st.one_of(
    st.text(max_size=5), st.integers(-(2**53), 2**53), st.booleans(), st.floats(allow_nan=False, allow_infinity=False)
)
configurations = st.dictionaries(
    st.text(min_size=1, max_size=8), st.one_of(scalars, st.lists(scalars, max_size=3)), max_size=6
)


def config(values: dict[str, Any], trial_id: str = "t0", seed: int = 0) -> TrialConfig:
    return TrialConfig(trial_id, seed, values)


def test_method_splits_name_and_options() -> None:
    assert config(VALUES).method("architecture") == ("mlp", {"hidden": (64, 32)})
    assert config(VALUES).method("optimizer") == ("adam", {})
    assert config(VALUES).target_sparsity == 0.95
    with pytest.raises(SpecError, match="names no score"):
        config(VALUES).method("score")


def test_is_immutable_and_safe_from_its_maker() -> None:
    values = {"architecture": "mlp", "architecture.hidden": [1, 2]}
    made = config(values)
    values["architecture"] = "cnn7"
    values["architecture.hidden"].append(3)  # type: ignore[attr-defined]

    assert made.method("architecture") == ("mlp", {"hidden": (1, 2)})
    with pytest.raises(TypeError):
        made.values["architecture"] = "cnn7"  # type: ignore[index]
    with pytest.raises(AttributeError):
        made.seed = 1  # type: ignore[misc]


@given(configurations, st.randoms(use_true_random=False))
def test_fingerprint_ignores_order_id_and_seed(values: dict[str, Any], random: Any) -> None:
    values.pop("sparsity", None)
    shuffled = list(values.items())
    random.shuffle(shuffled)

    assert config(values).fingerprint() == config(dict(shuffled), trial_id="t1", seed=9).fingerprint()


@given(configurations, configurations)
def test_fingerprints_differ_where_values_do(one: dict[str, Any], other: dict[str, Any]) -> None:
    one.pop("sparsity", None)
    other.pop("sparsity", None)
    alike = config(one).values_json() == config(other).values_json()
    assert (config(one).fingerprint() == config(other).fingerprint()) == alike


def test_fingerprint_reads_whole_floats_as_integers_but_true_as_itself() -> None:
    prints = [config({"a": value}).fingerprint() for value in (1, 1.0, np.float64(1), np.int64(1))]

    assert len(set(prints)) == 1
    assert len({config({"a": value}).fingerprint() for value in (1, True, "1", [1], 1.5)}) == 5
    assert config({"a": 0.0}).fingerprint() == config({"a": -0.0}).fingerprint()


def test_fingerprint_covers_the_studys_constants() -> None:
    prints = {config(VALUES).fingerprint(constants) for constants in ({}, {"epsilon": 0.1}, {"epsilon": 0.2})}

    assert len(prints) == 3


def test_options_at_their_default_leave_no_trace() -> None:
    bare = config(VALUES)
    spelt = config(VALUES | {"loss.kappa_start": 1.0})
    other = config(VALUES | {"loss.kappa_start": 0.9})
    defaults = {"loss.kappa_start": 1}

    assert bare.fingerprint() != spelt.fingerprint()
    assert bare.fingerprint(defaults=defaults) == spelt.fingerprint(defaults=defaults) == bare.fingerprint()
    assert other.fingerprint(defaults=defaults) == other.fingerprint()


def test_fingerprint_never_changes() -> None:
    """Stores hold fingerprints: a version that computed others would not find its trials again."""
    assert config(VALUES).fingerprint({"epsilon": 0.1}) == "60d6cbd453975fda"


@given(configurations)
def test_round_trips(values: dict[str, Any]) -> None:
    values.pop("sparsity", None)
    made = config(values, "a-1_b", 7)

    assert TrialConfig.from_json(made.to_json()) == made
    assert pickle.loads(pickle.dumps(made)) == made
    assert hash(pickle.loads(pickle.dumps(made))) == hash(made)
    assert set(json.loads(made.values_json())) == set(values)


@pytest.mark.parametrize("trial_id", ["", "../up", "a/b", ".hidden", "a b", "x" * 65, "a\n", "-rf"])
def test_trial_ids_are_file_names(trial_id: str) -> None:
    with pytest.raises(SpecError, match="trial_id must be"):
        config({}, trial_id=trial_id)


@pytest.mark.parametrize("seed", [-1, 1.5, True, "0"])
def test_impossible_seeds(seed: Any) -> None:
    with pytest.raises(SpecError, match="seed must be a whole number of at least 0"):
        config({}, seed=seed)


@pytest.mark.parametrize("sparsity", [1, 1.0, -0.1, True, "0.5", [0.5]])
def test_impossible_sparsity(sparsity: Any) -> None:
    with pytest.raises(SpecError, match="sparsity must be at least 0 and below 1"):
        config({"sparsity": sparsity})


@pytest.mark.parametrize("value", [None, math.nan, math.inf, {}, object(), [None]])
def test_values_that_json_cannot_hold(value: Any) -> None:
    with pytest.raises(SpecError, match=r"values\.a must be"):
        config({"a": value})


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"trial_id": "a", "seed": 0, "values": 3}'])
def test_foreign_json(text: str) -> None:
    with pytest.raises(SpecError, match="is JSON with trial_id, seed and values"):
        TrialConfig.from_json(text)
