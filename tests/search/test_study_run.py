"""A study in progress without Ray: whatever is lost after an event, the rest of the study is the same."""

import errno
import hashlib
import json
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ray.tune.search import Searcher

from sparsevlr.results import Record, StorageError, Store, StudyError, open_study
from sparsevlr.results.record import from_table
from sparsevlr.search.ray_adapters import StudyScheduler, StudySearcher
from sparsevlr.search.sampler import STARTUP_TRIALS
from sparsevlr.search.study_run import StudyRun
from sparsevlr.spaces import StudySpec, TrialConfig

from .conftest import TINY


class Memory:
    """A store that keeps events in a list; it is full after so many."""

    uri = "memory"

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
        self.checkpoints = {one for one in self.checkpoints if not f"{one}/".startswith(f"{path}/")}


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
        verified_ramp=accuracy,
        train_seconds=float(spec.rungs[rung]),
        verify_seconds=0.5,
        checkpoint=f"checkpoints/{config.trial_id}/rung-{rung}",
    )


def run_one_after_the_other(run: StudyRun, spec: StudySpec) -> None:
    """What one worker does until the study ends or a limit is reached: a trial at a time; trial 3 fails at once."""
    while (assignment := run.next_trial()) is not None:
        config, checkpoint = assignment
        run.started(config.trial_id)
        rung = 0 if checkpoint is None else int(checkpoint.rpartition("-")[2]) + 1
        if config.trial_id == "00003":
            run.failed(config.trial_id, "broken")
            continue
        while run.reported(measured(config, rung, spec)) == "continue":
            rung += 1
    assert run.finished or run.limit_reached


def told(events: list[Record]) -> list[dict[str, Any]]:
    return [{name: value for name, value in event.to_dict().items() if name != "time"} for event in events]


def replayed(spec: StudySpec, store: Memory, events: list[Record], **options: Any) -> StudyRun:
    run = StudyRun(spec, store, **options)
    run.replay(list(events))
    return run


@pytest.mark.parametrize("asked", range(2, 60))
def test_a_driver_that_is_superseded_at_any_moment_has_removed_nothing_that_the_next_needs(asked: int) -> None:
    """Whoever comes goes on from the events that were stored before it came: their checkpoints must be there."""
    spec = tiny()
    store, times, counted = Memory(), 0, 0

    def may_write() -> None:
        nonlocal times, counted
        times += 1
        if times >= asked:
            raise StudyError("another driver has taken it over")
        # Nobody had come before this was called: so much counts.
        counted = len(store.events)

    with pytest.raises(StudyError, match="taken it over"):
        run_one_after_the_other(StudyRun(spec, store, may_write=may_write), spec)
    assignment = replayed(spec, Memory(), store.events[:counted]).next_trial()
    assert assignment is not None
    assert assignment.checkpoint is None or assignment.checkpoint in store.checkpoints


WITHOUT_LIMITS = [(sampler, {}) for sampler in ("tpe", "nsga2", "gp", "random")]
WITH_LIMITS = [("random", {"compute_seconds": 16.0}), ("random", {"stagnation": 1, "tolerance": 0.5})]


@pytest.mark.parametrize(("sampler", "limits"), WITHOUT_LIMITS + WITH_LIMITS)
@pytest.mark.parametrize("kind", ["stopping", "promotion", "none"])
def test_a_study_that_is_cut_after_any_event_goes_on_as_if_it_were_not(
    sampler: str, kind: str, limits: dict[str, float]
) -> None:
    # Each question to the model of a Gaussian process takes seconds.
    trials = STARTUP_TRIALS + 2 if sampler == "gp" else 14
    scheduler = {"kind": kind, "eta": 2, "first_rung": 1}
    spec = tiny(trials=trials, sampler=sampler, scheduler=scheduler, limits=limits)
    whole = Memory()
    run = StudyRun(spec, whole)
    run_one_after_the_other(run, spec)
    states = {event.state for event in whole.events if event.event != "report"}
    assert run.finished == (not limits)
    if not limits:
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
        run_one_after_the_other(replayed(spec, again, store.events), spec)
        assert told(again.events) == told(whole.events)
        assert again.checkpoints == whole.checkpoints


