"""Whom a trial begins from, and that a study that is replayed keeps to it."""

import json

import pytest

from sparsevlr.results import Record
from sparsevlr.search.parents import choose_parent
from sparsevlr.search.study_run import StudyRun
from sparsevlr.spaces import SpecError, StudySpec, TrialConfig

from .conftest import TINY
from .test_study_run import Memory, measured

OBJECTIVES = ("verified_accuracy", "sparsity")


def trial(
    name: str, sparsity: float, accuracy: float = 0.5, hidden: int = 8, **others: object
) -> tuple[TrialConfig, Record]:
    values = {"architecture": "mlp", "architecture.hidden": [hidden], "sparsity": sparsity, "start": "parent-mask"}
    values |= {name.replace("__", "."): value for name, value in others.items()}
    report = Record(event="report", trial_id=name, rung=0, split="validation", sparsity=sparsity)
    return TrialConfig(trial_id=name, seed=0, values=values), Record(
        **report.to_dict() | {"verified_accuracy": accuracy}
    )


def chosen(wanted: tuple[TrialConfig, Record], *completed: tuple[TrialConfig, Record]) -> str | None:
    return choose_parent(wanted[0], {config.trial_id: (config, report) for config, report in completed}, OBJECTIVES)


def test_the_parent_is_the_sparsest_of_the_front_that_is_not_sparser() -> None:
    front = [trial("a", 0.0, 0.9), trial("b", 0.8, 0.8), trial("c", 0.95, 0.6)]
    assert chosen(trial("new", 0.9), *front) == "b"
    assert chosen(trial("new", 0.95), *front) == "c"
    assert chosen(trial("new", 0.5), *front) == "a"


def test_dominated_other_and_sparser_trials_are_no_parents() -> None:
    assert chosen(trial("new", 0.9), trial("a", 0.85, 0.5), trial("b", 0.88, 0.7)) == "b"
    assert chosen(trial("new", 0.9), trial("a", 0.85, 0.9), trial("b", 0.8, 0.7)) == "a"
    assert chosen(trial("new", 0.9), trial("a", 0.7, 0.9, hidden=16), trial("b", 0.95, 0.8)) is None
    assert chosen(trial("new", 0.9)) is None


def test_groups_are_had_of_the_same_groups_alone() -> None:
    blocks = {"pattern": "block", "pattern__size": 2}
    front = [trial("a", 0.5, 0.9, **blocks), trial("b", 0.8, 0.8), trial("c", 0.9, 0.7, pattern="unstructured")]
    assert chosen(trial("new", 0.95, **blocks), *front) == "a"
    assert chosen(trial("new", 0.95, pattern="block", pattern__size=4), *front) is None
    assert chosen(trial("new", 0.95, pattern="filter"), *front) is None
    # Single weights can be taken of anything.
    assert chosen(trial("new", 0.95), *front) == "c"
    assert chosen(trial("new", 0.7, pattern="unstructured"), *front) == "a"


def test_equal_trials_leave_it_to_the_earlier_one() -> None:
    assert chosen(trial("new", 0.9), trial("b", 0.8), trial("a", 0.8)) == "a"


def evolving(**changes: object) -> StudySpec:
    content = json.loads(json.dumps(TINY))
    content["space"] |= {"start": ["fresh", "parent-mask", "parent-weights"]}
    return StudySpec.from_dict(content | {"trials": 16, "scheduler": {"kind": "none"}, "sampler": "random"} | changes)


def test_a_replayed_study_keeps_its_parents() -> None:
    spec, store = evolving(), Memory()

    def go_on(run: StudyRun) -> None:
        while (assignment := run.next_trial()) is not None:
            run.started(assignment.config.trial_id)
            for rung in range(len(spec.rungs)):
                run.reported(measured(assignment.config, rung, spec))

    go_on(StudyRun(spec, store))
    proposed = [event for event in store.events if event.event == "proposed"]
    parents = {event.trial_id: event.parent for event in proposed}
    assert any(parents.values())
    assert all(json.loads(event.config or "").get("start.parent") == event.parent for event in proposed)
    assert all(parent is None or parent < name for name, parent in parents.items())
    for cut in range(1, len(store.events), 5):
        again = Memory()
        again.events = list(store.events[:cut])
        run = StudyRun(spec, again)
        run.replay(list(again.events))
        # What was cut in the middle of a trial goes on at the rung after its last report.
        while (assignment := run.next_trial()) is not None:
            name = assignment.config.trial_id
            run.started(name)
            done = run.reports.get(name)
            for rung in range(0 if done is None else done.rung + 1, len(spec.rungs)):
                run.reported(measured(assignment.config, rung, spec))
        assert {event.trial_id: event.parent for event in again.events if event.event == "proposed"} == parents


def test_nobody_but_the_study_chooses_a_parent() -> None:
    content = json.loads(json.dumps(TINY))
    content["space"] |= {"start": "parent-mask", "start.parent": "00000"}
    with pytest.raises(SpecError, match=r"start.parent is chosen by the study"):
        StudySpec.from_dict(content)
