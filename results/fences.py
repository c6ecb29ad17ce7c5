"""Fences: which events of earlier drivers count, on storage where nobody can be kept from writing.

A driver that takes a study over writes down, once, how much counts of every session before its own. That is what it
goes on from; so it is all that readers take of them, and what a driver writes that was thought dead and is not (it
slept, or its requests were on the way) is not read, whenever it arrives. The newest fence after a session decides
alone: those before it were taken into account when it was written.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from . import paths
from .location import Location, reason_of
from .paths import PartName, session_order
from .untrusted import LARGEST_JSON, parse_json

NONE_SEEN = -1


@dataclass(frozen=True)
class Fence:
    """What counted of others for the session that wrote it: the last position by session."""

    session: str
    seen: Mapping[str, int]

    def to_json(self) -> bytes:
        return json.dumps({"seen": dict(self.seen)}, indent=1).encode()

    @classmethod
    def from_json(cls, session: str, data: bytes) -> Fence:
        """Raises ValueError for what is none."""
        content = parse_json(data)
        seen = content.get("seen") if isinstance(content, dict) else None
        if not isinstance(seen, dict) or not all(type(last) is int for last in seen.values()):
            raise ValueError("it names no sessions")
        return cls(session, seen)


class Limits:
    """How far each session counts."""

    def __init__(self, fences: Iterable[Fence] = ()) -> None:
        self._newest = max(fences, key=lambda fence: session_order(fence.session), default=None)

    def of(self, session: str) -> int | None:
        """Position of the last event that counts, `NONE_SEEN` where none does; None for all of them."""
        newest = self._newest
        if newest is None or session_order(newest.session) <= session_order(session):
            return None
        return newest.seen.get(session, NONE_SEEN)

    def whole(self, name: PartName) -> bool:
        """Whether everything in the file counts."""
        last = self.of(name.session)
        return last is None or name.last <= last


NO_LIMITS = Limits()


class Fences:
    """The fences of a study. Each is read once: they never change."""

    def __init__(self, location: Location) -> None:
        self._location = location
        self._read: dict[str, Fence] = {}

    def limits(self, problem: Callable[[str], None]) -> Limits:
        """As of now; `problem` is told of files that are no fences. OSError when the storage does not answer."""
        found = []
        for entry in self._location.files(paths.FENCES):
            session = paths.parse_session_file(entry.name)
            if session is None:
                continue
            if session not in self._read:
                data = self._location.read(f"{paths.FENCES}/{entry.name}", LARGEST_JSON)
                try:
                    self._read[session] = Fence.from_json(session, data)
                except ValueError as error:
                    problem(f"{paths.FENCES}/{entry.name}: cut short or corrupt, skipped ({reason_of(error)})")
                    continue
            found.append(self._read[session])
        return Limits(found)