@pytest.mark.parametrize("lost", ["00000", "00003", "00013"])
def test_a_study_whose_proposals_are_not_all_there_does_not_go_on(lost: str) -> None:
    spec, store = tiny(), Memory()
    run_one_after_the_other(StudyRun(spec, store), spec)
    left = [event for event in store.events if (event.event, event.trial_id) != ("proposed", lost)]
    again = Memory()
    with pytest.raises(StudyError, match=f"events are missing: .* follows {int(lost)} proposals; bring"):
        replayed(spec, again, left)
    assert not again.events


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
        assert run.reported(Record(**(report | {"verified_ramp": accuracy}))) == "continue"


@pytest.mark.parametrize("kind", ["stopping", "promotion", "none"])
@pytest.mark.parametrize("limit", ["compute_seconds", "stagnation", "wall_seconds"])
def test_a_study_that_came_to_limits_ends_as_one_without(limit: str, kind: str) -> None:
    scheduler = {"kind": kind, "eta": 2, "first_rung": 1}
    whole, store = Memory(), Memory()
    run_one_after_the_other(StudyRun(tiny(scheduler=scheduler), whole), tiny(scheduler=scheduler))
    run, allowed, sessions = StudyRun(tiny(), store), 0, 0
    while not (store.events and run.finished):
        allowed, sessions = allowed + (4 if limit == "compute_seconds" else 1), sessions + 1
        limits = {limit: 9 if limit == "wall_seconds" else allowed, "tolerance": 0.5}
        spec = tiny(scheduler=scheduler, limits=limits)
        run = replayed(spec, store, store.events, clock=lambda: float(len(store.events)))
        run_one_after_the_other(run, spec)
    assert sessions > 2
    assert told([event for event in store.events if event.decision != "halt"]) == told(whole.events)
    assert store.checkpoints == whole.checkpoints


def test_a_limit_halts_what_runs_and_hands_out_nothing_until_it_is_raised() -> None:
    spec = tiny(scheduler={"kind": "promotion", "eta": 2, "first_rung": 1}, limits={"compute_seconds": 6})
    store = Memory()
    run = StudyRun(spec, store)
    waits, goes_on, proposed = (run.next_trial() for _ in range(3))
    for assignment in (waits, goes_on):
        run.started(assignment.config.trial_id)
    assert run.reported(measured(waits.config, 0, spec)) == "pause"
    below_target = {"sparsity": 0.0, "target_sparsity": 0.5, "train_seconds": 9.0}
    assert run.reported(Record(**(measured(goes_on.config, 0, spec).to_dict() | below_target))) == "halt"
    assert run.states[goes_on.config.trial_id] == "paused"
    assert run.limit_reached == ("compute_seconds", 11.0, 6.0)
    assert run.next_trial() is None
    assert not run.finished
    events = len(store.events)
    same = replayed(spec, store, store.events)
    assert same.limit_reached == run.limit_reached
    assert same.next_trial() is None
    assert len(store.events) == events
    raised = replayed(tiny(scheduler=spec.to_dict()["scheduler"], limits={"compute_seconds": 60}), store, store.events)
    assert raised.next_trial() == (goes_on.config, f"checkpoints/{goes_on.config.trial_id}/rung-0")
    assert raised.next_trial() == proposed
    assert raised.states[goes_on.config.trial_id] == "running"
    assert raised.states[waits.config.trial_id] == "paused"
    assert raised.next_trial().config.trial_id == "00003"


def test_a_front_that_moves_after_all_ends_the_stagnation() -> None:
    spec = tiny(scheduler={"kind": "none"}, limits={"stagnation": 1})
    run = StudyRun(spec, Memory())
    first, second = run.next_trial(), run.next_trial()
    run.started(second.config.trial_id)
    run.failed(first.config.trial_id, "broken")
    assert run.next_trial() is None
    assert run.reported(measured(second.config, 0, spec)) == "complete"
    assert run.limit_reached is None
    assert run.next_trial() is not None


