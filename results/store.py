"""The append-only store of a study: the only truth about it.

On a local file system events go to a fsynced journal, which is sealed into a Parquet part every `SEAL_EVENTS` events
and at the end. On any other pyarrow filesystem each append is one immutable object under a unique name, which needs
neither a rename nor a conditional write. Readers need no lock: names say what a file covers, so an event that is
both in a part and in the journal it was sealed from is read once.
"""

from __future__ import annotations

import json
import os
import secrets
import threading
from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from types import TracebackType
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import fs

from . import paths
from .errors import StorageError, StudyError
from .journal import parse
from .location import STORAGE_ERRORS, Location, locate, reason_of, storage_errors
from .manifest import create_folder, new_manifest, parse_manifest, study_exists, to_json
from .nearby import missing_study
from .parts import EVENT_SCHEMA, from_bytes, to_events
from .record import RECORD_SCHEMA, Record
from .writers import EventWriter, JournalWriter, ObjectWriter

_WRITE_REMEDY = "make it writable, or choose another storage"
_APPEND_REMEDY = "free space or bring the storage back, then go on with: sparsevlr resume"
_READ_REMEDY = "check that the storage is there and readable"


class Snapshot(NamedTuple):
    """What the store held when it was read.

    ``events``: every event in the order of arrival, with `RECORD_SCHEMA`; second arrivals are still in it.
    ``problems``: one line per file or line that could not be read.
    ``sessions``: in their order, when the first and the last event of each driver session was made (unix seconds).
    """

    events: pa.Table
    problems: tuple[str, ...]
    sessions: tuple[tuple[float, float], ...] = ()


Piece = tuple[tuple[int, str], int, pa.Table]
"""Order of the session, position of the first event in it, events."""


