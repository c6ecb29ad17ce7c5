"""A study in progress without Ray: whatever is lost after an event, the rest of the study is the same."""

import hashlib
import json
from typing import Any

import pytest

from sparsevlr.results import Record
from sparsevlr.search.study_run import StudyRun
from sparsevlr.spaces import StudySpec, TrialConfig

from .conftest import TINY


class Memory:
    """A store that keeps events in a list; it is full after so many."""

    def __init__(self, room: int | None = None) -> None:
        self.events: list[Record] = []
        self.checkpoints: set[str] = set()
        self._room = room

    def append(self, records: list[Record]) -> None:
        if self._room is not None and len(self.events) >= self._room:
            raise OSError("cut here")
        self.events.extend(records)
        self.checkpoints |= {record.checkpoint for record in records if record.checkpoint is not None}

    def discard_checkpoint(self, path: str) -> None:
        self.checkpoints.discard(path)


def tiny(**changes: object) -> StudySpec:
    scheduler = {"kind": "stopping", "eta": 2, "first_rung": 1}
    return StudySpec.from_dict(json.loads(json.dumps(TINY)) | {"trials": 14, "scheduler": scheduler} | changes)


def measured(config: TrialConfig, rung: int, spec: StudySpec) -> Record:
    """A report whose figures depend on the configuration and the rung alone, as a trial's do."""
    digest = hashlib.sha256(f"{config.values_json()} {rung}".encode()).digest()
    accuracy = (1 - config.target_sparsity**4) * (0.5 + digest[0] / 512)
    return Record(
        event="report",
        trial_id=config.trial_id,
        split="validation",
        rung=rung,
        epoch=spec.rungs[rung],
        sparsity=config.target_sparsity,
        target_sparsity=config.target_sparsity,
        total_weights=1000,
        verified_accuracy=accuracy,
        verified_auc=accuracy,
        checkpoint=f"checkpoints/{config.trial_id}/rung-{rung}",
    )


def run_one_after_the_other(run: StudyRun, spec: StudySpec) -> None:
    """What one worker does: a trial at a time; trial 3 fails at its first rung."""
    while (assignment := run.next_trial()) is not None:
        config, checkpoint = assignment
        run.started(config.trial_id)
        rung = 0 if checkpoint is None else int(checkpoint.rpartition("-")[2]) + 1
        if config.trial_id == "00003":
            run.failed(config.trial_id, "broken")
            continue
        while run.reported(measured(config, rung, spec)) == "continue":
            rung += 1
    assert run.finished


def told(events: list[Record]) -> list[dict[str, Any]]:
    return [{name: value for name, value in event.to_dict().items() if name != "time"} for event in events]


@pytest.mark.parametrize("kind", ["stopping", "promotion", "none"])
@pytest.mark.parametrize("sampler", ["tpe", "nsga2", "gp", "random"])
def test_a_study_that_is_cut_after_any_event_goes_on_as_if_it_were_not(sampler: str, kind: str) -> None:
    spec = tiny(sampler=sampler, scheduler={"kind": kind, "eta": 2, "first_rung": 1})
    whole = Memory()
    run_one_after_the_other(StudyRun(spec, whole), spec)
    states = {event.state for event in whole.events if event.event != "report"}
    assert {"completed", "failed"} <= states
    assert ("stopped" in states) == (kind != "none")
    assert ("paused" in states) == (kind == "promotion")
    for cut in range(0, len(whole.events), 20 if sampler == "gp" else 1):
        store = Memory(room=cut)
        with pytest.raises(OSError, match="cut here"):
            run_one_after_the_other(StudyRun(spec, store), spec)
        assert told(store.events) == told(whole.events[:cut])
        again = Memory()
        again.events, again.checkpoints = list(store.events), set(store.checkpoints)
        run = StudyRun(spec, again)
        run.replay(list(store.events))
        run_one_after_the_other(run, spec)
        assert told(again.events) == told(whole.events)
        assert again.checkpoints == whole.checkpoints


