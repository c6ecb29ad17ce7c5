"""From events to tables: one row per report, one row per trial. Column arithmetic only, no loop over rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from .pieces import Events, Mask, Positions
from .record import DIRECTIONS, EVENTS, RECORD_SCHEMA, SPLITS, STATES

IDENTITY = ("config", "fingerprint", "seed", "target_sparsity", "parent", "data")
"""What a trial is, said once, when it is proposed."""

MEASURED_ON_SPLIT = (
    "natural_accuracy",
    "adversarial_accuracy",
    "verified_accuracy",
    "verified_low",
    "verified_high",
    "verified_auc",
    "verified_ramp",
    "epsilon",
    "samples",
    "n_verified",
    "n_falsified",
    "n_unknown",
    "unstable_relu_fraction",
    "layer_measures",
    "verify_seconds",
    "error",
)
"""What depends on the inputs that a network was measured on; all other measures belong to the network itself."""

_OF_NETWORK = (
    "epoch",
    "budget",
    "sparsity",
    "nonzero_weights",
    "total_weights",
    "macs",
    "size_bytes",
    "layer_densities",
    "other_parameters",
    "dense_bytes",
    "bitmask_bytes",
    "csr_bytes",
    "dense_stage",
    "train_seconds",
    "shared_seconds",
    "checkpoint",
    "rung",
)
_OF_LAST_EVENT = ("event", "time", "schema_version")
MEASURED = (*_OF_NETWORK, *MEASURED_ON_SPLIT, "split")
_MINIMISED = tuple(name for name, direction in DIRECTIONS.items() if direction == "min")


def first_arrivals(events: Events) -> Mask:
    """True for the events ``(events,)`` less second arrivals: of a report's key (trial_id, rung, split), and of a
    trial's proposal. Rows without a trial or of an unknown kind are left out."""
    trial, kind = events.trials.codes, events.codes("event", EVENTS)
    keep: Mask = (trial >= 0) & (kind >= 0)
    rung, split = _rungs(events), events.codes("split", SPLITS)
    # Rungs are anybody's numbers: their places among those that there are keep the key from overflowing.
    known, place = np.unique(rung, return_inverse=True)
    key = (trial * max(1, len(known)) + place) * (len(SPLITS) + 1) + split + 1
    for name, identity in (("report", key), ("proposed", trial)):
        rows = np.flatnonzero(keep & (kind == EVENTS.index(name)))
        keep[rows] = False
        keep[rows[np.unique(identity[rows], return_index=True)[1]]] = True
    return keep


class Sources(NamedTuple):
    """Positions ``(trials,)`` of what summaries are made of."""

    proposed: Positions
    measured: Positions
    stated: Positions


