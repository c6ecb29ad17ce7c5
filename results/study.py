"""A study to ask questions of: its trials, its reports, its Pareto front."""

from __future__ import annotations

import functools
import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from pyarrow import fs

from . import pareto
from .confirmations import confirmation_table, read_confirmations
from .course import Course, course_of, floats
from .digests import CorruptDigest
from .errors import QueryError, StudyError
from .fold import Fold, TrialRows, first_arrivals
from .layers import layer_table
from .masks import KeptCounts, kept_counts, overlap_table
from .origins import Origins
from .record import DIRECTIONS, NUMERIC_COLUMNS, RECORD_SCHEMA, SPLITS, STATES, Record, from_table
from .store import Snapshot, Store
from .where import closest_column, filter_rows

P = ParamSpec("P")
T = TypeVar("T")

DEFAULT_OBJECTIVES = ("sparsity", "verified_accuracy")

# Records that a replay makes at once.
_AT_ONCE = 4_096

# Worst possible values of measures that lie in [0, 1]; all others take the worst value seen.
_WORST = {"unstable_relu_fraction": 1.0}

# `best` compares these one after the other, then the trial id.
_BEST_TIES = (
    ("verified_accuracy", "descending"),
    ("sparsity", "descending"),
    ("adversarial_accuracy", "descending"),
    ("natural_accuracy", "descending"),
    ("trial_id", "ascending"),
)


def open_study(uri: str | os.PathLike[str], *, filesystem: fs.FileSystem | None = None) -> Study:
    """The study at a folder or URI, for reading. Raises StudyMissing (naming the studies nearby) or StorageError."""
    return Study(Store.open(uri, readonly=True, filesystem=filesystem))


