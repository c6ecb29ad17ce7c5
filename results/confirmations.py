"""Trials trained again with fresh seeds: was what the search saw luck?

A front is picked from many noisy trials, so its members are those that the noise has favoured: what they reach again,
with seeds that nothing was picked by, is the honest figure.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from .errors import RecordError
from .location import Location, storage_errors
from .paths import confirmation_folder, confirmation_path
from .record import Record
from .untrusted import LARGEST_JSON, parse_json

ROUND = ("validation", "test")
MEASURES = ("verified_accuracy", "natural_accuracy")

SCHEMA = pa.schema(
    [
        ("trial_id", pa.string()),
        ("sparsity", pa.float64()),
        ("seeds", pa.int64()),
        ("failed", pa.int64()),
        *(
            (f"{split}_{measure}{what}", pa.float64())
            for split in ROUND
            for measure in MEASURES
            for what in ("", "_mean", "_sd")
        ),
        ("optimism", pa.float64()),
    ]
)
"""One row per trial. `validation_verified_accuracy` is what the search saw, `_mean` and `_sd` what `seeds` fresh ones
reached (null where too few did), `optimism` the searched one less their mean. Of `failed` more nothing came."""


def save_confirmation(location: Location, number: int, records: Sequence[Record]) -> None:
    """Keep what one fresh seed of a trial came to: its last reports on validation and test, or that it failed.

    Raises:
        StorageError: the study's storage does not take it.
    """
    content = json.dumps([record.to_dict() for record in records], indent=1).encode()
    with storage_errors(f"write to {location.shown}", "free space or bring the storage back, then confirm again"):
        location.replace(confirmation_path(records[0].trial_id, number), content)


def read_confirmations(location: Location, trial_id: str) -> dict[int, list[Record]]:
    """By the number of the seed.

    Raises:
        StorageError: the study's storage does not answer.
        RecordError: a file holds something else.
    """
    found = {}
    with storage_errors(f"read {location.shown}", "bring the storage back"):
        for entry in location.files(confirmation_folder(trial_id)):
            name = entry.name.removeprefix("seed-").removesuffix(".json")
            # Files of other names are unfinished ones, or none of ours.
            if name.isdecimal() and entry.name == f"seed-{name}.json":
                content = location.read(confirmation_path(trial_id, int(name)), LARGEST_JSON)
                found[int(name)] = _records(content, trial_id, entry.name)
    return found


def confirmation_table(
    trials: Sequence[dict[str, Any]], tests: Sequence[dict[str, Any]], found: dict[str, dict[int, list[Record]]]
) -> pa.Table:
    """Searched figures beside fresh ones, with `SCHEMA`, in the order of the trials.

    Args:
        trials: rows of completed trials.
        tests: rows of their test reports, as far as there are any.
        found: by trial id.
    """
    tested = {row["trial_id"]: row for row in tests}
    return pa.Table.from_pylist(
        [_row(row, tested.get(row["trial_id"]), found[row["trial_id"]]) for row in trials], schema=SCHEMA
    )


def _row(trial: dict[str, Any], test: dict[str, Any] | None, found: dict[int, list[Record]]) -> dict[str, Any]:
    row: dict[str, Any] = {"trial_id": trial["trial_id"], "sparsity": trial["sparsity"]}
    fine = [records for records in found.values() if records[0].event != "failed"]
    row |= {"seeds": len(fine), "failed": len(found) - len(fine)}
    for split, searched in zip(ROUND, (trial, test), strict=True):
        for measure in MEASURES:
            values = [
                float(value)
                for records in fine
                for record in records
                if record.split == split and (value := getattr(record, measure)) is not None
            ]
            name = f"{split}_{measure}"
            row[name] = searched[measure] if searched else None
            row[f"{name}_mean"] = statistics.mean(values) if values else None
            row[f"{name}_sd"] = statistics.stdev(values) if len(values) > 1 else None
    searched, again = row["validation_verified_accuracy"], row["validation_verified_accuracy_mean"]
    row["optimism"] = searched - again if searched is not None and again is not None else None
    return row


def _records(content: bytes, trial_id: str, name: str) -> list[Record]:
    try:
        records = [Record(**row) for row in parse_json(content)]
    except (ValueError, TypeError) as error:
        raise RecordError(f"{name} of trial {trial_id} holds no confirmation: {error}") from error
    if not records or any(record.trial_id != trial_id for record in records):
        raise RecordError(f"{name} of trial {trial_id} holds no confirmation of this trial")
    return records
