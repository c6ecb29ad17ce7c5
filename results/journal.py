"""Events as lines of text, each with its own checksum, so that whatever a crash leaves behind can be read.

A line is ``CRC32 JSON``: eight hex digits over the bytes of the JSON, which holds the event's position in its session
and every column that is not None. JSON has no NaN; in columns of numbers the words NaN, Infinity and -Infinity stand
for them.
"""

from __future__ import annotations

import json
import math
import os
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa

from .errors import RecordError
from .location import sync_folder
from .record import CONVERTERS, RECORD_SCHEMA, Record
from .untrusted import parse_json

SEQUENCE = "sequence"
MOST_EVENTS = 10**12
"""Of a session: what names of files have room for."""
LARGEST_JOURNAL = 1 << 30
"""Bytes of a file, which our own seal long before."""
_NON_FINITE = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}
_REALS = frozenset(field.name for field in RECORD_SCHEMA if pa.types.is_floating(field.type))


class Lines(NamedTuple):
    """What a journal file holds: readable events as (position, columns), and one line of text per unreadable one."""

    events: list[tuple[int, dict[str, Any]]]
    problems: list[str]


def encode(record: Record, sequence: int) -> bytes:
    """One line, with its newline."""
    columns: dict[str, Any] = {SEQUENCE: sequence}
    for name, value in vars(record).items():
        if isinstance(value, float) and not math.isfinite(value):
            columns[name] = "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
        elif value is not None:
            columns[name] = value
    payload = json.dumps(columns, separators=(",", ":"), allow_nan=False).encode()
    return b"%08x %s\n" % (zlib.crc32(payload), payload)


def decode(line: bytes) -> tuple[int, dict[str, Any]] | None:
    """Position and columns of a line without its newline; None when it is torn or corrupt. Columns that this version
    does not know are left out."""
    checksum, _, payload = line.partition(b" ")
    if checksum != b"%08x" % zlib.crc32(payload):
        return None
    try:
        columns = parse_json(payload)
        sequence = columns.pop(SEQUENCE)
        known = {name: _value(name, value) for name, value in columns.items() if name in CONVERTERS}
    except (ValueError, KeyError, AttributeError, TypeError):
        return None
    if isinstance(sequence, bool) or not isinstance(sequence, int) or not 0 <= sequence < MOST_EVENTS:
        return None
    if "trial_id" not in known or "event" not in known:
        return None
    return sequence, known


def _value(name: str, value: Any) -> Any:
    if name in _REALS and isinstance(value, str):
        if value not in _NON_FINITE:
            raise RecordError(f"{name} must be a number; got {value!r}")
        return _NON_FINITE[value]
    return None if value is None else CONVERTERS[name](name, value)


def parse(data: bytes, name: str) -> Lines:
    """Every readable event of a journal. A last line without its newline is the trace of a kill in the middle of a
    write, which nobody was told is durable: no problem. Any other unreadable line is one, by file name and number."""
    result = Lines([], [])
    *lines, tail = data.split(b"\n")
    for number, line in enumerate(lines, start=1):
        event = decode(line)
        if event is None:
            result.problems.append(f"{name}, line {number}: corrupt event skipped")
        else:
            result.events.append(event)
    event = decode(tail)
    if event is not None:
        result.events.append(event)
    return result


class JournalFile:
    """An append-only file of one session. `append` returns when its lines are on disk."""

    def __init__(self, path: Path) -> None:
        """Creates the file; FileExistsError when there is one."""
        self.path = path
        self._size = 0
        self._descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_EXCL, 0o666)
        sync_folder(path.parent)

    def append(self, lines: Sequence[bytes]) -> None:
        """Writes and fsyncs. On OSError the half-written lines are cut off again where the disk still allows it; the
        file must not be appended to afterwards."""
        data = memoryview(b"".join(lines))
        try:
            written = 0
            while written < len(data):
                written += os.write(self._descriptor, data[written:])
            os.fsync(self._descriptor)
        except OSError:
            os.ftruncate(self._descriptor, self._size)
            raise
        self._size += len(data)

    def close(self) -> None:
        """Leaves the file as it is."""
        os.close(self._descriptor)