def _from_parts_if_need_be(
    method: Callable[Concatenate[Study, P], T],
) -> Callable[Concatenate[Study, P], T]:
    """The answer is found anew from the parts, where a digest turns out to be corrupt."""

    @functools.wraps(method)
    def answer(study: Study, *args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return method(study, *args, **kwargs)
        except CorruptDigest as error:
            study._corrupt, study._decisive, study._fold = str(error), None, None
            return method(study, *args, **kwargs)

    return answer


def by_norm(norm: str) -> str:
    """What is said after an epsilon: by which norm, unless it is the radius of a box."""
    return " by L2" if norm == "l2" else ""


class Study:
    """A reading view of a store. Each call answers from what is stored at that moment; nothing is read again while
    nothing was added. Tables are pyarrow tables with the record columns. Nothing that a study holds is ever executed.
    """

    def __init__(self, store: Store) -> None:
        self.store = store
        self._seen: tuple[tuple[str, int], ...] | None = None
        self._decisive: Snapshot | None = None
        self._fold: Fold | None = None
        self._all: Fold | None = None
        self._problems: tuple[str, ...] = ()
        # Of them, what was to be had of all events and is not.
        self._missing: tuple[str, ...] = ()
        # What is wrong with a digest: then all answers are from the parts.
        self._corrupt: str | None = None

    @property
    def uri(self) -> str:
        """As given, less any credentials."""
        return self.store.uri

    @property
    def name(self) -> str:
        """The study's name."""
        return self.store.name

    @property
    def spec(self) -> dict[str, Any]:
        """The spec as plain JSON values."""
        return self.store.spec

    @property
    def by_norm(self) -> str:
        """What is said after the study's epsilon, see `by_norm`."""
        return by_norm(self.spec.get("norm", "linf"))

    @property
    def objectives(self) -> tuple[str, ...]:
        """The spec's objectives, or `DEFAULT_OBJECTIVES`. Raises StudyError where it names none that there are."""
        found = self.store.manifest["spec"].get("objectives") or DEFAULT_OBJECTIVES
        if not isinstance(found, list | tuple) or not all(str(name) in DIRECTIONS for name in found):
            raise StudyError(f"the spec of {self.name} must name objectives that there are; got {found!r:.80}")
        return tuple(found)

    @property
    def problems(self) -> tuple[str, ...]:
        """One line per file or line that answers so far needed and that cannot be read; everything else is in them."""
        self._read()
        return self._problems if self._corrupt is None else (*self._problems, self._corrupt)

    @property
    @_from_parts_if_need_be
    def sessions(self) -> tuple[tuple[float, float], ...]:
        """In their order, when the first and the last event of each driver session was made (unix seconds)."""
        self._read()
        assert self._decisive is not None
        return self._decisive.sessions

    def events(self) -> pa.Table:
        """Every event in the order of arrival, second arrivals left out: what a replay needs."""
        events = self._read_all().events
        return events.take(RECORD_SCHEMA.names, np.flatnonzero(first_arrivals(events)))

    def replay(self) -> Iterator[Record]:
        """Every event in the order of arrival, second arrivals included, few at a time.

        Raises:
            RecordError: an event contradicts the schema.
            StudyError: files cannot be read. A driver that went on without them would do things again, or undo them.
        """
        events = self._read_all().events
        if self._missing:
            raise StudyError(
                f"the study {self.uri} cannot go on, since events are missing: {'; '.join(self._missing)}; "
                "bring those files back from a copy of the study"
            )
        for piece in events.pieces:
            for table in piece.slices(RECORD_SCHEMA.names):
                for start in range(0, len(table), _AT_ONCE):
                    yield from from_table(table.slice(start, _AT_ONCE))

    def reports(self, where: str | None = None) -> pa.Table:
        """One row per report (trial, rung, split); ``state`` is the trial's state now. Raises WhereError."""
        return filter_rows(self._read_all().reports, where)

    @_from_parts_if_need_be
    def trials(self, where: str | None = None) -> pa.Table:
        """One row per trial: state from its last decision or failure, measures from its validation report at the
        highest rung. Raises WhereError."""
        return filter_rows(self._read().trials, where).table()

    @_from_parts_if_need_be
    def states(self) -> Counter[str]:
        """How many trials there are in each state."""
        fold = self._read()
        counts = np.bincount(fold.state[fold.trials.chosen], minlength=len(STATES))
        return Counter(dict(zip(STATES, counts.tolist(), strict=True)))

    @_from_parts_if_need_be
    def completed(self, names: Sequence[str]) -> pa.Table:
        """Some columns of the completed trials."""
        return self._read().trials.among("completed").table(names)

    @_from_parts_if_need_be
    def course(self, objectives: Sequence[str], since: float) -> Course:
        """How the trials went, and what came of it since a moment (unix seconds)."""
        return course_of(self._read(), objectives, since)

    @_from_parts_if_need_be
    def trial(self, trial_id: str) -> Record | None:
        """The row of one trial, checked; None where there is no such trial. Raises RecordError, UnsafePath."""
        return next(iter(from_table(self._named([trial_id]).table())), None)

    @_from_parts_if_need_be
    def lineage(self, trial_id: str) -> pa.Table:
        """The trial, its parent, its parent's parent and so on, as rows of `trials`. Raises QueryError."""
        trials = self._read().trials
        line = pa.array(Origins(trials.table(Origins.COLUMNS)).line(trial_id), pa.string())
        if not len(line):
            raise QueryError(f"there is no trial {trial_id!r} in {self.name}")
        found = trials.filter(pc.is_in(trials["trial_id"].combine_chunks(), value_set=line)).table()
        return found.take(pc.index_in(line, value_set=found["trial_id"].combine_chunks()))

    def layers(self, where: str | None = None) -> pa.Table:
        """One row per validation report that passes and layer, with `layers.LAYER_SCHEMA`: densities, gradient norms,
        unstable ReLUs and so on, null where a layer or an older study has none. Raises WhereError, QueryError."""
        reports = self.reports(where)
        return layer_table(reports.filter(pc.equal(reports["split"], "validation")))

    @_from_parts_if_need_be
    def mask_overlap(self, where: str | None = None) -> pa.Table:
        """What the masks of completed trials share, with `masks.OVERLAP_SCHEMA`: one row per pair that passes, of equal
        layers and shapes, and per layer; ``layer`` is null over all layers. Beside it stands what chance would give
        at those densities, and in ``common`` why the two are not independent (`Origins.common`).

        Hidden units of independent networks are in no common order: these agree beyond chance only by which inputs
        and classes they read and write, never by single hidden weights. Raises WhereError, StorageError.
        """
        trials = self._read().trials
        origins = Origins(trials.table(Origins.COLUMNS))
        return overlap_table(self.store.location, self._completed(where).table(), origins)

    @_from_parts_if_need_be
    def kept_counts(self, where: str | None = None) -> KeptCounts:
        """How many of the completed trials that pass keep each weight. Raises WhereError, StorageError, and QueryError
        where there are none or they differ in architecture."""
        return kept_counts(self.store.location, self._completed(where).table())

    @_from_parts_if_need_be
    def confirmations(self, trial_ids: Sequence[str] | None = None) -> pa.Table:
        """What completed trials came to again with fresh seeds, with `confirmations.SCHEMA`: by default those of the
        front, by rising sparsity. Raises StorageError, RecordError, and QueryError for trials that are not completed.
        """
        rows = self.to_confirm(trial_ids)
        found = {row["trial_id"]: read_confirmations(self.store.location, row["trial_id"]) for row in rows}
        return confirmation_table(rows, self._named(list(found)).table(split="test").to_pylist(), found)

    @_from_parts_if_need_be
    def to_confirm(self, trial_ids: Sequence[str] | None = None) -> list[dict[str, Any]]:
        """The rows of those trials, or of the front, checked. Raises QueryError for trials that are not completed,
        RecordError and UnsafePath."""
        if trial_ids is None:
            return [record.to_dict() for record in from_table(self.pareto_front())]
        rows = {record.trial_id: record.to_dict() for record in from_table(self._named(trial_ids).table())}
        for trial_id in trial_ids:
            if trial_id not in rows:
                raise QueryError(f"there is no trial {trial_id!r} in {self.name}")
            if rows[trial_id]["state"] != "completed":
                raise QueryError(f"only completed trials can be confirmed, but {trial_id} is {rows[trial_id]['state']}")
        return [rows[trial_id] for trial_id in dict.fromkeys(trial_ids)]

    @_from_parts_if_need_be
    def pareto_front(
        self, objectives: Sequence[str] | str | None = None, where: str | None = None, split: str = "validation"
    ) -> pa.Table:
        """Completed trials that pass ``where`` and that no other of them dominates, by rising sparsity.

        Membership (and ``where``) is always decided on the validation split; ``split="test"`` shows the test figures of
        those same trials, null where a network was not measured on test. Trials without a value for some
        objective are left out; trials with equal values are all on the front. Raises QueryError.
        """
        _check_split(split)
        return _by_sparsity(self._front(self._objectives(objectives), where).table(split=split))

    @_from_parts_if_need_be
    def untested_front(self) -> list[Record]:
        """The trials of the front that have no report on the test split, checked. Raises RecordError, UnsafePath."""
        front = self._front(self.objectives, None)
        tested = front.fold.tested[front.chosen]
        return from_table(_by_sparsity(front.filter(pa.array(~tested)).table()))

    @_from_parts_if_need_be
    def hypervolume(
        self,
        objectives: Sequence[str] | str | None = None,
        reference: Mapping[str, float] | Sequence[float] | None = None,
        where: str | None = None,
        split: str = "validation",
    ) -> float:
        """Volume that the front dominates, in the product of the objectives' units.

        ``reference`` is the worst corner, by name or in the order of the objectives. Default per objective: 0 for what
        is maximised, 1 for ``unstable_relu_fraction``, and for other minimised measures (MACs, bytes, weights, seconds)
        the largest value in any report of the study, which can move while the study grows: give a reference to compare
        studies. Raises QueryError.
        """
        names = self._objectives(objectives)
        corner = self._reference(names, reference)
        _check_split(split)
        front = self._front(names, where).table(names, split)
        signs = [DIRECTIONS[name] for name in names]
        return pareto.hypervolume(_oriented(front, names), pareto.orient([corner], signs)[0])

    @_from_parts_if_need_be
    def best(self, where: str | None = None, **constraints: float | None) -> Record | None:
        """The completed trial with the highest verified accuracy (validation) under constraints such as
        ``min_sparsity=0.9`` or ``max_macs=1e6``, any ``min_`` or ``max_`` of a numeric column; None when no trial meets
        them. Ties go to the higher sparsity, adversarial, then natural accuracy, then the smaller trial id.
        Raises QueryError.
        """
        table = self._completed(where).table()
        for name, limit in constraints.items():
            bound, _, column = name.partition("_")
            if bound not in ("min", "max") or column not in NUMERIC_COLUMNS:
                raise QueryError(f"a constraint is min_COLUMN or max_COLUMN; got {name}{closest_column(column)}")
            if limit is not None:
                compare = pc.greater_equal if bound == "min" else pc.less_equal
                table = table.filter(compare(table[column], float(limit)))
        table = table.filter(pc.is_valid(_without_nan(table["verified_accuracy"])))
        if not len(table):
            return None
        for name in ("sparsity", "adversarial_accuracy", "natural_accuracy"):
            table = table.set_column(table.column_names.index(name), name, _without_nan(table[name]))
        return from_table(table.sort_by(list(_BEST_TIES)).slice(0, 1))[0]

    def plot(
        self,
        path: str | os.PathLike[str],
        objectives: Sequence[str] | str | None = None,
        where: str | None = None,
        split: str = "validation",
    ) -> Path:
        """Draws the front over the other trials into a png, svg or pdf file and returns its path. Raises QueryError."""
        from .plot import front_figure, save_figure  # matplotlib takes half a second that other questions need not wait

        names = self._objectives(objectives)
        front = self.pareto_front(names, where, split)
        others = self.trials(where) if split == "validation" else front.slice(0, 0)
        return save_figure(front_figure(others, front, names, self.name, split, self.by_norm), path)

    def _completed(self, where: str | None) -> TrialRows:
        """Completed trials that pass."""
        trials = self._read().trials
        return filter_rows(trials.among("completed"), where, trials)

    def _front(self, objectives: Sequence[str], where: str | None) -> TrialRows:
        """Completed trials that pass and that no other of them dominates."""
        candidates = self._completed(where)
        front = pareto.front_mask(_oriented(candidates.table(objectives), objectives))
        return candidates.filter(pa.array(front, pa.bool_()))

    def _named(self, trial_ids: Sequence[str]) -> TrialRows:
        trials = self._read().trials
        return trials.filter(pc.is_in(trials["trial_id"].combine_chunks(), value_set=pa.array(trial_ids, pa.string())))

    def _read(self) -> Fold:
        """The trials, from the events that decide what they are."""
        self._forget_old()
        if self._fold is None:
            self._decisive = self.store.read() if self._corrupt else self.store.read_decisive()
            self._fold = Fold(self._decisive.pieces)
            self._note(self._decisive)
        return self._fold

    def _read_all(self) -> Fold:
        """The same from all events."""
        self._forget_old()
        if self._all is None:
            snapshot = self.store.read()
            self._all = Fold(snapshot.pieces)
            self._missing = snapshot.problems
            self._note(snapshot)
        return self._all

    def _forget_old(self) -> None:
        # Taken before reading: if more came in between, the next call reads once too often, never too seldom.
        signature = self.store.signature()
        if signature != self._seen:
            self._seen, self._decisive, self._fold, self._all, self._problems = signature, None, None, None, ()

    def _note(self, snapshot: Snapshot) -> None:
        self._problems = tuple(dict.fromkeys([*self._problems, *snapshot.problems]))

    def _objectives(self, objectives: Sequence[str] | str | None) -> tuple[str, ...]:
        if isinstance(objectives, str):
            objectives = [name.strip() for name in objectives.split(",")]
        names = self.objectives if objectives is None else tuple(objectives)
        if not names or len(set(names)) < len(names):
            raise QueryError(f"objectives must be one or more different columns; got {', '.join(names) or 'none'}")
        for name in names:
            if name not in DIRECTIONS:
                raise QueryError(f"{name!r} is no objective; choose from {', '.join(DIRECTIONS)}")
        return names

    def _reference(self, names: Sequence[str], reference: Mapping[str, float] | Sequence[float] | None) -> list[float]:
        if reference is None:
            return [self._worst(name) for name in names]
        if isinstance(reference, Mapping):
            if set(reference) != set(names):
                raise QueryError(f"the reference needs a value for each of {', '.join(names)}; got {dict(reference)}")
            reference = [reference[name] for name in names]
        corner = [float(value) for value in reference]
        if len(corner) != len(names) or not np.isfinite(corner).all():
            raise QueryError(f"the reference needs a finite value for each of {', '.join(names)}; got {reference}")
        return corner

    def _worst(self, name: str) -> float:
        return worst_value(name, self._read().worst(name) if worst_is_seen(name) else np.empty(0))


def worst_is_seen(name: str) -> bool:
    """Whether the default reference of the hypervolume for an objective is the worst value that was reported."""
    return DIRECTIONS[name] == "min" and name not in _WORST


def worst_value(name: str, seen: NDArray[np.float64]) -> float:
    """The default reference of the hypervolume for an objective, given its values in all reports."""
    return float(seen[np.isfinite(seen)].max(initial=0.0)) if worst_is_seen(name) else _WORST.get(name, 0.0)


def _by_sparsity(trials: pa.Table) -> pa.Table:
    return trials.sort_by([("sparsity", "ascending"), ("trial_id", "ascending")])


def _oriented(table: pa.Table, names: Sequence[str]) -> pareto.Floats:
    """Objective values ``(rows, objectives)``, larger is better, NaN for what is missing."""
    return pareto.orient(floats(table.select(list(names))), [DIRECTIONS[name] for name in names])


def _without_nan(column: pa.ChunkedArray) -> pa.ChunkedArray:
    return pc.if_else(pc.is_nan(column), pa.scalar(None, column.type), column)


def _check_split(split: str) -> None:
    if split not in SPLITS:
        raise QueryError(f"split is one of {', '.join(SPLITS)}; got {split!r}")
