"""Sealed events: immutable Parquet files with the record columns and each event's position in its session."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from .journal import SEQUENCE
from .parquet_pages import pages_of
from .pieces import EVENT_SCHEMA, Piece, places
from .record import CHOICES

LARGEST_FOOTER = 64 << 20
UNPACKED, SMALL = 1_000, 16 << 20
"""A file may unpack to so many bytes for each of its own, beside so many. Our own come to some tens."""
GROUP_ROWS = 16_384
"""Events in a row group: what is read at least to get at one of them."""


def to_events(rows: Sequence[tuple[int, dict[str, Any]]]) -> pa.Table:
    """Positions and columns as a table with `EVENT_SCHEMA`."""
    return pa.Table.from_pylist([{**columns, SEQUENCE: sequence} for sequence, columns in rows], schema=EVENT_SCHEMA)


def to_bytes(events: pa.Table) -> pa.Buffer:
    """The Parquet file."""
    return stream_to_bytes([events], events.schema)


def stream_to_bytes(tables: Iterable[pa.Table], schema: pa.Schema, group_rows: int = GROUP_ROWS) -> pa.Buffer:
    """The Parquet file of tables that need not be in memory at once, in row groups of so many."""
    sink = pa.BufferOutputStream()
    waiting = schema.empty_table()
    with pq.ParquetWriter(
        sink, schema, compression="zstd", use_dictionary=[*CHOICES, "data"], write_page_checksum=True
    ) as writer:
        for table in tables:
            waiting = pa.concat_tables([waiting, table])
            whole = len(waiting) - len(waiting) % group_rows
            if whole:
                writer.write_table(waiting.slice(0, whole), row_group_size=group_rows)
                waiting = waiting.slice(whole)
        writer.write_table(waiting)
    return sink.getvalue()


def conform(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """The table in another schema: columns that an older version did not write are null, those that a newer one added
    are left out."""
    columns = [
        table[field.name].cast(field.type) if field.name in table.column_names else pa.nulls(len(table), field.type)
        for field in schema
    ]
    return pa.Table.from_arrays(columns, schema=schema)


class PartFile(Piece):
    """A Parquet file of events whose columns are read when they are asked for.

    It may be anybody's: what would unpack to more than `UNPACKED` for each of its bytes is refused before it does, and
    so are other types than ours.

    Raises pyarrow.ArrowException, OSError or ValueError, here and in `read`, for files that are cut short or corrupt.
    """

    schema = EVENT_SCHEMA

    def __init__(self, source: pa.NativeFile) -> None:
        self._source, self._size = source, source.size()
        footer = int.from_bytes(source.read_at(4, max(0, self._size - 8)), "little")
        if footer > min(self._size, LARGEST_FOOTER):
            raise ValueError(f"its footer would have {footer} bytes")
        metadata = pq.read_metadata(source)
        self._metadata = metadata
        rows = [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)]
        # An event has a time and a position of its own, which take more than a byte.
        if min(rows, default=0) < 0 or sum(rows) > self._size:
            raise ValueError(f"it would hold {sum(rows)} events in {self._size} bytes")
        self.starts = np.concatenate([[0], np.cumsum(rows, dtype=np.int64)])
        columns = [metadata.schema.column(number) for number in range(metadata.num_columns)]
        self.column_names = tuple(column.path for column in columns)
        self._number = {name: number for number, name in enumerate(self.column_names) if name in self.schema.names}
        for name, number in self._number.items():
            _check_type(columns[number], self.schema.field(name).type)
        self._dictionaries = [name for name in self._number if self._is_text(name) and self._has_dictionary(name)]
        self._file = pq.ParquetFile(
            source, metadata=metadata, read_dictionary=self._dictionaries, page_checksum_verification=True
        )
        self._unpacked = 0
        self._checked: set[tuple[int, str]] = set()

    def read(self, names: Sequence[str], groups: Sequence[int] | None = None) -> pa.Table:
        schema = pa.schema([self.schema.field(name) for name in names])
        if not any(name in self._number for name in names):
            chosen = range(len(self.starts) - 1) if groups is None else groups
            rows = int((self.starts[1:] - self.starts[:-1])[list(chosen)].sum())
            return pa.Table.from_arrays([pa.nulls(rows, field.type) for field in schema], schema=schema)
        return conform(self._read(names, groups), schema)

    def codes(self, name: str, words: Sequence[str]) -> NDArray[np.int8]:
        if name not in self._number:
            return np.full(len(self), -1, dtype=np.int8)
        return places(self._read([name])[name], words)

    def _read(self, names: Sequence[str], groups: Sequence[int] | None = None) -> pa.Table:
        """Those of the columns that there are, as they are stored."""
        chosen = list(range(len(self.starts) - 1) if groups is None else groups)
        stored = [name for name in names if name in self._number]
        fresh = [(group, name) for group in chosen for name in stored if (group, name) not in self._checked]
        for group, name in fresh:
            self._check_pages(group, name)
        table = self._file.read_row_groups(chosen, columns=stored)
        for name in {name for _, name in fresh if self._is_text(name)}:
            # Whether it is UTF-8, which reading does not ask.
            table[name].validate(full=True)
        for name in {name for _, name in fresh}.intersection(self._dictionaries):
            self._count(sum(_unfolded_bytes(chunk) for chunk in table[name].chunks))
        self._checked.update(fresh)
        return table

    def _check_pages(self, group: int, name: str) -> None:
        column = self._metadata.row_group(group).column(self._number[name])
        start = column.data_page_offset
        if column.has_dictionary_page and column.dictionary_page_offset is not None:
            start = min(start, column.dictionary_page_offset)
        if start < 0 or not 0 <= column.total_compressed_size <= self._size - start:
            raise ValueError(f"column {name} lies outside of it")
        pages = pages_of(self._source.read_at(column.total_compressed_size, start))
        if pages.values != self.starts[group + 1] - self.starts[group]:
            raise ValueError(f"column {name} holds {pages.values} values in row group {group}")
        if pages.dictionary and self._is_text(name) and name not in self._dictionaries:
            raise ValueError(f"column {name} has a dictionary of which its footer says nothing")
        self._count(pages.unpacked)

    def _count(self, unpacked: int) -> None:
        self._unpacked += unpacked
        if self._unpacked > SMALL + UNPACKED * self._size:
            raise ValueError(f"it would unpack to more than {self._unpacked} bytes from {self._size}")

    def _is_text(self, name: str) -> bool:
        return bool(pa.types.is_string(self.schema.field(name).type))

    def _has_dictionary(self, name: str) -> bool:
        groups = (self._metadata.row_group(group) for group in range(self._metadata.num_row_groups))
        return any(group.column(self._number[name]).has_dictionary_page for group in groups)


def _check_type(column: Any, kind: pa.DataType) -> None:
    """Raises ValueError for a stored column that does not become what it should be, a value for a value."""
    allowed = {pa.string(): ("BYTE_ARRAY",), pa.int64(): ("INT32", "INT64")}.get(kind, ("FLOAT", "DOUBLE", "INT64"))
    if column.physical_type not in allowed or column.max_repetition_level or column.max_definition_level > 1:
        raise ValueError(f"column {column.path} is of type {column.physical_type}, not {kind}")


def _unfolded_bytes(chunk: pa.Array) -> int:
    """What texts take once each stands for itself."""
    if not pa.types.is_dictionary(chunk.type):
        return int(chunk.nbytes)
    lengths = pc.binary_length(chunk.dictionary).cast(pa.int64())
    return pc.sum(lengths.take(chunk.indices), min_count=0).as_py() or 0


def from_bytes(data: bytes | pa.Buffer) -> pa.Table:
    """The table in `EVENT_SCHEMA`. Raises as `PartFile` does."""
    return PartFile(pa.BufferReader(data)).read(EVENT_SCHEMA.names)
