"""Events that lie in several places, as one table whose columns are read when they are asked for."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import NamedTuple, final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from .journal import SEQUENCE
from .record import RECORD_SCHEMA

EVENT_SCHEMA = RECORD_SCHEMA.append(pa.field(SEQUENCE, pa.int64()))
SLICE_ROWS = 262_144
"""About how many rows are in memory at once where a file is gone through."""

Positions = NDArray[np.int64]
Mask = NDArray[np.bool_]
SUMMARY = "summary"
"""A column that digests have beside those of events: 1 for a summary (`Piece.summaries`)."""
TRIAL = "trial"
"""Another one: numbers of trials in the order of their first event, which the rows of a digest may not tell."""


class Piece(ABC):
    """A run of events in their order of arrival, in groups that can be read alone.

    Attributes:
        schema: of all its columns.
        starts: position of the first row of each group, and of the end ``(groups + 1,)``.
    """

    schema: pa.Schema
    starts: Positions

    @abstractmethod
    def read(self, names: Sequence[str], groups: Sequence[int] | None = None) -> pa.Table:
        """Those columns of some groups, or of all."""

    def __len__(self) -> int:
        return int(self.starts[-1])

    @final
    def slices(self, names: Sequence[str]) -> Iterator[pa.Table]:
        """Those columns in their order, about `SLICE_ROWS` at a time."""
        yield from (self.read(names, groups) for groups in self._slices(range(len(self.starts) - 1)))

    def at(self, names: Sequence[str], positions: Positions) -> Iterator[pa.Table]:
        """Those columns at rising positions, reading the groups only in which these lie."""
        group = np.searchsorted(self.starts, positions, side="right") - 1
        for groups in self._slices(np.unique(group).tolist()):
            low, high = np.searchsorted(group, [groups[0], groups[-1] + 1])
            sizes = self.starts[1:][groups] - self.starts[groups]
            place = np.cumsum(sizes) - sizes
            within = positions[low:high] - self.starts[group[low:high]]
            found = within + place[np.searchsorted(groups, group[low:high])]
            yield self.read(names, groups).take(pa.array(found))

    def codes(self, name: str, words: Sequence[str]) -> NDArray[np.int8]:
        """A column of words as their places in the list; -1 for null and all others."""
        return places(self.read([name])[name], words)

    def summaries(self) -> Mask:
        """Which of its events ``(events,)`` are summaries: the last decision on a trial, which tells as well what its
        proposal and its report at the highest rung said."""
        return np.zeros(len(self), dtype=bool)

    def trials(self) -> Trials:
        """The trials of its events."""
        encoded = self.read(["trial_id"])["trial_id"].combine_chunks().dictionary_encode()
        indices = pc.fill_null(encoded.indices, -1).to_numpy()
        return Trials(encoded.dictionary, indices.astype(np.int64))

    def _slices(self, groups: Sequence[int]) -> Iterator[list[int]]:
        chosen: list[int] = []
        rows = 0
        for group in groups:
            chosen.append(group)
            rows += int(self.starts[group + 1] - self.starts[group])
            if rows >= SLICE_ROWS:
                yield chosen
                chosen, rows = [], 0
        if chosen:
            yield chosen


class Trials(NamedTuple):
    """Ids of trials in the order of their first appearance, and per event its trial's place among them, -1 without."""

    ids: pa.Array
    codes: Positions


@final
class Loaded(Piece):
    """Events in memory."""

    def __init__(self, table: pa.Table) -> None:
        self._table, self.schema = table, table.schema
        self.starts = np.array([0, len(table)] if len(table) else [0], dtype=np.int64)

    def summaries(self) -> Mask:
        return flags(self._table[SUMMARY]) if SUMMARY in self.schema.names else super().summaries()

    def trials(self) -> Trials:
        found = super().trials()
        if TRIAL not in self.schema.names:
            return found
        first = np.unique(found.codes, return_index=True)[1]
        order = np.argsort(self._table[TRIAL].to_numpy()[first], kind="stable")
        return Trials(found.ids.take(pa.array(order)), inverse(order)[found.codes])

    def read(self, names: Sequence[str], groups: Sequence[int] | None = None) -> pa.Table:
        return self._table.select(names)


