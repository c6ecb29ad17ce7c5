"""Sealed events: immutable Parquet files with the record columns and each event's position in its session."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from .journal import SEQUENCE
from .record import RECORD_SCHEMA

EVENT_SCHEMA = RECORD_SCHEMA.append(pa.field(SEQUENCE, pa.int64()))


def to_events(rows: Sequence[tuple[int, dict[str, Any]]]) -> pa.Table:
    """Positions and columns as a table with `EVENT_SCHEMA`."""
    return pa.Table.from_pylist([{**columns, SEQUENCE: sequence} for sequence, columns in rows], schema=EVENT_SCHEMA)


def to_bytes(events: pa.Table) -> bytes:
    """The Parquet file."""
    sink = pa.BufferOutputStream()
    pq.write_table(events, sink, compression="zstd")
    return bytes(sink.getvalue())


def from_bytes(data: bytes) -> pa.Table:
    """The table in `EVENT_SCHEMA`: columns that an older version did not write are null, those that a newer one added
    are left out. Raises pyarrow.ArrowException or OSError for files that are cut short or corrupt.
    """
    return conform(pq.read_table(pa.BufferReader(data)))


def conform(table: pa.Table) -> pa.Table:
    """The table's columns in the order and types of `EVENT_SCHEMA`."""
    columns = [
        table[field.name].cast(field.type) if field.name in table.column_names else pa.nulls(len(table), field.type)
        for field in EVENT_SCHEMA
    ]
    return pa.Table.from_arrays(columns, schema=EVENT_SCHEMA)
