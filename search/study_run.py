"""A study in progress, free of Ray: what is asked next, what becomes of each report, and how it all is rebuilt.

Every event is appended to the store first and acted on afterwards, so that the store alone is enough to go on:
replaying its events leads to the same sampler, the same rungs and the same unfinished trials.
"""

from __future__ import annotations

import json
import math
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import NamedTuple, NoReturn

from ..results import Record, Store, StudyError
from ..results.paths import checkpoint_path
from ..results.record import OVER
from ..spaces import SpecError, StudySpec, TrialConfig
from ..trainables.methods import fingerprint
from .asha import SCHEDULERS
from .limits import Growth, Use, uses
from .parents import PARENT, choose_parent, wants_parent, without_parent
from .sampler import Sampler, trial_id_of
from .scores import at_target, objective_values, rung_values

STATE_AFTER = {
    "start": "running",
    "continue": "running",
    "pause": "paused",
    "promote": "running",
    "halt": "paused",
    "stop": "stopped",
    "complete": "completed",
}
UNDER_WAY = ("pending", "running")

WORKER_RETRIES = 2
"""How many workers of a trial may die from one of its reports to the next."""

EDITED = "study.json must have been edited: put the old values back, or start a new study with: sparsevlr search"


class Assignment(NamedTuple):
    """A trial to run, and the checkpoint to go on from where it has one."""

    config: TrialConfig
    checkpoint: str | None