def test_a_trial_that_was_halted_goes_on_first_when_stagnation_ends_in_the_same_session() -> None:
    spec = tiny(limits={"stagnation": 1})
    run = StudyRun(spec, Memory())
    searcher = StudySearcher(run, slots=lambda: 3)
    configs = [TrialConfig.from_json(searcher.suggest(name)["trial"]) for name in "abc"]
    for config in configs:
        run.started(config.trial_id)
    for rung in range(len(spec.rungs) - 1):
        report = measured(configs[0], rung, spec).to_dict() | {"verified_ramp": 2.0, "target_sparsity": 1.0}
        assert run.reported(Record(**(report | {"sparsity": 1.0}))) == "continue"
    run.failed(configs[1].trial_id, "broken")
    searcher.on_trial_complete("b")
    below_target = {"sparsity": 0.0, "target_sparsity": 0.5}
    assert run.reported(Record(**(measured(configs[2], 0, spec).to_dict() | below_target))) == "halt"
    searcher.on_trial_complete("c")
    # One still runs, and may end the stagnation.
    assert searcher.suggest("d") is None
    assert run.reported(measured(configs[0], len(spec.rungs) - 1, spec)) == "complete"
    assert TrialConfig.from_json(searcher.suggest("d")["trial"]) == configs[2]


def test_with_nothing_under_way_a_limit_ends_the_search() -> None:
    run = StudyRun(tiny(limits={"stagnation": 1}), Memory())
    searcher = StudySearcher(run, slots=lambda: 2)
    trial_id = json.loads(searcher.suggest("a")["trial"])["trial_id"]
    run.failed(trial_id, "broken")
    assert searcher.suggest("b") is None
    searcher.on_trial_complete("a", error=True)
    assert searcher.suggest("b") == Searcher.FINISHED


def test_a_trial_may_lose_two_workers_from_one_report_to_the_next_and_those_that_were_told_to_end_do_not_count() -> (
    None
):
    spec, store = tiny(), Memory()
    run = StudyRun(spec, store)
    config, _ = run.next_trial()
    trial = config.trial_id
    run.started(trial)
    for rung in (0, 1):
        for _ in range(2):
            run.worker_died(trial, "out of memory")
        run.left(trial)
        run.worker_died(trial, "it left")
        assert run.reported(measured(config, rung, spec)) == "continue"
    for _ in range(3):
        assert not run.is_over(trial)
        run.worker_died(trial, "out of memory")
    assert run.is_over(trial)
    assert store.events[-1].error == "the worker process died 3 times in a row: out of memory"


def test_a_worker_that_died_after_too_long_a_silence_had_hung() -> None:
    now = 0.0
    spec, store = tiny(limits={"rung_seconds": 5}), Memory()
    run = StudyRun(spec, store, clock=lambda: now)
    config, _ = run.next_trial()
    run.started(config.trial_id)
    now = 4.0
    assert run.reported(measured(config, 0, spec)) == "continue"
    now = 8.0
    run.worker_died(config.trial_id, "killed")
    assert not run.is_over(config.trial_id)
    # It waits for another worker meanwhile, which is no silence of its own.
    now = 20.0
    run.worker_died(config.trial_id, "killed")
    assert not run.is_over(config.trial_id)
    run.started(config.trial_id)
    now = 25.0
    run.worker_died(config.trial_id, "killed")
    assert store.events[-1].error == "no report for 5 s, and limits.rung_seconds is 5: its worker was ended"


def test_a_trial_that_is_handed_back_is_handed_out_again_from_its_checkpoint() -> None:
    spec = tiny()
    run = StudyRun(spec, Memory())
    config, _ = run.next_trial()
    run.started(config.trial_id)
    report = measured(config, 0, spec)
    run.reported(report)
    run.hand_back(config.trial_id)
    run.hand_back(config.trial_id)
    assert run.next_trial() == (config, report.checkpoint)
    assert run.next_trial().config != config
    run.failed(config.trial_id, "broken")
    run.hand_back(config.trial_id)
    assert run.next_trial().config != config


def test_an_idle_worker_goes_to_the_newest_trial_and_none_to_one_that_is_over() -> None:
    run = StudyRun(tiny(), Memory())
    configs = [run.next_trial().config for _ in range(4)]
    waiting = [SimpleNamespace(status="PENDING", config={"trial": config.to_json()}) for config in configs]
    scheduler = StudyScheduler(run)
    for trial in waiting:
        scheduler.on_trial_add(None, trial)
    waiting[3].status = "RUNNING"
    run.failed(configs[2].trial_id, "broken")
    stopped: list[object] = []
    assert scheduler.choose_trial_to_run(SimpleNamespace(stop_trial=stopped.append)) is waiting[1]
    assert stopped == [waiting[2]]