class Store:
    """Appends events of one study and reads them back. Make one with `Store.create` or `Store.open`."""

    def __init__(self, location: Location, manifest: Mapping[str, Any], readonly: bool) -> None:
        self.location = location
        self.manifest = manifest
        self.readonly = readonly
        self._writer: EventWriter | None = None
        self._lock = threading.Lock()

    @classmethod
    def create(
        cls, uri: str | os.PathLike[str], spec: Mapping[str, Any], *, filesystem: fs.FileSystem | None = None
    ) -> Store:
        """A new study at STORAGE/NAME, opened for writing. Raises StudyExists, UnsafePath, or StorageError with the
        reason; then nothing is left behind.

        On a local file system two processes cannot both succeed. Object stores offer no such promise.
        """
        location = locate(uri, filesystem)
        paths.check_study_name(location.name)
        manifest = new_manifest(spec)
        data = to_json(manifest)
        with storage_errors(f"create a study at {location.shown}", _WRITE_REMEDY):
            if location.has(paths.STUDY_FILE):
                raise study_exists(location)
            if location.local is not None:
                create_folder(location, location.local, data)
            else:
                location.write(paths.STUDY_FILE, data)
        return cls(location, manifest, readonly=False)

    @classmethod
    def open(
        cls, uri: str | os.PathLike[str], readonly: bool = True, *, filesystem: fs.FileSystem | None = None
    ) -> Store:
        """An existing study. Raises StudyMissing (with the studies nearby) or StudyError.

        Opening for writing changes nothing until the first append. It does not keep a second writer out: two writers
        lose nothing, since each has files of its own, but to forbid it is the driver lock's business.
        """
        location = locate(uri, filesystem)
        with storage_errors(f"read the study {location.shown}", _READ_REMEDY):
            if not location.has(paths.STUDY_FILE):
                raise missing_study(location)
            data = location.read(paths.STUDY_FILE)
        return cls(location, parse_manifest(location, data), readonly)

    @property
    def uri(self) -> str:
        """As given, less any credentials."""
        return self.location.shown

    @property
    def name(self) -> str:
        """The study's name."""
        return self.location.name

    @property
    def spec(self) -> dict[str, Any]:
        """The study's spec as plain JSON values; a copy."""
        spec: dict[str, Any] = json.loads(json.dumps(self.manifest["spec"]))
        return spec

    def replace_spec(self, spec: Mapping[str, Any]) -> None:
        """Another spec for the study, durable on return; for the one driver that extends it."""
        self.manifest = {**self.manifest, "spec": dict(spec)}
        with storage_errors(f"write to {self.uri}", _WRITE_REMEDY):
            self.location.replace(paths.STUDY_FILE, to_json(self.manifest))

    def discard_checkpoint(self, path: str) -> None:
        """Remove a checkpoint that nothing needs any more: after the event that says so, never before it."""
        with storage_errors(f"write to {self.uri}", _WRITE_REMEDY):
            self.location.remove_folder(paths.check_checkpoint(path))

    def discard_stages(self) -> None:
        """Remove the dense stages that trials share: when no trial is left, or to have them trained again."""
        with storage_errors(f"write to {self.uri}", _WRITE_REMEDY):
            self.location.remove_folder(paths.STAGES)

    def append(self, records: Record | Iterable[Record]) -> None:
        """Adds events; they are durable when this returns. Safe to call from several threads.

        Raises StorageError (disk full, storage gone): then none or some of the events may be stored, and the same call
        may be made again, since a second arrival of a report is ignored.
        """
        batch = (records,) if isinstance(records, Record) else tuple(records)
        if self.readonly:
            raise StudyError(f"{self.uri} is open for reading only; open it with readonly=False to append")
        if not batch:
            return
        with self._lock, storage_errors(f"write to {self.uri}", f"{_APPEND_REMEDY} {self.uri}"):
            if self._writer is None:
                self._writer = self._begin_session()
            self._writer.append(batch)

    def read(self) -> Snapshot:
        """Everything that is stored now. Raises StorageError when the storage does not answer; a single file that is
        corrupt becomes a problem instead."""
        with storage_errors(f"read the study {self.uri}", _READ_REMEDY):
            return self._read()

    def signature(self) -> tuple[tuple[str, int], ...]:
        """Names and sizes of the event files: equal signatures, equal `read`."""
        with storage_errors(f"read the study {self.uri}", _READ_REMEDY):
            return tuple((*self.location.files(paths.JOURNAL), *self.location.files(paths.PARTS)))

    def seal_abandoned(self) -> int:
        """Seals the journals that killed sessions left behind; returns how many. Only for the one driver of a study
        (the holder of its lock): a journal that somebody still writes to would lose its later lines.

        A journal with a corrupt line stays as it is, so that it keeps being reported.
        """
        if self.location.local is None or self.readonly:
            return 0
        own = self._writer.session if self._writer else None
        sealed = 0
        with self._lock, storage_errors(f"write to {self.uri}", _WRITE_REMEDY):
            for entry in self.location.files(paths.JOURNAL):
                name = paths.parse_journal(entry.name)
                if name is None or name.session == own:
                    continue
                file = self.location.local / paths.JOURNAL / entry.name
                lines = parse(file.read_bytes(), entry.name)
                if not lines.problems:
                    JournalWriter.seal(self.location.local, name.session, lines.events, file)
                    sealed += 1
        return sealed

    def close(self) -> None:
        """Seals this session's journal. Not needed for durability. The store may be appended to again."""
        with self._lock:
            writer, self._writer = self._writer, None
            if writer is not None:
                with storage_errors(f"write to {self.uri}", _WRITE_REMEDY):
                    writer.close()

    def __enter__(self) -> Store:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            self.close()
        except StorageError:
            # Everything is durable without; an error that is on its way says more.
            if value is None:
                raise

    def _begin_session(self) -> EventWriter:
        # A driver that holds a lock takes its epoch from there one day; until then it is one more than any seen.
        journals = [paths.parse_journal(entry.name) for entry in self.location.files(paths.JOURNAL)]
        parts = [paths.parse_part(entry.name) for entry in self.location.files(paths.PARTS)]
        seen = [paths.session_order(name.session)[0] for name in (*journals, *parts) if name is not None]
        session = paths.session_name(max(seen, default=0) + 1, secrets.token_hex(4))
        if self.location.local is not None:
            return JournalWriter(self.location.local, session)
        return ObjectWriter(self.location, session)

    def _read(self) -> Snapshot:
        problems: list[str] = []
        pieces: list[Piece] = []
        covered: dict[str, list[paths.PartName]] = {}
        # Journals before parts: a journal that vanishes in between was sealed, so that its part is in the later list.
        journals = self._read_journals(problems)
        for entry in self.location.files(paths.PARTS):
            part = paths.parse_part(entry.name)
            if part is None:
                continue
            try:
                table = from_bytes(self.location.read(f"{paths.PARTS}/{entry.name}"))
            except (*STORAGE_ERRORS, ValueError) as error:
                problems.append(f"{paths.PARTS}/{entry.name}: cut short or corrupt, skipped ({reason_of(error)})")
                continue
            covered.setdefault(part.session, []).append(part)
            pieces.append((paths.session_order(part.session), part.first, table))
        for journal, rows in journals:
            ranges = covered.get(journal.session, [])
            fresh = [row for row in rows if not any(part.first <= row[0] <= part.last for part in ranges)]
            if fresh:
                pieces.append((paths.session_order(journal.session), fresh[0][0], to_events(fresh)))
        pieces.sort(key=lambda piece: piece[:2])
        events = pa.concat_tables([EVENT_SCHEMA.empty_table(), *(piece[2] for piece in pieces)])
        return Snapshot(events.select(RECORD_SCHEMA.names), tuple(problems), _spans(pieces))

    def _read_journals(self, problems: list[str]) -> list[tuple[paths.JournalName, list[tuple[int, dict[str, Any]]]]]:
        journals = []
        for entry in self.location.files(paths.JOURNAL):
            name = paths.parse_journal(entry.name)
            if name is None:
                continue
            try:
                lines = parse(self.location.read(f"{paths.JOURNAL}/{entry.name}"), f"{paths.JOURNAL}/{entry.name}")
            except FileNotFoundError:
                continue  # sealed since it was listed
            except STORAGE_ERRORS as error:
                problems.append(f"{paths.JOURNAL}/{entry.name}: cannot be read ({reason_of(error)})")
                continue
            problems.extend(lines.problems)
            journals.append((name, lines.events))
        return journals


def _spans(pieces: Sequence[Piece]) -> tuple[tuple[float, float], ...]:
    spans = []
    for _, of_session in groupby(pieces, key=lambda piece: piece[0]):
        times = pc.min_max(pa.concat_tables([piece[2].select(["time"]) for piece in of_session])["time"])
        spans.append((times["min"].as_py(), times["max"].as_py()))
    return tuple(spans)
