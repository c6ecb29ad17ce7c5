"""The append-only store of a study: the only truth about it.

On a local file system events go to a fsynced journal, which is sealed into a Parquet part every `SEAL_EVENTS` events
and at the end. On any other pyarrow filesystem each append is one immutable object under a unique name, which needs
neither a rename nor a conditional write. One driver at a time writes (`Store.lead`); what counts of an earlier one that
writes on is bounded by `fences`. Parts are merged in the background (`merging`). Readers need no lock: names say what a
file covers, so an event that is both in a part and in the journal it was sealed from, or in a larger part, is read
once; and when a file vanishes between being listed and being read, another that covers it is there.
"""

from __future__ import annotations

import contextlib
import json
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby
from types import TracebackType
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import fs

from . import paths
from .coverage import covers, events_in, in_order, outermost
from .digests import DigestFile, OtherVersion
from .errors import StorageError, StudyError
from .fences import NONE_SEEN, Fences, Limits
from .journal import LARGEST_JOURNAL, SEQUENCE, parse
from .lease import Lease, next_session
from .location import STORAGE_ERRORS, Location, locate, no_answer, reason_of, storage_errors
from .lock import DriverLock
from .manifest import check_version, create_folder, new_manifest, parse_manifest, study_exists, to_json
from .merging import Merger
from .nearby import missing_study
from .parts import from_bytes, to_events
from .paths import PartName
from .pieces import Events, Loaded, Piece
from .record import RECORD_SCHEMA, Record
from .untrusted import LARGEST_JSON, inside
from .writers import EventWriter, JournalWriter, ObjectWriter

_WRITE_REMEDY = "make it writable, or choose another storage"
_APPEND_REMEDY = "free space or bring the storage back, then go on with: sparsevlr resume"
_RELISTINGS = 100
_PATIENCE_SECONDS = 5.0
_READ_REMEDY = "check that the storage is there and readable"


T = TypeVar("T")


class Unanswered(OSError):
    """An object store did not answer, which says nothing of the file that was asked for."""


@dataclass(frozen=True)
class Stretch:
    """Events of one session that lie together: the order of the session, the first one's position in it, and they."""

    session: tuple[int, str]
    first: int
    piece: Piece


@dataclass(frozen=True)
class Snapshot:
    """What the store held when it was read.

    ``stretches``: in the order of arrival; second arrivals are still in it.
    ``problems``: one line per file or line that could not be read.
    """

    stretches: tuple[Stretch, ...]
    problems: tuple[str, ...] = ()

    @cached_property
    def pieces(self) -> Events:
        """The events, columns of which are read as they are asked for."""
        return Events([stretch.piece for stretch in self.stretches])

    @property
    def events(self) -> pa.Table:
        """The events with `RECORD_SCHEMA`."""
        pieces = [stretch.piece.read(RECORD_SCHEMA.names) for stretch in self.stretches]
        return pa.concat_tables([RECORD_SCHEMA.empty_table(), *pieces])

    @cached_property
    def sessions(self) -> tuple[tuple[float, float], ...]:
        """In their order, when the first and the last event of each driver session was made (unix seconds); less
        sessions of which no event says it."""
        time, spans, start = self.pieces.numbers("time"), [], 0
        for _, of_session in groupby(self.stretches, key=lambda stretch: stretch.session):
            end = start + sum(len(stretch.piece) for stretch in of_session)
            known = time[start:end][np.isfinite(time[start:end])]
            if len(known):
                spans.append((float(known.min()), float(known.max())))
            start = end
        return tuple(spans)


