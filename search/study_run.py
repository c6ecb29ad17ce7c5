"""A study in progress, free of Ray: what is asked next, what becomes of each report, and how it all is rebuilt.

Every event is appended to the store first and acted on afterwards, so that the store alone is enough to go on:
replaying its events leads to the same sampler, the same rungs and the same unfinished trials.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

from ..results import Record, Store
from ..spaces import StudySpec, TrialConfig
from ..trainables.methods import fingerprint
from .asha import SCHEDULERS
from .sampler import Sampler
from .scores import at_target, objective_values, rung_values

STATE_AFTER = {
    "start": "running",
    "continue": "running",
    "pause": "paused",
    "promote": "running",
    "stop": "stopped",
    "complete": "completed",
}
OVER = ("completed", "stopped", "failed")
UNDER_WAY = ("pending", "running")


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
        may_write: called before each event; raises when this driver has lost the study to another.
    """

    def __init__(
        self,
        spec: StudySpec,
        store: Store,
        *,
        on_change: Callable[[StudyRun], None] = lambda run: None,
        may_write: Callable[[], None] = lambda: None,
    ) -> None:
        self.spec = spec
        self._store, self._on_change, self._may_write = store, on_change, may_write
        self._sampler = Sampler(spec)
        kind = SCHEDULERS.get(spec.scheduler.kind)
        self._asha = kind(len(spec.rungs), spec.scheduler.eta) if kind else None
        self._states: dict[str, str] = {}
        self._reports: dict[str, Record] = {}
        self._configs: dict[str, TrialConfig] = {}
        self._unfinished: deque[str] = deque()

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

    def next_trial(self) -> Assignment | None:
        """The next trial to run: one that was interrupted, else one to promote, else a new one.

        None where there is nothing to do at present. When nothing runs any more either, no paused trial can be promoted
        ever, and all of them are stopped.
        """
        if self._unfinished:
            return self._from_checkpoint(self._unfinished.popleft())
        more = len(self._configs) < self.spec.trials
        promotion = self._asha.next_promotion(exact=not more) if self._asha else None
        if promotion is not None and self._asha is not None:
            self._asha.leave(promotion)
            self._decided(promotion, "promote", self._reports[promotion].rung)
            return self._from_checkpoint(promotion)
        if more:
            return self._new()
        if not any(state in UNDER_WAY for state in self._states.values()):
            for trial_id in [trial_id for trial_id, state in self._states.items() if state == "paused"]:
                assert self._asha is not None
                self._asha.leave(trial_id)
                self._decided(trial_id, "stop", self._reports[trial_id].rung)
                self._tell(trial_id)
        return None

    def _from_checkpoint(self, trial_id: str) -> Assignment:
        report = self._reports.get(trial_id)
        return Assignment(self._configs[trial_id], report.checkpoint if report else None)

    def _new(self) -> Assignment:
        config = self._sampler.ask(len(self._configs))
        self._configs[config.trial_id] = config
        self._append(
            Record(
                event="proposed",
                trial_id=config.trial_id,
                config=config.values_json(),
                fingerprint=fingerprint(config, self.spec),
                seed=config.seed,
                target_sparsity=config.target_sparsity,
                data=self.spec.data,
            )
        )
        return Assignment(config, None)

    def started(self, trial_id: str) -> None:
        """A trial begins to run; a second start, after its worker died, is no news."""
        if self._states[trial_id] == "pending":
            self._decided(trial_id, "start", None)

    def reported(self, record: Record) -> str:
        """A rung is reached on the validation split: `continue`, `pause`, `stop` or `complete`.

        A report that arrives twice, as happens after a worker's retry, is not stored again and changes no rung. When a
        worker dies between a report and its end, Ray may run a trial on that is over or paused here: it is stopped.
        """
        if self._states[record.trial_id] not in UNDER_WAY:
            return "stop"
        known = self._reports.get(record.trial_id)
        if known is not None and _rung(record) <= _rung(known):
            return "continue"
        self._append(record)
        if known is not None:
            self._discard(known)
        decision = self._judge(record)
        self._decided(record.trial_id, decision, record.rung)
        self._tell(record.trial_id)
        return decision

    def tested(self, record: Record) -> None:
        """A trial of the front is measured on the test split, after the search."""
        self._append(record)

    def failed(self, trial_id: str, error: str) -> None:
        """A trial has ended with an error; the study goes on. What is over or paused here cannot fail any more."""
        if self._states[trial_id] not in UNDER_WAY:
            return
        self._append(Record(event="failed", trial_id=trial_id, error=error))
        self._tell(trial_id)
        self._discard(self._reports.get(trial_id))

    def replay(self, events: Iterable[Record]) -> None:
        """Rebuild this state from the events of a store, in their order of arrival; nothing is appended for them.

        A report whose decision was lost in between is decided now, as it would have been then. Trials that were under
        way are handed out first.
        """
        undecided: dict[str, tuple[str, int | None]] = {}
        reports: list[Record] = []
        for event in events:
            if event.split == "test":
                continue
            if event.event == "proposed":
                config = _config(event)
                self._sampler.ask_again(len(self._configs), config)
                self._configs[config.trial_id] = config
            waited = self._states.get(event.trial_id) == "paused"
            self._remember(event)
            if waited and self._asha is not None:
                self._asha.leave(event.trial_id)
            if event.event == "report":
                undecided[event.trial_id] = (self._judge(event), event.rung)
                reports.append(event)
            elif event.event != "proposed" and event.decision != "start":
                undecided.pop(event.trial_id, None)
                self._tell(event.trial_id)
        # What was due to be removed when the driver was killed.
        for report in reports:
            if self._states[report.trial_id] in ("stopped", "failed") or self._reports[report.trial_id] is not report:
                self._discard(report)
        for trial_id, (decision, rung) in undecided.items():
            self._decided(trial_id, decision, rung)
            self._tell(trial_id)
        self._unfinished.extend(trial_id for trial_id, state in self._states.items() if state in UNDER_WAY)

    def __getstate__(self) -> dict[str, object]:
        # Ray pickles what it is given, for a restore of its own that we never use. The store stays with this process.
        return {}

    def _judge(self, record: Record) -> str:
        rung = _rung(record)
        if rung == len(self.spec.rungs) - 1:
            return "complete"
        if self._asha is None or not at_target(record):
            return "continue"
        return self._asha.enter(record.trial_id, rung, rung_values(record, self.spec.objectives))

    def _tell(self, trial_id: str) -> None:
        """Let the sampler know what became of a trial that is over."""
        state = self._states[trial_id]
        if state == "completed":
            self._sampler.tell(trial_id, objective_values(self._reports[trial_id], self.spec.objectives))
        elif state in OVER:
            self._sampler.tell(trial_id, None, stopped=state == "stopped")

    def _decided(self, trial_id: str, decision: str, rung: int | None) -> None:
        state = STATE_AFTER[decision]
        self._append(Record(event="decision", trial_id=trial_id, decision=decision, state=state, rung=rung))
        if decision == "stop":
            self._discard(self._reports[trial_id])

    def _discard(self, report: Record | None) -> None:
        """Remove the checkpoint of a report that is superseded, or whose trial is over without a result."""
        if report is not None and report.checkpoint is not None:
            self._store.discard_checkpoint(report.checkpoint)

    def _append(self, record: Record) -> None:
        self._may_write()
        self._store.append([record])
        if record.split != "test":
            self._remember(record)
        self._on_change(self)

    def _remember(self, record: Record) -> None:
        if record.state is not None:
            self._states[record.trial_id] = record.state
        if record.event == "report":
            self._reports[record.trial_id] = record


def _config(proposed: Record) -> TrialConfig:
    assert proposed.config is not None
    assert proposed.seed is not None
    return TrialConfig(trial_id=proposed.trial_id, seed=proposed.seed, values=json.loads(proposed.config))


def _rung(record: Record) -> int:
    assert record.rung is not None
    return record.rung
