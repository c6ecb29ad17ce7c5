"""The one flat row that every event of a study is: its columns, their types, its key.

Four kinds of event share the schema, so that one append-only table holds a whole study:

========= =========================================================================================
event     columns it fills, beside ``trial_id``, ``event``, ``time``, ``schema_version``
========= =========================================================================================
proposed  config, fingerprint, seed, target_sparsity, parent, data; state ``pending``
report    rung, split, epoch, budget and every measure; state ``running``
decision  decision, the state it leads to, the rung it was taken at
failed    error; state ``failed``
========= =========================================================================================
"""

from __future__ import annotations

import dataclasses
import json
import operator
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal, NamedTuple, get_args, get_type_hints

import pyarrow as pa

from .errors import RecordError
from .paths import check_checkpoint, check_trial_id
from .untrusted import parse_json

SCHEMA_VERSION = 1

EVENTS = ("proposed", "report", "decision", "failed")
STATES = ("pending", "running", "paused", "stopped", "completed", "failed")
OVER = ("completed", "stopped", "failed")
"""States that no trial leaves."""
DECISIONS = ("start", "continue", "pause", "promote", "halt", "stop", "complete")
SPLITS = ("validation", "test")

Direction = Literal["max", "min"]
DIRECTIONS: Mapping[str, Direction] = {
    "sparsity": "max",
    "natural_accuracy": "max",
    "adversarial_accuracy": "max",
    "verified_accuracy": "max",
    "verified_low": "max",
    "verified_auc": "max",
    "nonzero_weights": "min",
    "macs": "min",
    "size_bytes": "min",
    "unstable_relu_fraction": "min",
    "train_seconds": "min",
    "verify_seconds": "min",
}
"""Columns that can be an objective, and which way is better."""

CHOICES: Mapping[str, tuple[str, ...]] = {
    "event": EVENTS,
    "state": STATES,
    "decision": DECISIONS,
    "split": SPLITS,
}
"""Columns that hold one of a fixed set of words."""

JSON_COLUMNS = ("config", "layer_densities", "layer_measures")
"""Text columns that hold a JSON object."""

_STATE_OF_EVENT = {"proposed": "pending", "report": "running", "failed": "failed"}


class ReportKey(NamedTuple):
    """What a report is about; a second report with the same key is ignored."""

    trial_id: str
    rung: int
    split: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Record:
    """One event of a study. Columns that do not apply to the event are None; NaN means "measured, and not a number".

    Accuracies and sparsity are fractions in [0, 1], times are seconds, sizes are bytes, epsilon is in input units.
    ``epoch`` counts finished epochs, ``budget`` the epochs that the rung grants. ``config`` is a canonical JSON object
    (`canonical_json`).
    ``verified_low`` and ``verified_high`` bound the 95 % Wilson interval.

    ``sparsity``, ``nonzero_weights``, ``total_weights`` and ``unstable_relu_fraction`` are of the whole network that
    the configuration asks for. Accuracies, ``macs`` and ``size_bytes`` are of the network that would be deployed: that
    one without the neurons and channels that its zero weights make superfluous, which has the same outputs.

    ``train_seconds`` and ``verify_seconds`` are sums over the life of the trial, of what it spent itself.
    ``shared_seconds`` is the training time of the dense stage that it took over from other trials, 0 where it took over
    none. So a study has cost the sum of ``train_seconds + verify_seconds``, and training a trial alone would cost its
    ``train_seconds + shared_seconds``.

    Beyond the columns of the public interface: ``event`` (the kind, without which one table could not hold all four),
    ``time`` (unix seconds when it happened, for rates and estimates), ``data`` (name of the data set, so that tables
    of several studies can be joined), ``decision`` (the scheduler's word: it tells a promotion from a start, which
    both lead to ``running``, and a replayed scheduler needs to know; and a trial that was paused at a rung, to wait for
    its promotion, from one that a limit of the study has halted: that one simply goes on, by ``continue``),
    ``shared_seconds``, and ``verified_ramp`` (verified accuracy at the epsilon that training had come to on its ramp,
    which predicts the end better than that at the target does; natural accuracy where the ramp had not begun),
    ``layer_densities`` (a JSON object, nonzero share of the weights by layer), ``other_parameters`` (biases and
    normalisation, which sparsity does not count), ``dense_bytes``, ``bitmask_bytes``, ``csr_bytes`` (the network
    that would be deployed, with every weight tensor in that encoding), ``layer_measures`` (a JSON object by layer, see
    `layers`), and ``dense_stage`` (which dense stage the trial began with: trials with the same one have the same
    network until its end; null without one).

    Columns may be added within a schema version: a reader takes those it knows, and null for those that are not there.

    Raises RecordError when a value has the wrong type or is not one of its column's words.
    """

    trial_id: str
    state: str | None = None
    config: str | None = None
    fingerprint: str | None = None
    seed: int | None = None
    epoch: int | None = None
    budget: float | None = None
    natural_accuracy: float | None = None
    adversarial_accuracy: float | None = None
    verified_accuracy: float | None = None
    verified_low: float | None = None
    verified_high: float | None = None
    verified_auc: float | None = None
    epsilon: float | None = None
    split: str | None = None
    samples: int | None = None
    n_verified: int | None = None
    n_falsified: int | None = None
    n_unknown: int | None = None
    sparsity: float | None = None
    nonzero_weights: int | None = None
    total_weights: int | None = None
    macs: int | None = None
    size_bytes: int | None = None
    unstable_relu_fraction: float | None = None
    train_seconds: float | None = None
    verify_seconds: float | None = None
    checkpoint: str | None = None
    error: str | None = None
    rung: int | None = None
    target_sparsity: float | None = None
    parent: str | None = None
    schema_version: int = SCHEMA_VERSION
    event: str
    time: float = dataclasses.field(default_factory=time.time)
    data: str | None = None
    decision: str | None = None
    shared_seconds: float | None = None
    verified_ramp: float | None = None
    layer_densities: str | None = None
    other_parameters: int | None = None
    dense_bytes: int | None = None
    bitmask_bytes: int | None = None
    csr_bytes: int | None = None
    layer_measures: str | None = None
    dense_stage: str | None = None

    def __post_init__(self) -> None:
        for name, value in list(vars(self).items()):
            if value is not None:
                object.__setattr__(self, name, CONVERTERS[name](name, value))
        if self.event is None:
            raise RecordError(f"event must be one of {', '.join(EVENTS)}; got None")
        if self.state is None and self.event in _STATE_OF_EVENT:
            object.__setattr__(self, "state", _STATE_OF_EVENT[self.event])
        self._check_words()
        check_trial_id(self.trial_id)
        if self.checkpoint is not None:
            check_checkpoint(self.checkpoint)
        for name in JSON_COLUMNS:
            if getattr(self, name) is not None:
                _check_object(name, getattr(self, name))
        if self.event == "report" and (self.rung is None or self.split is None):
            raise RecordError(f"a report needs rung and split; got rung={self.rung!r}, split={self.split!r}")
        if self.event == "decision" and self.state is None:
            raise RecordError(f"a decision needs the state it leads to; got decision={self.decision!r} without one")

    def _check_words(self) -> None:
        for name, words in CHOICES.items():
            value = getattr(self, name)
            if value is not None and value not in words:
                raise RecordError(f"{name} must be one of {', '.join(words)}; got {value!r}")

    @property
    def key(self) -> ReportKey | None:
        """(trial_id, rung, split) of a report; None for other events."""
        if self.event != "report" or self.rung is None or self.split is None:
            return None
        return ReportKey(self.trial_id, self.rung, self.split)

    def to_dict(self) -> dict[str, Any]:
        """All columns, in schema order."""
        return {name: getattr(self, name) for name in COLUMNS}