class Store:
    """Appends events of one study and reads them back. Make one with `Store.create` or `Store.open`."""

    def __init__(self, location: Location, manifest: Mapping[str, Any], readonly: bool) -> None:
        self.location = location
        self.manifest = manifest
        self.readonly = readonly
        self._writer: EventWriter | None = None
        self._lock = threading.Lock()
        self._merging: threading.Thread | None = None
        self._closing = threading.Event()
        self._fences = Fences(location)
        self._lease: Lease | None = None
        self._created = False

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
        store = cls(location, manifest, readonly=False)
        store._created = True
        return store

    @classmethod
    def open(
        cls, uri: str | os.PathLike[str], readonly: bool = True, *, filesystem: fs.FileSystem | None = None
    ) -> Store:
        """An existing study. Raises StudyMissing (with the studies nearby) or StudyError.

        Opening for writing changes nothing until the first append. It does not keep a second writer out, which is the
        business of `lead`: what is appended without it may count for nothing once a driver leads.
        """
        location = locate(uri, filesystem)
        with storage_errors(f"read the study {location.shown}", _READ_REMEDY):
            if not location.has(paths.STUDY_FILE):
                raise missing_study(location)
            data = location.read(paths.STUDY_FILE, LARGEST_JSON)
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

    @contextmanager
    def lead(self) -> Iterator[DriverLock | Lease]:
        """Be the one driver of the study: on a file system by an exclusive file, on other storage by a lease. The store
        is closed before this ends.

        Raises StudyLocked when another driver lives, and StorageError.
        """
        if self.location.local is not None:
            with DriverLock(self.location) as lock, self:
                yield lock
            return
        with Lease(self.location) as lease:
            if self._created:
                # Of several that create it at once this one stays, and so does its spec.
                self.replace_spec(self.spec)
            self._lease, self._writer = lease, None
            try:
                with self:
                    yield lease
            finally:
                self._lease = self._writer = None

    def replace_spec(self, spec: Mapping[str, Any]) -> None:
        """Another spec for the study, durable on return; for the one driver that extends it."""
        self.manifest = {**self.manifest, "spec": dict(spec)}
        with storage_errors(f"write to {self.uri}", _WRITE_REMEDY):
            self.location.replace(paths.STUDY_FILE, to_json(self.manifest))

    def withdraw(self) -> None:
        """Remove the study again, if nothing was ever stored in it; else nothing happens. For its one driver."""
        folders = (paths.JOURNAL, paths.PARTS, paths.CHECKPOINTS)
        with storage_errors(f"write to {self.uri}", _WRITE_REMEDY):
            if any(self.location.files(folder) or self.location.folders(folder) for folder in folders):
                return
            for file in (paths.STUDY_FILE, paths.LOCK):
                self.location.remove_file(file)
            for folder in (*folders, paths.FENCES, paths.LEASES):
                self.location.remove_folder(folder)
            if self.location.local is not None:
                self.location.local.rmdir()

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
            if self._writer.parts_due:
                self._merge_in_background(self._writer)

    def read(self) -> Snapshot:
        """Everything that is stored now. Raises StorageError when the storage does not answer, and StudyError for
        events of a newer schema version; a single file that is corrupt becomes a problem instead."""
        return self._snapshot(digested=False)

    def read_decisive(self) -> Snapshot:
        """At least the events that decide what the trials are now (`Fold.decisive`): from digests, as far as there are
        any. Raises as `read` does, and later, when columns are read of a digest that is corrupt."""
        return self._snapshot(digested=True)

    def signature(self) -> tuple[tuple[str, int], ...]:
        """Names and sizes of the event files: equal signatures, equal `read`."""
        with storage_errors(f"read the study {self.uri}", _READ_REMEDY):
            folders = (paths.JOURNAL, paths.PARTS, paths.FENCES)
            return tuple(entry for folder in folders for entry in self.location.files(folder))

    def merge(self) -> None:
        """Makes few large files of many small ones, see `merging`. Only for the one driver of a study.

        While a store is appended to this is done in the background, and stops when it is closed.
        """
        with storage_errors(f"write to {self.uri}", _WRITE_REMEDY):
            Merger(self.location, self._closing, self._fences.limits(lambda problem: None)).run()

    def seal_abandoned(self) -> int:
        """Seals the journals that killed sessions left behind; returns how many. Only for the one driver of a study
        (the holder of its lock): a journal that somebody still writes to would lose its later lines.

        A journal with a corrupt line stays as it is, so that it keeps being reported.
        """
        if self.location.local is None or self.readonly:
            return 0
        own = self._writer.session if self._writer else None
        # The rest of writes that were killed.
        for folder in (paths.JOURNAL, paths.PARTS, paths.DIGESTS):
            for file in inside(self.location.local, folder).glob(".*.tmp"):
                file.unlink(missing_ok=True)
        sealed = 0
        with self._lock, storage_errors(f"write to {self.uri}", _WRITE_REMEDY):
            for entry in self.location.files(paths.JOURNAL):
                name = paths.parse_journal(entry.name)
                if name is None or name.session == own:
                    continue
                file = self.location.local / paths.JOURNAL / entry.name
                lines = parse(self.location.read(f"{paths.JOURNAL}/{entry.name}"), entry.name)
                if not lines.problems:
                    JournalWriter.seal(self.location.local, name.session, lines.events, file)
                    sealed += 1
        return sealed

    def close(self) -> None:
        """Seals this session's journal. Not needed for durability. The store may be appended to again."""
        with self._lock:
            self._closing.set()
            if self._merging is not None:
                # A kill in the middle of it costs nothing: who closes need not wait for a large file.
                self._merging.join(_PATIENCE_SECONDS)
            self._closing = threading.Event()
            if self._lease is not None:
                return  # Its session lasts as long, and nothing is held back.
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
        if self._lease is not None:
            return ObjectWriter(self.location, self._lease.session)
        session = next_session(self.location)
        if self.location.local is not None:
            return JournalWriter(self.location.local, session)
        return ObjectWriter(self.location, session)

    def _merge_in_background(self, writer: EventWriter) -> None:
        if self._merging is None or not self._merging.is_alive():
            writer.parts_due = False
            self._merging = threading.Thread(target=self._merge_quietly, name="merging", daemon=True)
            self._merging.start()

    def _merge_quietly(self) -> None:
        # Nothing depends on it, and what failed is tried again when more has come.
        with contextlib.suppress(StorageError):
            self.merge()

    def _snapshot(self, digested: bool) -> Snapshot:
        with storage_errors(f"read the study {self.uri}", _READ_REMEDY):
            opened: dict[tuple[str, PartName], Piece] = {}
            for _ in range(_RELISTINGS):
                # A file that vanishes has been merged into another since they were listed.
                with contextlib.suppress(FileNotFoundError):
                    return self._listed(digested, opened)
            return self._listed(digested, opened)

    def _listed(self, digested: bool, opened: dict[tuple[str, PartName], Piece]) -> Snapshot:
        problems: list[str] = []
        # Journals before parts: a journal that vanishes in between was sealed, so that its part is in the later list.
        journals = self._read_journals(problems)
        parts = self._all_parts()
        digested_parts = self._names(paths.DIGESTS) if digested else []
        # After what they bound, so that nothing is taken for good that came after them.
        limits = self._fences.limits(problems.append)
        whole = [name for name in digested_parts if limits.whole(name)]
        digests = self._outermost(paths.DIGESTS, whole, problems, opened)
        parts = [name for name in parts if not any(covers(digest, name) for digest in digests)]
        pieces = self._counting({**digests, **self._outermost(paths.PARTS, parts, problems, opened)}, limits)
        stretches = [Stretch(paths.session_order(name.session), name.first, piece) for name, piece in pieces.items()]
        for journal, rows in journals:
            ranges = [name for name in pieces if name.session == journal.session]
            limit = limits.of(journal.session)
            counting = rows if limit is None else [row for row in rows if row[0] <= limit]
            fresh = [row for row in counting if not any(name.first <= row[0] <= name.last for name in ranges)]
            if fresh:
                piece = Loaded(to_events(fresh))
                stretches.append(Stretch(paths.session_order(journal.session), fresh[0][0], piece))
        stretches.sort(key=lambda stretch: (stretch.session, stretch.first))
        return Snapshot(tuple(stretches), tuple(problems))

    @staticmethod
    def _counting(pieces: Mapping[PartName, Piece], limits: Limits) -> dict[PartName, Piece]:
        """Less the events that do not count, and those that a file before has: files of drivers that merge at once may
        overlap."""
        found: dict[PartName, Piece] = {}
        ends: dict[str, int] = {}
        for name in in_order(pieces):
            limit = limits.of(name.session)
            first = max(name.first, ends.get(name.session, NONE_SEEN) + 1)
            last = name.last if limit is None else min(name.last, limit)
            if first > last:
                continue
            ends[name.session] = last
            found[name] = pieces[name]
            if (first, last) != (name.first, name.last):
                events = pieces[name].read(pieces[name].schema.names)
                place = events[SEQUENCE]
                found[name] = Loaded(events.filter(pc.and_(pc.greater_equal(place, first), pc.less_equal(place, last))))
        return found

    def _all_parts(self) -> list[PartName]:
        """Files that are removed while a folder is listed are left out, and the one that they were merged into may be
        younger than the list: so two lists must agree."""
        names = self._names(paths.PARTS)
        for _ in range(_RELISTINGS):
            before, names = names, self._names(paths.PARTS)
            if names == before:
                break
        return names

    def _names(self, folder: str) -> list[PartName]:
        names = (paths.parse_part(entry.name) for entry in self.location.files(folder))
        return [name for name in names if name is not None]

    def _outermost(
        self, folder: str, names: Sequence[PartName], problems: list[str], opened: dict[tuple[str, PartName], Piece]
    ) -> dict[PartName, Piece]:
        """The files that lie in no other; where one is corrupt, those that lie in it."""
        left = set(names)
        while True:
            chosen = outermost(left)
            fresh = [name for name in chosen if (folder, name) not in opened]
            if not fresh:
                return {name: opened[folder, name] for name in chosen}
            for name in fresh:
                file = f"{folder}/{paths.part_file(*name)}"
                try:
                    piece = self._open(folder, file)
                    if len(piece) > events_in(name):
                        raise ValueError(f"it holds {len(piece)} events")
                    versions = piece.read(["schema_version"])["schema_version"]
                    check_version(f"{self.uri}/{file}", pc.max(versions).as_py() or 0)
                    opened[folder, name] = piece
                except (FileNotFoundError, Unanswered):
                    raise
                except OtherVersion:
                    left.discard(name)
                except (*STORAGE_ERRORS, ValueError) as error:
                    problems.append(f"{file}: cut short or corrupt, skipped ({reason_of(error)})")
                    left.discard(name)

    def _open(self, folder: str, file: str) -> Piece:
        if folder == paths.DIGESTS:
            return DigestFile(self._asked(self.location.open, file), f"{self.uri}/{file}")
        return Loaded(from_bytes(self._asked(self.location.read, file)))

    @staticmethod
    def _asked(how: Callable[[str], T], file: str) -> T:
        try:
            return how(file)
        except OSError as error:
            if no_answer(error):
                raise Unanswered(*error.args) from error
            raise

    def _read_journals(self, problems: list[str]) -> list[tuple[paths.JournalName, list[tuple[int, dict[str, Any]]]]]:
        journals = []
        for entry in self.location.files(paths.JOURNAL):
            name = paths.parse_journal(entry.name)
            if name is None:
                continue
            try:
                content = self.location.read(f"{paths.JOURNAL}/{entry.name}", LARGEST_JOURNAL)
                lines = parse(content, f"{paths.JOURNAL}/{entry.name}")
            except FileNotFoundError:
                continue  # sealed since it was listed
            except STORAGE_ERRORS as error:
                problems.append(f"{paths.JOURNAL}/{entry.name}: cannot be read ({reason_of(error)})")
                continue
            problems.extend(lines.problems)
            versions = [row["schema_version"] for _, row in lines.events if row.get("schema_version") is not None]
            check_version(f"{self.uri}/{paths.JOURNAL}/{entry.name}", max(versions, default=0))
            journals.append((name, lines.events))
        return journals