@pytest.mark.parametrize("kind", ["stopping", "promotion"])
def test_the_last_checkpoint_of_a_completed_trial_stays_and_no_other(kind: str) -> None:
    spec = tiny(scheduler={"kind": kind, "eta": 2, "first_rung": 1})
    store = Memory()
    run = StudyRun(spec, store)
    run_one_after_the_other(run, spec)
    completed = [trial_id for trial_id, state in run.states.items() if state == "completed"]
    assert store.checkpoints == {f"checkpoints/{trial_id}/rung-{len(spec.rungs) - 1}" for trial_id in completed}


def test_a_finished_study_can_be_extended_and_nothing_is_done_again() -> None:
    spec, longer = tiny(), tiny(trials=20)
    store, whole = Memory(), Memory()
    run_one_after_the_other(StudyRun(spec, store), spec)
    before = list(store.events)
    run = StudyRun(longer, store)
    run.replay(before)
    run_one_after_the_other(run, longer)
    run_one_after_the_other(StudyRun(longer, whole), longer)
    assert store.events[: len(before)] == before
    assert told(store.events) == told(whole.events)


def test_what_a_finished_study_has_stopped_is_not_promoted_when_it_is_extended() -> None:
    scheduler = {"kind": "promotion", "eta": 2, "first_rung": 1}
    store = Memory()
    run_one_after_the_other(StudyRun(tiny(scheduler=scheduler), store), tiny(scheduler=scheduler))
    over = {event.trial_id for event in store.events if event.state in ("stopped", "completed", "failed")}
    before = len(store.events)
    longer = tiny(scheduler=scheduler, trials=40)
    run = StudyRun(longer, store)
    run.replay(list(store.events))
    run_one_after_the_other(run, longer)
    assert {event.trial_id for event in store.events[before:]}.isdisjoint(over)


def test_trials_under_way_are_handed_out_first_and_from_their_checkpoint() -> None:
    spec = tiny()
    store = Memory()
    run = StudyRun(spec, store)
    first, second = run.next_trial(), run.next_trial()
    run.started(first.config.trial_id)
    assert run.reported(measured(first.config, 0, spec)) == "continue"
    resumed = StudyRun(spec, store)
    resumed.replay(list(store.events))
    assert resumed.trials_left == spec.trials
    assert resumed.next_trial() == (first.config, "checkpoints/00000/rung-0")
    assert resumed.next_trial() == (second.config, None)
    assert resumed.next_trial().config.trial_id == "00002"


def test_a_report_that_arrives_twice_is_stored_once() -> None:
    spec = tiny()
    store = Memory()
    run = StudyRun(spec, store)
    config, _ = run.next_trial()
    run.started(config.trial_id)
    run.reported(measured(config, 0, spec))
    events = len(store.events)
    assert run.reported(measured(config, 0, spec)) == "continue"
    run.started(config.trial_id)
    assert len(store.events) == events


@pytest.mark.parametrize("kind", ["none", "promotion"])
def test_what_ray_runs_on_after_a_worker_died_too_late_changes_nothing(kind: str) -> None:
    spec = tiny(scheduler={"kind": kind, "eta": 2, "first_rung": 1})
    store = Memory()
    run = StudyRun(spec, store)
    config, _ = run.next_trial()
    run.started(config.trial_id)
    assert run.reported(measured(config, 0, spec)) == {"none": "complete", "promotion": "pause"}[kind]
    events = len(store.events)
    for rung in (0, len(spec.rungs) - 1):
        assert run.reported(measured(config, rung, spec)) == "stop"
    run.failed(config.trial_id, "there is nothing left to train")
    assert len(store.events) == events


def test_a_trial_below_its_target_sparsity_is_not_compared() -> None:
    spec = tiny()
    run = StudyRun(spec, Memory())
    for accuracy in (0.9, 0.8, 0.7, 0.6, 0.5, 0.4):
        config, _ = run.next_trial()
        report = measured(config, 0, spec).to_dict() | {"sparsity": 0.0, "target_sparsity": 0.5}
        assert run.reported(Record(**(report | {"verified_auc": accuracy}))) == "continue"
