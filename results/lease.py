"""One driver at a time on object stores, which promise neither an exclusive file nor a rename nor a conditional write.

A driver writes an object of its own and goes on writing it: a heartbeat. Whoever comes watches the leases that are
there, and gives up as soon as one beats; else it writes its own with a higher epoch, waits until a competitor's must
be visible, and of several the one with the highest epoch and token stays. Then it fences the others' sessions
(`fences`).

What this excludes, whatever is late: that events of two drivers count for the same stretch of time, and that an event
does not count after which `Lease.check` has still found nobody else. (Whoever comes later writes its lease, waits, and
lists the events only then.) What it does not: a driver whose requests hang for `STALE_SECONDS`, or that is asleep, is
thought dead; and one that begins so slowly that others have begun and settled meanwhile may end them.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import socket
import threading
import time
from types import TracebackType

from . import paths
from .fences import Fence, Fences
from .journal import LARGEST_JOURNAL, parse
from .location import Location, storage_errors
from .lock import StudyLocked, holder_in
from .untrusted import LARGEST_JSON

BEAT_SECONDS = 3.0
STALE_SECONDS = 30.0
SETTLE_SECONDS = 3.0
_PATIENCE_SECONDS = 5.0
_REMEDY = "make the study writable"


class Lease:
    """Held by the one process that writes a study, as a context manager.

    Attributes:
        session: under which this driver writes; above all sessions that the study had when it began.

    Raises:
        StudyLocked: on entry, when another driver lives, or begins at the same time and has the higher token.
        StorageError: the storage does not take it.
    """

    session: str

    def __init__(self, location: Location) -> None:
        self._location = location
        self._beats = 0
        self._began = time.time()
        self._ended = threading.Event()
        self._beating = threading.Thread(target=self._beat, name="lease", daemon=True)

    def __enter__(self) -> Lease:
        with storage_errors(f"lease the study {self._location.shown}", _REMEDY):
            dead = self._watch()
            self.session = next_session(self._location)
            # Where this or the fence fails, they may arrive yet. The lease stays then, so that the next driver's epoch
            # is higher, and what arrives binds nobody.
            self._write()
            self._beating.start()
            try:
                self._ended.wait(SETTLE_SECONDS)
                if self._superseded():
                    self._remove()
                    raise StudyLocked(f"another driver has just begun to work on {self._location.shown}")
                self._fence()
                for name in dead:
                    self._location.remove_file(f"{paths.LEASES}/{name}")
            except BaseException:
                self._ended.set()
                raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._ended.set()
        # A beat that hangs is not waited for; the next driver then waits until the lease is stale.
        self._beating.join(_PATIENCE_SECONDS)
        self._remove()

    def check(self) -> None:
        """Raises StudyLocked when another driver has taken the study over, after this one was thought dead, and
        StorageError. What was stored before this was called, and it returns, counts."""
        with storage_errors(f"lease the study {self._location.shown}", _REMEDY):
            if self._superseded():
                raise StudyLocked(f"another driver has taken {self._location.shown} over; this one stops")

    def _watch(self) -> set[str]:
        """File names of the leases of dead drivers."""
        seen: dict[str, tuple[bytes, float]] = {}
        while True:
            # An answer says how things were at some time after it was asked for, and no later than it came.
            asked, now = time.monotonic(), {}
            for entry in self._location.files(paths.LEASES):
                if paths.parse_session_file(entry.name) is None:
                    continue
                with contextlib.suppress(FileNotFoundError):
                    content = self._location.read(f"{paths.LEASES}/{entry.name}", LARGEST_JSON)
                    now[entry.name] = seen.get(entry.name, (content, time.monotonic()))
                    if now[entry.name][0] != content:
                        raise StudyLocked(
                            f"another driver works on {self._location.shown} ({holder_in(content)}); "
                            "wait for it, or stop it and try again"
                        )
            seen = now
            if all(asked - since >= STALE_SECONDS for _, since in seen.values()):
                return set(seen)
            time.sleep(BEAT_SECONDS / 2)

    def _superseded(self) -> bool:
        """Whether there is a driver after us, or was one: its lease is gone then, its fence is not."""
        mine = paths.session_order(self.session)
        return any(paths.session_order(session) > mine for session in _marked(self._location))

    def _fence(self) -> None:
        limits = Fences(self._location).limits(_refuse)
        seen: dict[str, int] = {}
        for session, last in [(name.session, name.last) for name in _parts(self._location)] + self._journalled():
            if session != self.session:
                seen[session] = max(last, seen.get(session, last))
        for session, last in seen.items():
            limit = limits.of(session)
            seen[session] = last if limit is None else min(last, limit)
        self._location.write(f"{paths.FENCES}/{paths.session_file(self.session)}", Fence(self.session, seen).to_json())

    def _journalled(self) -> list[tuple[str, int]]:
        """Sessions with a journal, which drivers on disks write, and the last position in it: of a copied study."""
        found = []
        for entry in self._location.files(paths.JOURNAL):
            if name := paths.parse_journal(entry.name):
                lines = parse(self._location.read(f"{paths.JOURNAL}/{entry.name}", LARGEST_JOURNAL), entry.name)
                found += [(name.session, position) for position, _ in lines.events[-1:]]
        return found

    def _write(self) -> None:
        # Of one length: who reads while it is written asks for as many bytes as it had.
        beat = f"{self._beats:012d}"
        content = {"host": socket.gethostname(), "pid": os.getpid(), "since": self._began, "beat": beat}
        self._location.write(f"{paths.LEASES}/{paths.session_file(self.session)}", json.dumps(content).encode())

    def _beat(self) -> None:
        superseded = False
        while not superseded and not self._ended.wait(BEAT_SECONDS):
            # A storage that is away may come back, and what it raises is its own.
            with contextlib.suppress(Exception):
                superseded = self._superseded()
                if not superseded and not self._ended.is_set():
                    self._beats += 1
                    self._write()

    def _remove(self) -> None:
        # A storage that has vanished takes its lease along; what it says now would hide why the driver ends.
        with contextlib.suppress(Exception):
            self._location.remove_file(f"{paths.LEASES}/{paths.session_file(self.session)}")


def next_session(location: Location) -> str:
    """A new session, above all that a study has traces of: events, leases and fences."""
    journals = [paths.parse_journal(entry.name) for entry in location.files(paths.JOURNAL)]
    named = [name.session for name in (*journals, *_parts(location)) if name is not None]
    epochs = [paths.session_order(session)[0] for session in (*named, *_marked(location))]
    return paths.session_name(max(epochs, default=0) + 1, secrets.token_hex(4))


def _marked(location: Location) -> list[str]:
    """Sessions with a lease or a fence."""
    entries = [*location.files(paths.LEASES), *location.files(paths.FENCES)]
    return [session for entry in entries if (session := paths.parse_session_file(entry.name)) is not None]


def _parts(location: Location) -> list[paths.PartName]:
    names = (paths.parse_part(entry.name) for entry in location.files(paths.PARTS))
    return [name for name in names if name is not None]


def _refuse(problem: str) -> None:
    raise OSError(problem)
