"""What may differ when a study is resumed."""

import re

import pytest

from sparsevlr.spaces import SpecError, StudySpec, change_spec, check_changes, load_spec


@pytest.mark.parametrize(
    "change",
    ["trials=99", "limits.stagnation=4", "limits={compute_seconds: 9}", "resources.workers=3", "description=longer"],
)
def test_how_far_and_on_what_may_change(change: str) -> None:
    old = load_spec("digits")
    new = change_spec(old, [change])
    assert new != old
    check_changes(old, new)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ("epochs=81", "epochs 40 -> 81"),
        ("ramp.end=0.7", "ramp.end 0.6 -> 0.7"),
        ("epsilon=0.5", "epsilon 0.05 -> 0.5"),
        ("seed=4", "seed 0 -> 4"),
        ("sampler=random", 'sampler "tpe" -> "random"'),
        ("scheduler.eta=5", "scheduler.eta 3 -> 5"),
        ("verification.samples=7", "verification.samples null -> 7"),
        ("space.sparsity=0.5", "space.sparsity"),
        ("space.loss.kappa_end=0.25", "space.loss.kappa_end"),
        ("name=other", 'name "digits" -> "other"'),
    ],
)
def test_nothing_that_trials_have_in_common_may_change(change: str, told: str) -> None:
    old = load_spec("digits")
    with pytest.raises(SpecError, match=re.escape(told)):
        check_changes(old, change_spec(old, [change]))


def test_the_order_of_parameters_decides_what_is_drawn_and_may_not_change() -> None:
    space = {"sparsity": {"low": 0.1, "high": 0.9}, "optimizer.learning_rate": {"low": 1e-3, "high": 1e-2}}
    old = StudySpec.from_dict({"data": "digits", "epsilon": 0.05, "space": space})
    content = old.to_dict()
    turned = StudySpec.from_dict(content | {"space": dict(reversed(content["space"].items()))})
    assert turned.to_dict() == content
    with pytest.raises(SpecError, match="would change the order of space's parameters, in which values are drawn"):
        check_changes(old, turned)
    check_changes(old, StudySpec.from_dict(dict(reversed(content.items()))))


def test_every_difference_is_named_in_one_line_with_the_remedy() -> None:
    old = load_spec("digits")
    with pytest.raises(SpecError) as refused:
        check_changes(old, change_spec(old, ["epochs=81", "ramp.end=0.7", "trials=9"]))
    line = str(refused.value)
    assert "\n" not in line
    assert "epochs 40 -> 81; ramp.end 0.6 -> 0.7" in line
    assert "only trials, limits, resources, description may change" in line
    assert "sparsevlr search" in line
    assert "trials 32" not in line