def test_at_a_limit_what_no_node_has_taken_is_withdrawn_and_kept_for_later() -> None:
    now = 0.0
    run = StudyRun(tiny(limits={"wall_seconds": 10}), Memory(), clock=lambda: now)
    slots = 2
    searcher, scheduler = StudySearcher(run, lambda: slots), StudyScheduler(run)
    waiting = [SimpleNamespace(status="PENDING", config=searcher.suggest(name)) for name in "ab"]
    for trial in [*waiting, waiting[0]]:
        scheduler.on_trial_add(None, trial)
    stopped: list[object] = []
    controller = SimpleNamespace(stop_trial=stopped.append)
    assert scheduler.choose_trial_to_run(controller) is waiting[1]
    # Their nodes have gone.
    now, slots = 10.0, 0
    assert scheduler.choose_trial_to_run(controller) is None
    assert stopped == waiting
    assert searcher.suggest("c") is None
    for name in "ab":
        searcher.on_trial_complete(name)
    assert searcher.suggest("c") == "FINISHED"
    # A resumed session begins with them.
    assert run.trials_left == tiny().trials
    assert set(run.states.values()) == {"pending"}


def test_what_a_trial_has_cost_counts_once() -> None:
    spec = tiny(scheduler={"kind": "stopping", "eta": 2, "first_rung": 1}, limits={"compute_seconds": 100})
    run = StudyRun(spec, Memory())
    config, _ = run.next_trial()
    run.started(config.trial_id)
    for rung in (0, 1):
        run.reported(measured(config, rung, spec))
        assert [use.used for use in run.uses] == [spec.rungs[rung] + 0.5]


def test_a_study_that_has_nothing_left_but_to_stop_who_waits_is_finished_whatever_its_limits() -> None:
    spec = tiny(scheduler={"kind": "promotion", "eta": 2, "first_rung": 1}, limits={"stagnation": 5})
    whole = Memory()
    run = StudyRun(spec, whole)
    run_one_after_the_other(run, spec)
    assert run.finished
    assert run.limit_reached
    for cut in range(len(whole.events) - 6, len(whole.events)):
        again = Memory()
        again.events = list(whole.events[:cut])
        run_one_after_the_other(replayed(spec, again, again.events), spec)
        assert told(again.events) == told(whole.events)


def test_what_cannot_be_stored_ends_the_study_and_nothing_is_stored_after_it(tmp_path: Path) -> None:
    spec = tiny()
    with Store.create(tmp_path / "study", spec.to_dict()) as store:
        run = StudyRun(spec, store)
        config, _ = run.next_trial()
        run.started(config.trial_id)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("sparsevlr.results.journal.os.write", full_disk)
            with pytest.raises(StorageError, match=r"No space left on device; free space .* sparsevlr resume"):
                run.reported(measured(config, 0, spec))
        # Whatever is made of the first error: there is room again, but what was lost would leave a gap.
        for late in (lambda: run.failed(config.trial_id, "late"), run.next_trial):
            with pytest.raises(StorageError, match="No space left"):
                late()
        assert run.error is not None
    events = from_table(open_study(tmp_path / "study").events())
    assert [event.decision or event.event for event in events] == ["proposed", "start"]
    again = replayed(spec, Memory(), events)
    assert again.next_trial() == (config, None)


@pytest.mark.parametrize(
    ("edited", "told"),
    [
        ({"epsilon": 0.04}, "trial 00000 has the fingerprint"),
        ({"epochs": 8}, "trial 00000 has the fingerprint"),
        ({"ramp": {"start": 0.1, "end": 0.5}}, "trial 00000 has the fingerprint"),
        ({"scheduler": {"kind": "stopping", "eta": 2, "first_rung": 2}}, "rung 0 after epoch 1"),
        ({"scheduler": {"kind": "none"}}, "rung 0 after epoch 1"),
        ({"space": TINY["space"] | {"sparsity": 0.123}}, r"none of this study's space: sparsity"),
    ],
)
def test_a_specification_that_was_edited_by_hand_is_noticed(edited: dict[str, object], told: str) -> None:
    spec, store = tiny(), Memory()
    run_one_after_the_other(StudyRun(spec, store), spec)
    untouched = Memory()
    with pytest.raises(StudyError, match=rf"{told}.*study\.json must have been edited.*sparsevlr search"):
        replayed(tiny(**edited), untouched, store.events)
    assert untouched.events == []


def full_disk(*arguments: object) -> int:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
