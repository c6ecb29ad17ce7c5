"""How one session writes its events: a fsynced journal sealed into parts, or one immutable object per append."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from . import paths
from .coverage import FANOUT
from .journal import JournalFile, encode
from .location import Location, sync_folder, write_durably
from .parts import to_bytes, to_events
from .record import Record
from .untrusted import inside

SEAL_EVENTS = 5_000
"""Events in a journal before it is sealed: bounds what a reader must parse as text."""


class EventWriter(ABC):
    """Writes the events of one session. `append` returns when they are durable, and raises OSError otherwise."""

    session: str
    parts_due: bool = False
    """Whether there are new parts to be merged with others; whoever sees to it sets it back."""

    @abstractmethod
    def append(self, records: Sequence[Record]) -> None:
        """Adds events at the end of the session."""

    @abstractmethod
    def close(self) -> None:
        """Ends the session."""


class JournalWriter(EventWriter):
    """For a local file system."""

    def __init__(self, root: Path, session: str) -> None:
        self.session = session
        self._root = root
        self._next = 0
        self._file: JournalFile | None = None
        self._unsealed: list[tuple[int, dict[str, Any]]] = []

    def append(self, records: Sequence[Record]) -> None:
        if self._file is None:
            folder = inside(self._root, paths.JOURNAL)
            folder.mkdir(exist_ok=True)
            self._file = JournalFile(folder / paths.journal_file(self.session, self._next))
        first, self._next = self._next, self._next + len(records)
        numbered = list(enumerate(records, start=first))
        try:
            self._file.append([encode(record, sequence) for sequence, record in numbered])
        except OSError:
            # What the failed write left in the file is unknown: go on in a new one, and leave this to its reader.
            self._file.close()
            self._file = None
            self._unsealed = []
            raise
        self._unsealed.extend((sequence, record.to_dict()) for sequence, record in numbered)
        if len(self._unsealed) >= SEAL_EVENTS:
            self._seal()

    def close(self) -> None:
        self._seal()

    def _seal(self) -> None:
        if self._file is None:
            return
        file, self._file = self._file, None
        events, self._unsealed = self._unsealed, []
        file.close()
        # Another driver has sealed it, which thought this one dead: what came after that does not count.
        if file.path.parent.is_dir() and not file.path.exists():
            return
        self.seal(self._root, self.session, events, file.path)
        self.parts_due = True

    @staticmethod
    def seal(root: Path, session: str, events: Sequence[tuple[int, dict[str, Any]]], journal: Path) -> None:
        """Writes the part, then removes the journal. A crash in between leaves both, which readers count once."""
        if events:
            folder = inside(root, paths.PARTS)
            folder.mkdir(exist_ok=True)
            name = paths.part_file(session, events[0][0], events[-1][0])
            write_durably(folder / name, to_bytes(to_events(events)))
        journal.unlink()
        sync_folder(journal.parent)


class ObjectWriter(EventWriter):
    """For every other pyarrow filesystem."""

    def __init__(self, location: Location, session: str) -> None:
        self.session = session
        self._location = location
        self._next = 0
        self._appends = 0

    def append(self, records: Sequence[Record]) -> None:
        first, self._next = self._next, self._next + len(records)
        numbered = [(sequence, record.to_dict()) for sequence, record in enumerate(records, start=first)]
        name = paths.part_file(self.session, first, self._next - 1)
        self._location.write(f"{paths.PARTS}/{name}", to_bytes(to_events(numbered)))
        self._appends += 1
        self.parts_due = self.parts_due or self._appends % FANOUT == 0

    def close(self) -> None:
        """Nothing is held back."""
