"""Digests: of many events those that decide what the trials are, so that questions about trials need not read all.

A digest says nothing that the parts do not say. It may be missing, or left aside when it cannot be read; what it covers
is then read from the parts.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from . import paths
from .errors import StorageError
from .fold import Fold
from .location import STORAGE_ERRORS, reason_of
from .parts import EVENT_SCHEMA, PartFile, stream_to_bytes
from .pieces import Events, Positions, Trials

TRIAL = "trial"
DIGEST_SCHEMA = EVENT_SCHEMA.append(pa.field(TRIAL, pa.int64()))
"""Trials are numbered in the order of their first event, which spares readers to compare ids."""


class CorruptDigest(StorageError, ValueError):
    """A digest that cannot be read, which is found when a question needs it."""


class DigestFile(PartFile):
    """A digest, opened.

    Raises ValueError for one without a column that this version knows: the parts may have it. Later, when columns are
    read, CorruptDigest.

    Args:
        shown: what to call it.
    """

    schema = DIGEST_SCHEMA

    def __init__(self, source: pa.NativeFile, shown: str = paths.DIGESTS) -> None:
        super().__init__(source)
        self._shown = shown
        missing = [name for name in DIGEST_SCHEMA.names if name not in self.column_names]
        if missing:
            raise ValueError(f"it is of another version: no column {missing[0]}")

    def read(self, names: Sequence[str], groups: Sequence[int] | None = None) -> pa.Table:
        with self._corrupt():
            return super().read(names, groups)

    def codes(self, name: str, words: Sequence[str]) -> NDArray[np.int8]:
        with self._corrupt():
            return super().codes(name, words)

    @contextmanager
    def _corrupt(self) -> Iterator[None]:
        try:
            yield
        except (*STORAGE_ERRORS, ValueError) as error:
            raise CorruptDigest(
                f"{self._shown} is corrupt ({reason_of(error)}); remove it, the parts hold the same events"
            ) from error

    def trials(self) -> Trials:
        columns = self.read([TRIAL, "trial_id"])
        with self._corrupt():
            if columns[TRIAL].null_count or columns["trial_id"].null_count:
                raise ValueError("events without a trial")
            codes = columns[TRIAL].to_numpy().astype(np.int64)
            seen = np.maximum.accumulate(np.concatenate([[-1], codes]))
            if codes.min(initial=0) < 0 or (seen[1:] > seen[:-1] + 1).any():
                raise ValueError("trials out of order")
        return Trials(columns["trial_id"].take(pa.array(np.flatnonzero(seen[1:] > seen[:-1]))).combine_chunks(), codes)


def digest(events: Events) -> pa.Buffer:
    """The file that covers these events: stretches that follow each other, whole or digests already."""
    fold = Fold(events)
    return stream_to_bytes(_decisive(fold), DIGEST_SCHEMA)


def _decisive(fold: Fold) -> Iterator[pa.Table]:
    positions = fold.decisive
    codes = numbered(fold.events.trials.codes[positions])
    start = 0
    for piece in fold.events.pieces:
        low, high = np.searchsorted(positions, [start, start + len(piece)])
        place = low
        for table in piece.at(EVENT_SCHEMA.names, positions[low:high] - start):
            yield table.append_column(TRIAL, pa.array(codes[place : place + len(table)]))
            place += len(table)
        start += len(piece)


def numbered(codes: Positions) -> Positions:
    """The same distinctions, numbered from 0 in the order of first appearance."""
    _, first, place = np.unique(codes, return_index=True, return_inverse=True)
    number = np.empty(len(first), dtype=np.int64)
    number[np.argsort(first)] = np.arange(len(first))
    return number[place]