@dataclass(frozen=True)
class Fold:
    """What events say of each trial; each answer is computed once. Second arrivals change nothing.

    It needs the `decisive` events alone: of these any number of stretches, in their order, give the same trials.
    """

    events: Events

    def __len__(self) -> int:
        """How many ids there are."""
        return len(self.events.trials.ids)

    @cached_property
    def trials(self) -> TrialRows:
        """One row per trial in the order of proposal: its state from its last decision or failure, its measures from
        its report on the validation split at the highest rung, ``event`` and ``time`` from what came last of these."""
        return TrialRows(self, np.flatnonzero(self._first >= 0))

    @cached_property
    def decisive(self) -> Positions:
        """Where the events lie that decide what the trials are: the first and the last of each trial, and those that
        the fold takes anything from. Beside them the earliest and the latest in time, and reports that are worse in
        a minimised objective than all before."""
        found = [self._first, self._proposed, self.measured, self._stated, self._decision, self._failure]
        positions: Positions = np.unique(np.concatenate([*found, self._singular]))
        return positions[positions >= 0]

    @cached_property
    def summed(self) -> Sources:
        """Of each trial that a single row can stand for, where its parts lie: all that is decisive of it are its
        proposal, its report and its last decision, in this order."""
        rising = (self._first == self._proposed) & (self._proposed <= self.measured) & (self.measured <= self._stated)
        simple = (self._proposed >= 0) & rising & (self._stated == self._decision) & (self._failure < 0)
        simple[self._trial[self._singular]] = False
        return Sources(self._proposed[simple], self.measured[simple], self._stated[simple])

    @cached_property
    def _singular(self) -> Positions:
        """Decisive events by themselves, whatever their trials are: not measured on validation, worse than all before,
        the earliest and the latest in time."""
        found = [np.flatnonzero(self._reports & (self._split != 0)), self.worse(_MINIMISED)]
        if len(self.events):
            time = self.events.numbers("time")
            known = (self._trial >= 0) & np.isfinite(time)
            found += [np.array([np.where(known, time, np.inf).argmin(), np.where(known, time, -np.inf).argmax()])]
        positions: Positions = np.unique(np.concatenate(found))
        return positions[self._trial[positions] >= 0]

    @cached_property
    def state(self) -> NDArray[np.int8]:
        """Of each trial ``(trials,)``, as a place in `STATES`. The last decision or failure says it; reports only tell
        that a pending trial has begun. (A report on the test split comes after a trial is completed, a late one after
        it is stopped: neither revives it.)"""
        stated = self._of_events("state", STATES)[self._stated]
        pending = STATES.index("pending")
        stated = np.where((self._stated < 0) | (stated < 0), pending, stated)
        return np.where((stated == pending) & (self.measured >= 0), STATES.index("running"), stated).astype(np.int8)

    @cached_property
    def tested(self) -> Mask:
        """Of each trial, whether any of its networks was measured on the test split."""
        rows = np.zeros(len(self), dtype=bool)
        rows[self._trial[self._reports & (self._split == 1)]] = True
        return rows

    def rows(
        self, chosen: Positions, names: Sequence[str] = RECORD_SCHEMA.names, split: str = "validation"
    ) -> pa.Table:
        """Columns of some trials, given their numbers. With ``split="test"`` what depends on the split comes from the
        report on the test split of the same network (equal rung); null where that was not measured."""
        measured = self.measured[chosen]
        found = self._taken(_OF_LAST_EVENT, names, self._last[chosen])
        found |= self._taken(MEASURED, names, measured)
        found |= self._taken(IDENTITY, names, np.where(self._proposed[chosen] >= 0, self._proposed[chosen], measured))
        state = pa.array(np.array(STATES, dtype=object)[self.state[chosen]], pa.string())
        found |= {"trial_id": self.events.trials.ids.take(pa.array(chosen)), "state": state}
        found |= self._taken(("decision",), names, self._decision[chosen])
        if "checkpoint" in names:
            found["checkpoint"] = _existing(found["checkpoint"], state)
        if split == "test":
            found |= self._taken(MEASURED_ON_SPLIT, names, self._on_test[chosen])
            found["split"] = pa.array(["test"] * len(chosen), pa.string())
        elif "error" in names:
            failure = self._taken(("error",), names, self._failure[chosen])["error"]
            found["error"] = pc.if_else(pc.equal(state, "failed"), failure, found["error"])
        schema = pa.schema([RECORD_SCHEMA.field(name) for name in names])
        return pa.table({name: found[name] for name in names}, schema=schema)

    @cached_property
    def reports(self) -> pa.Table:
        """One row per report in the order of arrival, second arrivals left out; this needs all events. What the trial
        is (`IDENTITY`) is filled in from its proposal, and ``state`` is the state of the trial now."""
        chosen = np.flatnonzero(self._reports & first_arrivals(self.events))
        trial = self._trial[chosen]
        table = self.events.take(RECORD_SCHEMA.names, chosen)
        columns = {name: table[name] for name in RECORD_SCHEMA.names}
        for name, column in self._taken(IDENTITY, IDENTITY, self._proposed[trial]).items():
            columns[name] = pc.coalesce(columns[name], column)
        columns["state"] = pa.array(np.array(STATES, dtype=object)[self.state[trial]], pa.string())
        kept = pa.array(chosen == self.measured[trial])
        checkpoint = pc.if_else(kept, columns["checkpoint"], pa.scalar(None, pa.string()))
        columns["checkpoint"] = _existing(checkpoint, columns["state"])
        return pa.table(columns, schema=RECORD_SCHEMA)

    def worst(self, name: str) -> NDArray[np.float64]:
        """Values of a minimised objective, of all that were reported at least those larger than all before."""
        return self.events.numbers(name)[self._reports]

    def worse(self, names: Sequence[str]) -> Positions:
        """Reports on the validation split that are worse in some minimised objective than all before."""
        reports = self._reports & (self._split == 0)
        found = [_records(np.where(reports, self.events.numbers(name), np.nan)) for name in names if name in _MINIMISED]
        worse: Positions = np.unique(np.concatenate([np.empty(0, dtype=np.int64), *found]))
        return worse

    @property
    def stated(self) -> Positions:
        """Per trial the event that its state is from."""
        return self._stated

    def last_measured(self, mask: Mask) -> Positions:
        """Per trial its report on the validation split at the highest rung under a mask ``(events,)``, -1 without."""
        rows = np.flatnonzero(mask & self._reports & (self._split == 0))
        trial, rung = self._trial[rows], self._rung[rows]
        highest = np.full(len(self), -1, dtype=np.int64)
        np.maximum.at(highest, trial, rung)
        return self._first_of(rows[rung == highest[trial]])

    @cached_property
    def _trial(self) -> Positions:
        return np.where(self._kind >= 0, self.events.trials.codes, -1)

    @cached_property
    def _kind(self) -> NDArray[np.int8]:
        return self.events.codes("event", EVENTS)

    @cached_property
    def _split(self) -> NDArray[np.int8]:
        return self.events.codes("split", SPLITS)

    @cached_property
    def _rung(self) -> Positions:
        return _rungs(self.events)

    @cached_property
    def _summaries(self) -> Mask:
        return self.events.summaries() & (self._kind >= 0)

    @cached_property
    def _reports(self) -> Mask:
        return ((self._kind == EVENTS.index("report")) | self._summaries) & (self._trial >= 0)

    @cached_property
    def _first(self) -> Positions:
        return self._first_of(np.flatnonzero(self._trial >= 0))

    @cached_property
    def _last(self) -> Positions:
        """What came last of that which counts."""
        counts = (self._first, self._proposed, self.measured, self._stated, self._on_test)
        last: Positions = np.maximum.reduce(counts)
        return last

    @cached_property
    def _proposed(self) -> Positions:
        proposed = (self._kind == EVENTS.index("proposed")) | self._summaries
        return self._first_of(np.flatnonzero(proposed & (self._trial >= 0)))

    @cached_property
    def measured(self) -> Positions:
        """Per trial its report on the validation split at the highest rung, -1 without."""
        return self.last_measured(np.ones(len(self.events), dtype=bool))

    @cached_property
    def _decision(self) -> Positions:
        return self._last_of(self._kind == EVENTS.index("decision"))

    @cached_property
    def _failure(self) -> Positions:
        return self._last_of(self._kind == EVENTS.index("failed"))

    @cached_property
    def _stated(self) -> Positions:
        return np.maximum(self._decision, self._failure)

    @cached_property
    def _on_test(self) -> Positions:
        rows = np.flatnonzero(self._reports & (self._split == 1))
        trial = self._trial[rows]
        same = (self.measured[trial] >= 0) & (self._rung[rows] == self._rung[self.measured[trial]])
        return self._first_of(rows[same])

    def _of_events(self, name: str, words: Sequence[str]) -> NDArray[np.int8]:
        """With one place more, so that position -1 has none."""
        return np.append(self.events.codes(name, words), np.int8(-1))

    def _first_of(self, rows: Positions) -> Positions:
        return self._assigned(rows[::-1])

    def _last_of(self, mask: Mask) -> Positions:
        return self._assigned(np.flatnonzero(mask & (self._trial >= 0)))

    def _assigned(self, rows: Positions) -> Positions:
        """Per trial the position that comes last in the rows, -1 without."""
        positions = np.full(len(self), -1, dtype=np.int64)
        # Of several values assigned to one place numpy keeps the last.
        positions[self._trial[rows]] = rows
        return positions

    def _taken(
        self, candidates: Sequence[str], names: Sequence[str], positions: Positions
    ) -> dict[str, pa.ChunkedArray]:
        wanted = [name for name in candidates if name in names]
        if not wanted:
            return {}
        table = self.events.take(wanted, positions)
        return {name: table[name] for name in wanted}


