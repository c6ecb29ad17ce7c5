"""From events to tables: one row per report, one row per trial. Column arithmetic only, no loop over rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from .record import EVENTS, RECORD_SCHEMA

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

Positions = NDArray[np.int64]


def deduplicate(events: pa.Table) -> pa.Table:
    """The events less second arrivals: of a report's key (trial_id, rung, split), and of a trial's proposal. The first
    arrival counts. Rows without a trial or of an unknown kind are left out."""
    known = pc.and_(pc.is_valid(events["trial_id"]), pc.is_in(events["event"], value_set=pa.array(EVENTS)))
    # Copying every column is what costs; as a rule there is nothing to leave out.
    if not pc.all(known, min_count=0).as_py():
        events = events.filter(known)
    trial = _codes(events["trial_id"])
    kind = _codes(events["event"], EVENTS)
    rung, split = _codes(events["rung"]), _codes(events["split"])
    key = (trial * (rung.max(initial=0) + 2) + rung + 1) * (split.max(initial=0) + 2) + split + 1
    keep = np.ones(len(events), dtype=bool)
    for name, identity in (("report", key), ("proposed", trial)):
        rows = np.flatnonzero(kind == EVENTS.index(name))
        keep[rows] = False
        keep[rows[np.unique(identity[rows], return_index=True)[1]]] = True
    return events if keep.all() else events.filter(pa.array(keep))


@dataclass(frozen=True)
class Fold:
    """Tables made of deduplicated events, each computed once."""

    events: pa.Table

    @cached_property
    def _trial_ids(self) -> pa.Array:
        return pc.unique(self.events["trial_id"])

    @cached_property
    def _trial(self) -> Positions:
        return _codes(self.events["trial_id"])

    @cached_property
    def _proposed(self) -> Positions:
        return self._last(self._is("event", "proposed"))

    @cached_property
    def _measured(self) -> Positions:
        return self._last(self._is("event", "report") & self._is("split", "validation"))

    @cached_property
    def reports(self) -> pa.Table:
        """One row per report in the order of arrival. What the trial is (`IDENTITY`) is filled in from its proposal,
        and ``state`` is the state of the trial now."""
        chosen = np.flatnonzero(self._is("event", "report"))
        table = self.events.take(pa.array(chosen))
        trial = self._trial[chosen]
        columns = {name: table[name] for name in RECORD_SCHEMA.names}
        for name in IDENTITY:
            columns[name] = pc.coalesce(columns[name], self._take(name, self._proposed[trial]))
        columns["state"] = self._state.take(pa.array(trial))
        kept = pa.array(np.isin(chosen, self._measured[trial]))
        columns["checkpoint"] = self._existing(pc.if_else(kept, columns["checkpoint"], None), columns["state"])
        return pa.table(columns, schema=RECORD_SCHEMA)

    @cached_property
    def trials(self) -> pa.Table:
        """One row per trial in the order of proposal: its state from its last event, its measures from its last report
        on the validation split, ``event`` and ``time`` from whatever came last."""
        last = self._last(np.ones(len(self.events), dtype=bool))
        columns = {name: self._take(name, last) for name in ("event", "time", "schema_version")}
        columns |= {name: self._take(name, self._measured) for name in (*_OF_NETWORK, *MEASURED_ON_SPLIT, "split")}
        for name in IDENTITY:
            columns[name] = pc.coalesce(self._take(name, self._proposed), self._take(name, self._measured))
        columns["trial_id"] = self._trial_ids
        columns["state"] = self._state
        columns["checkpoint"] = self._existing(columns["checkpoint"], self._state)
        columns["decision"] = self._take("decision", self._last(self._is("event", "decision")))
        failure = self._take("error", self._last(self._is("event", "failed")))
        failed = pc.equal(self._state, "failed")
        columns["error"] = pc.if_else(failed, failure, self._take("error", self._measured))
        return pa.table({name: columns[name] for name in RECORD_SCHEMA.names}, schema=RECORD_SCHEMA)

    @cached_property
    def tested(self) -> pa.Table:
        """`trials` with what depends on the split taken from the report on the test split of the same network (equal
        rung); null where that was not measured."""
        rung = _codes(self.events["rung"])
        rung_of_trial = np.where(self._measured >= 0, rung[self._measured], -1) if len(rung) else rung
        same = rung == rung_of_trial[self._trial]
        test = self._last(self._is("event", "report") & self._is("split", "test") & same)
        table = self.trials
        for name in MEASURED_ON_SPLIT:
            table = table.set_column(table.column_names.index(name), RECORD_SCHEMA.field(name), self._take(name, test))
        split = pa.array(["test"] * len(table), pa.string())
        return table.set_column(table.column_names.index("split"), RECORD_SCHEMA.field("split"), split)

    @cached_property
    def _state(self) -> pa.Array:
        """The last proposal, decision or failure decides; reports only tell that a pending trial has begun. (A report
        on the test split comes after a trial is completed, a late one after it is stopped: neither revives it.)"""
        stated = self._take("state", self._last(~self._is("event", "report")))
        begun = pa.array(self._measured >= 0)
        waiting = pc.fill_null(pc.equal(stated, "pending"), True)
        state = pc.if_else(waiting, pc.if_else(begun, "running", "pending"), stated)
        return state.combine_chunks() if isinstance(state, pa.ChunkedArray) else state

    def _existing(self, checkpoint: pa.Array, state: pa.Array) -> pa.Array:
        """Checkpoints that are there: the last one of a trial, unless it was stopped or has failed."""
        ended = pc.is_in(state, value_set=pa.array(["stopped", "failed"]))
        return pc.if_else(ended, pa.scalar(None, pa.string()), checkpoint)

    def _is(self, column: str, word: str) -> NDArray[np.bool_]:
        mask: NDArray[np.bool_] = pc.fill_null(pc.equal(self.events[column], word), False).to_numpy()
        return mask

    def _last(self, mask: NDArray[np.bool_]) -> Positions:
        """Per trial the position of its last event under the mask, -1 without one."""
        positions = np.full(len(self._trial_ids), -1, dtype=np.int64)
        rows = np.flatnonzero(mask)
        # Of several values assigned to one place numpy keeps the last.
        positions[self._trial[rows]] = rows
        return positions

    def _take(self, column: str, positions: Positions) -> pa.ChunkedArray:
        return self.events[column].take(pa.array(positions, mask=positions < 0))


def _codes(column: pa.ChunkedArray, words: Sequence[str] | None = None) -> Positions:
    """Numbers for values in the order of first appearance (or of ``words``); -1 for null and unlisted values."""
    values = pa.array(words) if words is not None else pc.unique(column).drop_null()
    codes: Positions = pc.fill_null(pc.index_in(column, value_set=values), -1).to_numpy().astype(np.int64)
    return codes