@final
class Events:
    """Pieces in their order, as one table."""

    def __init__(self, pieces: Sequence[Piece]) -> None:
        self.pieces = tuple(piece for piece in pieces if len(piece))
        self._starts = np.cumsum([0, *(len(piece) for piece in self.pieces)], dtype=np.int64)
        self._numbers: dict[str, NDArray[np.float64]] = {}

    def __len__(self) -> int:
        return int(self._starts[-1])

    def column(self, name: str) -> pa.ChunkedArray:
        """One column of all events."""
        chunks = [chunk for piece in self.pieces for chunk in piece.read([name])[name].chunks]
        return pa.chunked_array(chunks, RECORD_SCHEMA.field(name).type)

    def codes(self, name: str, words: Sequence[str]) -> NDArray[np.int8]:
        """A column of words ``(events,)`` as their places in the list; -1 for null and all others."""
        return np.concatenate([np.empty(0, dtype=np.int8), *(piece.codes(name, words) for piece in self.pieces)])

    def summaries(self) -> Mask:
        """Which of the events ``(events,)`` are summaries (`Piece.summaries`)."""
        return np.concatenate([np.empty(0, dtype=bool), *(piece.summaries() for piece in self.pieces)])

    def numbers(self, name: str) -> NDArray[np.float64]:
        """A column of numbers ``(events,)``, NaN for null; read once."""
        if name not in self._numbers:
            column = self.column(name).cast(pa.float64(), safe=False)
            self._numbers[name] = pc.fill_null(column, np.nan).to_numpy()
        return self._numbers[name]

    @cached_property
    def trials(self) -> Trials:
        """The trials of all events."""
        if not self.pieces:
            return Trials(pa.array([], pa.string()), np.empty(0, dtype=np.int64))
        found = [piece.trials() for piece in self.pieces]
        if len(found) == 1:
            return found[0]
        ids, places = _numbered([trials.ids for trials in found])
        offsets = np.cumsum([0, *(len(trials.ids) for trials in found)])
        # The place before the first is that of events without a trial.
        codes = [
            np.concatenate([places[offset : offset + len(trials.ids)], [-1]])[trials.codes]
            for offset, trials in zip(offsets, found, strict=False)
        ]
        return Trials(ids, np.concatenate(codes))

    def take(self, names: Sequence[str], positions: Positions) -> pa.Table:
        """Rows at positions ``(rows,)`` in any order; a row of nulls for -1."""
        schema = pa.schema([EVENT_SCHEMA.field(name) for name in names])
        present = np.flatnonzero(positions >= 0)
        order = present[np.argsort(positions[present], kind="stable")]
        rising = positions[order]
        found = [schema.empty_table()]
        for piece, start in zip(self.pieces, self._starts, strict=False):
            low, high = np.searchsorted(rising, [start, start + len(piece)])
            if low < high:
                found.extend(piece.at(names, rising[low:high] - start))
        table = pa.concat_tables(found)
        if len(order) == len(positions) and (order[1:] > order[:-1]).all():
            return table
        back = np.full(len(positions), -1, dtype=np.int64)
        back[order] = np.arange(len(order))
        return table.combine_chunks().take(pa.array(back, mask=back < 0))


def _numbered(lists: Sequence[pa.Array]) -> tuple[pa.Array, Positions]:
    """The different ones of all ids in the order of their first appearance, and of each id its place among them; no
    list has an id twice."""
    first, rest = lists[0], pa.concat_arrays(lists[1:])
    few = rest.dictionary_encode()
    # One list is much longer than all others together, as a rule: it is searched for those few, not they in it.
    among = pc.index_in(first, value_set=few.dictionary)
    place = np.full(len(few.dictionary), -1, dtype=np.int64)
    known = np.flatnonzero(among.is_valid())
    place[among.take(pa.array(known)).to_numpy()] = known
    fresh = place < 0
    place[fresh] = len(first) + np.arange(np.count_nonzero(fresh))
    ids = pa.concat_arrays([first, few.dictionary.filter(pa.array(fresh))])
    return ids, np.concatenate([np.arange(len(first)), place[few.indices.to_numpy()]])


def inverse(order: Positions) -> Positions:
    """Of each number from 0 its place in a permutation of them."""
    places = np.empty_like(order)
    places[order] = np.arange(len(order))
    return places


def flags(column: pa.ChunkedArray) -> Mask:
    """Where a column of whole numbers is neither 0 nor null."""
    found: Mask = pc.fill_null(column, 0).to_numpy() != 0
    return found


def places(column: pa.ChunkedArray, words: Sequence[str]) -> NDArray[np.int8]:
    """Of plain or dictionary-encoded words."""
    found = [np.empty(0, dtype=np.int8)]
    for chunk in column.chunks:
        values = chunk.dictionary if pa.types.is_dictionary(chunk.type) else chunk
        places = pc.fill_null(pc.index_in(values, value_set=pa.array(words)), -1).to_numpy().astype(np.int8)
        if values is not chunk:
            # The last place is that of null.
            places = np.append(places, np.int8(-1))[pc.fill_null(chunk.indices, -1).to_numpy()]
        found.append(places)
    return np.concatenate(found)