@dataclass(frozen=True)
class TrialRows:
    """Some trials of a fold, as a table whose columns are made when they are asked for."""

    fold: Fold
    chosen: Positions

    def __len__(self) -> int:
        return len(self.chosen)

    def __getitem__(self, name: str) -> pa.ChunkedArray:
        """One column, as record columns are."""
        return self.fold.rows(self.chosen, [name])[name]

    def filter(self, mask: pa.Array) -> TrialRows:
        """Those for which the mask is true, as of a table."""
        return TrialRows(self.fold, self.chosen[mask.to_numpy(zero_copy_only=False)])

    def slice(self, start: int, length: int) -> TrialRows:
        """Some that follow each other, as of a table."""
        return TrialRows(self.fold, self.chosen[start : start + length])

    def among(self, state: str) -> TrialRows:
        """Those in a state."""
        return TrialRows(self.fold, self.chosen[self.fold.state[self.chosen] == STATES.index(state)])

    def table(self, names: Sequence[str] = RECORD_SCHEMA.names, split: str = "validation") -> pa.Table:
        """The columns of `Fold.rows`."""
        return self.fold.rows(self.chosen, names, split)


def _rungs(events: Events) -> Positions:
    rungs: Positions = pc.fill_null(events.column("rung"), -1).to_numpy()
    return rungs


def _records(values: NDArray[np.float64]) -> Positions:
    """Where a value is larger than all before; those that are not finite do not count."""
    values = np.where(np.isfinite(values), values, -np.inf)
    before = np.maximum.accumulate(np.concatenate([[-np.inf], values]))[:-1]
    return np.flatnonzero(values > before)


def _existing(checkpoint: pa.Array, state: pa.Array) -> pa.Array:
    """Checkpoints that are there: the last one of a trial, unless it was stopped or has failed."""
    ended = pc.is_in(state, value_set=pa.array(["stopped", "failed"]))
    return pc.if_else(ended, pa.scalar(None, pa.string()), checkpoint)
