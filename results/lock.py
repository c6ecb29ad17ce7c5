"""One driver at a time, on a file system: an exclusive file whose heartbeat shows that its owner lives."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import socket
import threading
import time
from pathlib import Path
from types import TracebackType

from . import paths
from .errors import StorageError, StudyError
from .location import Location, storage_errors
from .untrusted import LARGEST_JSON, parse_json, read_file

BEAT_SECONDS = 2.0
STALE_SECONDS = 15.0
_REMEDY = "make the study's folder writable"


class StudyLocked(StudyError):
    """Another driver works on the study."""


class DriverLock:
    """Held by the one process that writes a study, as a context manager.

    A lock is stale when its heartbeat has not moved while we watched it for `STALE_SECONDS`. Clocks are not compared,
    and a process id alone proves nothing: it may belong to another machine, a container, or a newer process. So whoever
    resumes after a kill waits that long, and a living driver is noticed at its next beat.

    Raises:
        StudyLocked: on entry, when another driver lives.
        StorageError: the lock cannot be written, or is a link that leads nowhere, which no driver makes.
    """

    def __init__(self, location: Location) -> None:
        self._file = Path(location.root) / paths.LOCK
        self._shown = location.shown
        self._token = secrets.token_hex(16)
        self._ended = threading.Event()
        self._beating = threading.Thread(target=self._beat, name="lock", daemon=True)

    def __enter__(self) -> DriverLock:
        with storage_errors(f"lock the study {self._shown}", _REMEDY):
            while not self._create():
                self._take_over()
        self._beating.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._ended.set()
        self._beating.join()
        # A storage that has vanished takes its lock along; what it says now would hide why the driver ends.
        if self._owner() == self._token:
            with contextlib.suppress(OSError):
                self._file.unlink()

    def check(self) -> None:
        """Raises StudyLocked when another driver has taken the lock, after this process was thought dead, and
        StorageError when the study is not there any more."""
        owner = self._owner()
        if owner == self._token:
            return
        with storage_errors(f"find the study {self._shown}", "bring its storage back, then resume it"):
            found = owner is not None or self._file.with_name(paths.STUDY_FILE).is_file()
        if not found:
            raise StorageError(
                f"the study {self._shown} has vanished; bring it back, then go on with: sparsevlr resume {self._shown}"
            )
        raise StudyLocked(f"another driver has taken {self._shown} over; this one stops")

    def _create(self) -> bool:
        file = self._file
        content = {"token": self._token, "host": socket.gethostname(), "pid": os.getpid(), "since": time.time()}
        try:
            descriptor = os.open(file, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
        except FileExistsError:
            if file.is_symlink() and not file.exists():
                # It has no beat that could stop.
                raise StorageError(
                    f"cannot lock the study {self._shown}: {file} is a link that leads nowhere; "
                    "remove it, then try again"
                ) from None
            return False
        try:
            with os.fdopen(descriptor, "w") as stream:
                stream.write(json.dumps(content))
                stream.flush()
                os.fsync(stream.fileno())
        except OSError:
            file.unlink(missing_ok=True)
            raise
        return True

    def _take_over(self) -> None:
        """Returns when the file is gone: removed by its owner, or put aside by us because nobody beats."""
        file = self._file
        seen = _beat_of(file)
        deadline = time.monotonic() + STALE_SECONDS
        while time.monotonic() < deadline:
            time.sleep(BEAT_SECONDS / 4)
            beat = _beat_of(file)
            if beat is None:
                return
            if beat != seen:
                raise StudyLocked(
                    f"another driver works on {self._shown} ({_holder(file)}); wait for it, or stop it and try again"
                )
        # Renaming succeeds for one of several who wait. A lock that is not the one we watched goes back.
        aside = file.with_name(f".{file.name}.{self._token}")
        try:
            file.rename(aside)
        except FileNotFoundError:
            return
        if _beat_of(aside) != seen:
            aside.rename(file)
            raise StudyLocked(f"another driver has just begun to work on {self._shown} ({_holder(file)})")
        aside.unlink()

    def _beat(self) -> None:
        while not self._ended.wait(BEAT_SECONDS):
            if self._owner() not in (self._token, None):
                return
            # A storage that is away may come back.
            with contextlib.suppress(OSError):
                os.utime(self._file)

    def _owner(self) -> str | None:
        try:
            return str(parse_json(read_file(self._file, LARGEST_JSON))["token"])
        except (OSError, ValueError, KeyError, TypeError):
            return None


def _beat_of(file: Path) -> int | None:
    """When the file was last touched, by its own file system's clock; None where there is none."""
    try:
        return file.stat().st_mtime_ns
    except FileNotFoundError:
        return None


def _holder(file: Path) -> str:
    try:
        return holder_in(read_file(file, LARGEST_JSON))
    except OSError:
        return "unknown process"


def holder_in(lock: bytes) -> str:
    """Who holds it, from a lock's content."""
    try:
        content = parse_json(lock)
        return f"process {content['pid']} on {content['host']}"
    except (ValueError, KeyError, TypeError):
        return "unknown process"