def _text(name: str, value: Any) -> str:
    if not isinstance(value, str):
        raise RecordError(f"{name} must be text; got {value!r}")
    # Messages of failed trials may quote undecodable file names; neither Parquet nor a terminal takes lone surrogates.
    return value.encode("utf-8", "replace").decode("utf-8")


def _integer(name: str, value: Any) -> int:
    try:
        if isinstance(value, bool):
            raise TypeError
        number = operator.index(value)
    except TypeError:
        raise RecordError(f"{name} must be an integer; got {value!r}") from None
    if not -(2**63) <= number < 2**63:
        raise RecordError(f"{name} must fit into 64 bits; got {number}")
    return number


def _number(name: str, value: Any) -> float:
    try:
        if isinstance(value, (bool, str, bytes)):
            raise TypeError
        return float(value)
    except (TypeError, ValueError, OverflowError):
        raise RecordError(f"{name} must be a number; got {value!r}") from None


def _check_object(name: str, text: str) -> None:
    try:
        value = parse_json(text)
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise RecordError(f"{name} must be a JSON object, as canonical_json writes it; got {text[:80]!r}")


def _scalar_type(hint: Any) -> type:
    return next(kind for kind in (get_args(hint) or (hint,)) if kind is not type(None))


_CONVERT: dict[type, Callable[[str, Any], Any]] = {str: _text, int: _integer, float: _number}
_ARROW: dict[type, pa.DataType] = {str: pa.string(), int: pa.int64(), float: pa.float64()}
_TYPES = {name: _scalar_type(hint) for name, hint in get_type_hints(Record).items()}

COLUMNS = tuple(field.name for field in dataclasses.fields(Record))
CONVERTERS: Mapping[str, Callable[[str, Any], Any]] = {name: _CONVERT[_TYPES[name]] for name in COLUMNS}
RECORD_SCHEMA = pa.schema([(name, _ARROW[_TYPES[name]]) for name in COLUMNS])
NUMERIC_COLUMNS = tuple(name for name in COLUMNS if _TYPES[name] is not str)


def canonical_json(value: Mapping[str, Any]) -> str:
    """One spelling per value: sorted keys, no spaces, no NaN. Raises RecordError for what JSON cannot hold."""
    try:
        return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise RecordError(f"a config must be plain JSON without NaN ({error}); got {value!r}") from None


def to_table(records: Iterable[Record]) -> pa.Table:
    """Records as a table with `RECORD_SCHEMA`."""
    return pa.Table.from_pylist([record.to_dict() for record in records], schema=RECORD_SCHEMA)


def from_table(table: pa.Table) -> list[Record]:
    """The rows of a table with record columns; validates every row (RecordError)."""
    return [Record(**row) for row in table.select(list(COLUMNS)).to_pylist()]
