"""Digests: of many events those that decide what the trials are, so that questions about trials need not read all. Of
most trials these become a single row, a summary.

A digest says nothing that the parts do not say. It may be missing, or left aside when it cannot be read; what it covers
is then read from the parts.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from . import paths
from .errors import StorageError
from .fold import IDENTITY, MEASURED, Fold
from .location import STORAGE_ERRORS, reason_of, storage_errors
from .parts import PartFile, conform, stream_to_bytes
from .pieces import EVENT_SCHEMA, SLICE_ROWS, SUMMARY, TRIAL, Events, Mask, Positions, Trials, flags, inverse
from .record import CHOICES, STATES

PLACE = "place"
DIGEST_SCHEMA = pa.schema([*EVENT_SCHEMA, *(pa.field(name, pa.int64()) for name in (TRIAL, SUMMARY, PLACE))])
"""Trials are numbered in the order of their first event, which spares readers to compare ids; the place of a row is
that of its event in the order of arrival."""
ALWAYS = ("trial_id", "event", "state", "split", "rung", "schema_version", TRIAL, SUMMARY, PLACE)
"""Columns that every question needs."""
GROUP_ROWS = 4_096
"""Rows in a row group: few, since a front has its trials anywhere."""


class CorruptDigest(StorageError, ValueError):
    """A digest that cannot be read, which is found when a question needs it."""


class OtherVersion(ValueError):
    """A digest without some column, as another version made it: what it covers is read from the parts."""


class DigestFile(PartFile):
    """A digest, opened. In the file lie first the trials that were completed when it was made, then those of high
    verified accuracy: most questions are about these, which so are in few groups. What is read is in the order of
    arrival nevertheless, except by groups.

    Raises OtherVersion, and what `PartFile` raises; later, when columns are read, CorruptDigest.

    Args:
        shown: what to call it.
    """

    schema = DIGEST_SCHEMA

    def __init__(self, source: pa.NativeFile, shown: str = paths.DIGESTS) -> None:
        super().__init__(source)
        self._shown = shown
        missing = [name for name in DIGEST_SCHEMA.names if name not in self.column_names]
        if missing:
            raise OtherVersion(f"no column {missing[0]}")

    def read(self, names: Sequence[str], groups: Sequence[int] | None = None) -> pa.Table:
        with self._corrupt():
            table = super().read(names, groups)
            return table if groups is not None else table.combine_chunks().take(pa.array(self._rows))

    def codes(self, name: str, words: Sequence[str]) -> NDArray[np.int8]:
        with self._corrupt():
            return super().codes(name, words)[self._rows]

    def at(self, names: Sequence[str], positions: Positions) -> Iterator[pa.Table]:
        with self._corrupt():
            rows = self._rows[positions]
            order = np.argsort(rows)
            table = pa.concat_tables(super().at(names, rows[order])).take(pa.array(inverse(order)))
        yield table

    @cached_property
    def _rows(self) -> Positions:
        """Of each event its row in the file."""
        return _inverse(self._always[PLACE], len(self), len(self))

    @cached_property
    def _always(self) -> pa.Table:
        """Columns that every question needs, as they are stored: read together, which is done on all cores."""
        stored = super()._read(ALWAYS)
        plain = [name for name in ALWAYS if name not in CHOICES]
        whole = conform(stored, pa.schema([self.schema.field(name) for name in plain]))
        return pa.table({name: whole[name] if name in plain else stored[name] for name in ALWAYS})

    def _read(self, names: Sequence[str], groups: Sequence[int] | None = None) -> pa.Table:
        if groups is None and set(names) <= set(ALWAYS):
            return self._always.select(names)
        return super()._read(names, groups)

    @contextmanager
    def _corrupt(self) -> Iterator[None]:
        try:
            yield
        except StorageError:
            raise
        except (*STORAGE_ERRORS, ValueError) as error:
            # Corrupt pages and a storage that does not answer look alike: the file is asked once more.
            with storage_errors(f"read {self._shown}", "try again once the storage answers"):
                self._source.read_at(1, 0)
            raise CorruptDigest(
                f"{self._shown} is corrupt ({reason_of(error)}); remove it, the parts hold the same events"
            ) from error

    def trials(self) -> Trials:
        with self._corrupt():
            codes, ids = self._always[TRIAL], self._always["trial_id"].combine_chunks()
            if ids.null_count:
                raise ValueError("events without a trial")
            rows = _inverse(codes, len(self))
            return Trials(ids.take(pa.array(rows)), codes.to_numpy()[self._rows])

    def summaries(self) -> Mask:
        return flags(self.read([SUMMARY])[SUMMARY])


def _inverse(numbers: pa.ChunkedArray, most: int, least: int = 0) -> Positions:
    """Where each number is; where it is more than once, any place. Raises ValueError unless they are all from 0 to some
    number, `least` of them at least and `most` at most."""
    values = numbers.to_numpy()
    count = max(int(values.max(initial=-1)) + 1, least)
    if numbers.null_count or values.min(initial=0) < 0 or count > most:
        raise ValueError("numbers out of range")
    found = np.full(count, -1, dtype=np.int64)
    found[values] = np.arange(len(values))
    if (found < 0).any():
        raise ValueError("numbers missing")
    return found


def digest(events: Events) -> pa.Buffer:
    """The file that covers these events: stretches that follow each other, whole or digests already."""
    return stream_to_bytes(_decisive(Fold(events)), DIGEST_SCHEMA, GROUP_ROWS)


def _decisive(fold: Fold) -> Iterator[pa.Table]:
    """The decisive events in the order of the file (`DigestFile`); a summary has the position of its decision."""
    own, summed = fold.decisive, fold.summed
    proposed, measured = np.arange(len(fold.events)), np.arange(len(fold.events))
    proposed[summed.stated], measured[summed.stated] = summed.proposed, summed.measured
    summary = fold.events.summaries()
    summary[summed.stated] = True
    own = own[~np.isin(own, np.setdiff1d(np.concatenate([summed.proposed, summed.measured]), summed.stated))]
    trial = fold.events.trials.codes[own]
    verified = fold.events.numbers("verified_accuracy")[measured[own]]
    place = np.lexsort((own, -verified, fold.state[trial] != STATES.index("completed")))
    own, codes = own[place], numbered(trial[place])
    for start in range(0, len(own), SLICE_ROWS):
        rows = own[start : start + SLICE_ROWS]
        columns = _columns(fold.events, EVENT_SCHEMA.names, rows)
        columns |= _columns(fold.events, MEASURED, measured[rows])
        columns |= _columns(fold.events, IDENTITY, proposed[rows])
        columns |= {TRIAL: codes[start : start + SLICE_ROWS], SUMMARY: summary[rows].astype(np.int64)}
        columns[PLACE] = place[start : start + SLICE_ROWS]
        yield pa.table(columns, schema=DIGEST_SCHEMA)


def _columns(events: Events, names: Sequence[str], positions: Positions) -> dict[str, pa.ChunkedArray]:
    return dict(zip(names, events.take(names, positions).columns, strict=True))


def numbered(codes: Positions) -> Positions:
    """The same distinctions in the same order, numbered from 0."""
    found: Positions = np.unique(codes, return_inverse=True)[1]
    return found