class StudyRun:
    """The driver's state of a study.

    Args:
        spec: the study.
        store: open for writing.
        on_change: called after each event, for the display.
        may_write: called before and after each event; raises when this driver has lost the study to another.
        clock: seconds that pass; the wall time of the study's limits counts from here, or from the end of `replay`.

    Attributes:
        error: why nothing can be recorded any more: the study must end, and can be resumed. Every later attempt raises
            it again, whatever becomes of it in between.
    """

    error: StudyError | None = None

    def __init__(
        self,
        spec: StudySpec,
        store: Store,
        *,
        on_change: Callable[[StudyRun], None] = lambda run: None,
        may_write: Callable[[], None] = lambda: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.spec = spec
        self._store, self._on_change, self.may_write = store, on_change, may_write
        self._sampler = Sampler(spec)
        kind = SCHEDULERS.get(spec.scheduler.kind)
        self._asha = kind(len(spec.rungs), spec.scheduler.eta) if kind else None
        self._states: dict[str, str] = {}
        self._reports: dict[str, Record] = {}
        self._configs: dict[str, TrialConfig] = {}
        self._unfinished: deque[str] = deque()
        self._halted: set[str] = set()
        self._clock, self._began = clock, clock()
        self._heard: dict[str, float] = {}
        self._deaths: Counter[str] = Counter()
        self._left: set[str] = set()
        self._compute_seconds = 0.0
        self._growth = Growth(spec.objectives, spec.limits.tolerance)

    @property
    def states(self) -> Mapping[str, str]:
        """State of every trial by its id, in the order they were proposed."""
        return self._states

    @property
    def reports(self) -> Mapping[str, Record]:
        """The newest report on the validation split of every trial that has one."""
        return self._reports

    @property
    def trials_left(self) -> int:
        """How many trials have not been handed out yet, interrupted ones included."""
        return len(self._unfinished) + max(0, self.spec.trials - len(self._configs))

    @property
    def finished(self) -> bool:
        """Whether every trial is over."""
        return not self.trials_left and all(state in OVER for state in self._states.values())

    @property
    def uses(self) -> list[Use]:
        """How much of each limit that is set is used up."""
        return uses(
            self.spec.limits,
            wall_seconds=self._clock() - self._began,
            compute_seconds=self._compute_seconds,
            stagnation=self._growth.stagnation,
        )

    @property
    def limit_reached(self) -> Use | None:
        """The first limit that is reached, if any: then no trial goes on.

        It follows from the events alone, wall time aside; stagnation ends when a trial that was under way moves the
        front after all.
        """
        return next((use for use in self.uses if use.reached), None)

    @property
    def hypervolume(self) -> float:
        """Of the completed trials."""
        return self._growth.hypervolume

    def next_trial(self) -> Assignment | None:
        """The next trial to run: one that was interrupted or halted, else one to promote, else a new one.

        None where there is nothing to do at present, or where a limit is reached. When nothing is left and nothing runs
        any more either, no paused trial can be promoted ever, and all of them are stopped.
        """
        more = len(self._configs) < self.spec.trials
        promotion = self._asha.next_promotion(exact=not more) if self._asha else None
        if self._unfinished or promotion is not None or more:
            return None if self.limit_reached else self._hand_out(promotion)
        if not any(state in UNDER_WAY for state in self._states.values()):
            for trial_id in [trial_id for trial_id, state in self._states.items() if state == "paused"]:
                assert self._asha is not None
                self._asha.leave(trial_id)
                self._decided(trial_id, "stop", self._reports[trial_id].rung)
                self._tell(trial_id)
        return None

    def _hand_out(self, promotion: str | None) -> Assignment:
        if self._unfinished:
            trial_id = self._unfinished.popleft()
            if trial_id in self._halted:
                self._decided(trial_id, "continue", self._reports[trial_id].rung)
            return self._from_checkpoint(trial_id)
        if promotion is not None and self._asha is not None:
            self._asha.leave(promotion)
            self._decided(promotion, "promote", self._reports[promotion].rung)
            return self._from_checkpoint(promotion)
        return self._new()

    def _from_checkpoint(self, trial_id: str) -> Assignment:
        self._heard.pop(trial_id, None)
        report = self._reports.get(trial_id)
        return Assignment(self._configs[trial_id], report.checkpoint if report else None)

    def _new(self) -> Assignment:
        config = self._sampler.ask(len(self._configs))
        if wants_parent(config):
            completed = {
                trial_id: (self._configs[trial_id], self._reports[trial_id])
                for trial_id, state in self._states.items()
                if state == "completed"
            }
            parent = choose_parent(config, completed, self.spec.objectives)
            config = replace(config, values={**config.values, PARENT: parent}) if parent else config
        self._configs[config.trial_id] = config
        self._append(
            Record(
                event="proposed",
                trial_id=config.trial_id,
                config=config.values_json(),
                fingerprint=fingerprint(config, self.spec),
                seed=config.seed,
                target_sparsity=config.target_sparsity,
                parent=config.values.get(PARENT),
                data=self.spec.data,
            )
        )
        return Assignment(config, None)

    def started(self, trial_id: str) -> None:
        """A trial begins to run; a second start, after its worker died, is no news."""
        self._heard[trial_id] = self._clock()
        if self._states[trial_id] == "pending":
            self._decided(trial_id, "start", None)

    def reported(self, record: Record) -> str:
        """A rung is reached on the validation split: `continue`, `pause`, `halt`, `stop` or `complete`.

        A report that arrives twice, as happens after a worker's retry, is not stored again and changes no rung. When a
        worker dies between a report and its end, Ray may run a trial on that is over or paused here: it is stopped.
        """
        if self._states[record.trial_id] not in UNDER_WAY:
            return "stop"
        known = self._reports.get(record.trial_id)
        if known is not None and _rung(record) <= _rung(known):
            return "continue"
        self._append(record)
        self._heard[record.trial_id] = self._clock()
        self._deaths.pop(record.trial_id, None)
        if known is not None:
            self._discard(known)
        decision = self._judge(record)
        self._decided(record.trial_id, decision, record.rung)
        self._tell(record.trial_id)
        if decision == "halt":
            self._unfinished.append(record.trial_id)
        return decision

    def left(self, trial_id: str) -> None:
        """The worker of a trial has been told to end, and does: nothing that is held against the trial."""
        self._left.add(trial_id)

    def worker_died(self, trial_id: str, reason: str) -> None:
        """The worker of a trial is gone. The trial goes on elsewhere from its last checkpoint, unless it hung, or lost
        too many workers since its last report."""
        silent, allowed = self._clock() - self._heard.pop(trial_id, math.inf), self.spec.limits.rung_seconds
        if trial_id in self._left:
            self._left.discard(trial_id)
        elif allowed is not None and silent >= allowed:
            self.failed(
                trial_id, f"no report for {silent:.0f} s, and limits.rung_seconds is {allowed:g}: its worker was ended"
            )
        else:
            self._deaths[trial_id] += 1
            if self._deaths[trial_id] > WORKER_RETRIES:
                self.failed(trial_id, f"the worker process died {self._deaths[trial_id]} times in a row: {reason}")

    def hand_back(self, trial_id: str) -> None:
        """A trial that was handed out does not run; it is handed out again, once, unless it is over."""
        if self._states[trial_id] in UNDER_WAY and trial_id not in self._unfinished:
            self._unfinished.append(trial_id)

    def is_over(self, trial_id: str) -> bool:
        """Whether a trial has come to its end."""
        return self._states[trial_id] in OVER

    def tested(self, record: Record) -> None:
        """A trial of the front is measured on the test split, after the search."""
        self._append(record)

    def failed(self, trial_id: str, error: str) -> None:
        """A trial has ended with an error; the study goes on. What is over or paused here cannot fail any more."""
        if self._states[trial_id] not in UNDER_WAY:
            return
        self._append(Record(event="failed", trial_id=trial_id, error=error))
        self._tell(trial_id)
        self._forget(trial_id)

    def break_off(self, error: StudyError) -> NoReturn:
        """End the study by `error`: nothing is recorded any more."""
        with self._writing():
            raise error

    def replay(self, events: Iterable[Record]) -> None:
        """Rebuild this state from the events of a store, in their order of arrival; nothing is appended for them. As
        in life, a report or a proposal that arrives again changes nothing.

        A report whose decision was lost in between is decided now, as it would have been then. Trials that were under
        way or halted are handed out first.

        Raises:
            StudyError: the events do not belong to this specification; nothing is appended then.
        """
        undecided: dict[str, tuple[str, int | None]] = {}
        superseded: dict[str, Record] = {}
        for event in events:
            known = self._reports.get(event.trial_id)
            if event.split == "test" or (event.event == "proposed" and event.trial_id in self._configs):
                continue
            if event.event == "report" and known is not None:
                if _rung(event) <= _rung(known):
                    continue
                superseded[event.trial_id] = known
            if event.event == "proposed":
                config = self._recorded_config(event)
                self._check_complete(config.trial_id == trial_id_of(len(self._configs)), event)
                self._sampler.ask_again(len(self._configs), config)
                self._configs[config.trial_id] = config
            self._check_complete(event.trial_id in self._configs, event)
            waited = self._states.get(event.trial_id) == "paused" and event.trial_id not in self._halted
            self._remember(event)
            if waited and self._asha is not None:
                self._asha.leave(event.trial_id)
            if event.event == "report":
                self._check_rung(event)
                undecided[event.trial_id] = (self._judge(event), event.rung)
            elif event.event != "proposed" and event.decision != "start":
                undecided.pop(event.trial_id, None)
                self._tell(event.trial_id)
        # What was due to be removed when the driver was killed. All that a report superseded before was removed then.
        with self._writing():
            self.may_write()
        for report in superseded.values():
            self._discard(report)
        for trial_id, state in self._states.items():
            if state in ("stopped", "failed"):
                self._forget(trial_id)
        for trial_id, (decision, rung) in undecided.items():
            self._decided(trial_id, decision, rung)
            self._tell(trial_id)
        self._unfinished.extend(
            trial_id for trial_id, state in self._states.items() if state in UNDER_WAY or trial_id in self._halted
        )
        # However long this took, the session has its whole wall time for trials.
        self._began = self._clock()

    def _check_complete(self, complete: bool, event: Record) -> None:
        if not complete:
            raise StudyError(
                f"the study {self._store.uri} cannot go on, since events are missing: {event.event!r} of trial "
                f"{event.trial_id} follows {len(self._configs)} proposals; bring the missing files of its folders "
                "parts and journal back from a copy of the study"
            )

    def __getstate__(self) -> dict[str, object]:
        # Ray pickles what it is given, for a restore of its own that we never use. The store stays with this process.
        return {}

    def _judge(self, record: Record) -> str:
        rung = _rung(record)
        if rung == len(self.spec.rungs) - 1:
            return "complete"
        decision = "continue"
        if self._asha is not None and at_target(record):
            decision = self._asha.enter(record.trial_id, rung, rung_values(record, self.spec.objectives))
        return "halt" if decision == "continue" and self.limit_reached else decision

    def _tell(self, trial_id: str) -> None:
        """Let the sampler and the limits know what became of a trial that is over."""
        state = self._states[trial_id]
        if state not in OVER:
            return
        completed = state == "completed"
        values = objective_values(self._reports[trial_id], self.spec.objectives) if completed else None
        self._sampler.tell(trial_id, values, stopped=state == "stopped")
        self._growth.ended(values)

    def _decided(self, trial_id: str, decision: str, rung: int | None) -> None:
        state = STATE_AFTER[decision]
        self._append(Record(event="decision", trial_id=trial_id, decision=decision, state=state, rung=rung))
        if decision == "stop":
            self._forget(trial_id)

    def _discard(self, report: Record) -> None:
        """Remove the checkpoint of a report that is superseded."""
        if report.checkpoint is not None:
            with self._writing():
                self._store.discard_checkpoint(report.checkpoint)

    def _forget(self, trial_id: str) -> None:
        """Remove all checkpoints of a trial that is over without a result."""
        with self._writing():
            self._store.discard_checkpoint(checkpoint_path(trial_id))

    def _append(self, record: Record) -> None:
        with self._writing():
            self.may_write()
            self._store.append([record])
            # Now it counts, whoever comes; so what it supersedes may go.
            self.may_write()
        if record.split != "test":
            self._remember(record)
        self._on_change(self)

    @contextmanager
    def _writing(self) -> Iterator[None]:
        if self.error is not None:
            raise self.error
        try:
            yield
        except StudyError as error:
            self.error = error
            raise

    def _remember(self, record: Record) -> None:
        trial_id = record.trial_id
        if record.state is not None:
            self._states[trial_id] = record.state
        if record.event == "report":
            self._compute_seconds += _cost(record) - _cost(self._reports.get(trial_id))
            self._growth.measured(objective_values(record, self.spec.objectives))
            self._reports[trial_id] = record
        elif record.decision == "halt":
            self._halted.add(trial_id)
        else:
            self._halted.discard(trial_id)

    def _recorded_config(self, proposed: Record) -> TrialConfig:
        """The configuration of a trial that was proposed before, which must mean what it meant then."""
        assert proposed.config is not None
        assert proposed.seed is not None
        try:
            config = TrialConfig(trial_id=proposed.trial_id, seed=proposed.seed, values=json.loads(proposed.config))
            self.spec.space.check_point(without_parent(config.values))
        except SpecError as error:
            raise StudyError(f"trial {proposed.trial_id} is none of this study's space: {error}; {EDITED}") from None
        found = fingerprint(config, self.spec)
        if proposed.fingerprint not in (None, found):
            raise StudyError(
                f"trial {proposed.trial_id} has the fingerprint {proposed.fingerprint} on record, and {found} by the "
                f"study's specification; {EDITED}"
            )
        return config

    def _check_rung(self, report: Record) -> None:
        rung, rungs = _rung(report), self.spec.rungs
        if report.epoch is not None and (rung >= len(rungs) or report.epoch != rungs[rung]):
            raise StudyError(
                f"trial {report.trial_id} reported rung {rung} after epoch {report.epoch}, and the study's "
                f"specification has its rungs after {', '.join(map(str, rungs))}; {EDITED}"
            )


def _cost(report: Record | None) -> float:
    """Seconds of training and verification so far."""
    return 0.0 if report is None else (report.train_seconds or 0.0) + (report.verify_seconds or 0.0)


def _rung(record: Record) -> int:
    assert record.rung is not None
    return record.rung
