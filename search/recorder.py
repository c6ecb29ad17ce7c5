"""The driver's one way of writing a study: append first, act on it afterwards."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from ..results import Record, Store
from ..spaces import StudySpec, TrialConfig
from ..trainables.methods import fingerprint

STATE_AFTER = {"start": "running", "continue": "running", "stop": "stopped", "complete": "completed"}


class Recorder:
    """Appends every event of a running study to its store and keeps what became of the trials at hand.

    An event counts once it is appended: it is durable then. A report that arrives twice, as happens after a worker's
    retry, is ignored.

    Args:
        store: the study, open for writing.
        spec: its specification, whose constants enter every fingerprint.
        on_change: called after each event, for the display.
    """

    def __init__(self, store: Store, spec: StudySpec, on_change: Callable[[Recorder], None] = lambda _: None) -> None:
        self._store, self._spec, self._on_change = store, spec, on_change
        self._states: dict[str, str] = {}
        self._reports: dict[str, Record] = {}

    @property
    def states(self) -> Mapping[str, str]:
        """State of every trial by its id, in the order they were proposed."""
        return self._states

    @property
    def reports(self) -> Mapping[str, Record]:
        """The newest report on the validation split of every trial that has one."""
        return self._reports

    def proposed(self, config: TrialConfig) -> None:
        """A configuration is about to run."""
        self._append(
            Record(
                event="proposed",
                trial_id=config.trial_id,
                config=config.values_json(),
                fingerprint=fingerprint(config, self._spec),
                seed=config.seed,
                target_sparsity=config.target_sparsity,
                data=self._spec.data,
            )
        )

    def started(self, trial_id: str) -> None:
        """A trial begins to run; a second start, after a worker's death, is no news."""
        if self._states[trial_id] == "pending":
            self._decide(trial_id, "start", None)

    def reported(self, record: Record) -> bool:
        """A rung is reached; False where this report had arrived before."""
        known = self._reports.get(record.trial_id)
        if record.split == "validation":
            if known is not None and known.rung is not None and record.rung is not None and record.rung <= known.rung:
                return False
            self._reports[record.trial_id] = record
        self._append(record)
        return True

    def decided(self, trial_id: str, decision: str) -> None:
        """What the scheduler makes of a trial's newest report: `continue`, `stop` or `complete`."""
        self._decide(trial_id, decision, self._reports[trial_id].rung)

    def failed(self, trial_id: str, error: str) -> None:
        """A trial has ended with an error; the study goes on."""
        self._append(Record(event="failed", trial_id=trial_id, error=error))

    def _decide(self, trial_id: str, decision: str, rung: int | None) -> None:
        state = STATE_AFTER[decision]
        self._append(Record(event="decision", trial_id=trial_id, decision=decision, state=state, rung=rung))

    def __getstate__(self) -> dict[str, object]:
        # Ray pickles what it is given, for a restore of its own that we never use. The store stays with this process.
        return {}

    def _append(self, record: Record) -> None:
        self._store.append([record])
        if record.split != "test" and record.state is not None:
            self._states[record.trial_id] = record.state
        self._on_change(self)
