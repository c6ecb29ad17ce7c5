"""Few large files in place of many small ones, while others read and one driver writes.

Neighbouring parts of a session become one, less second arrivals; of long stretches `digests` are made. The new file is
there, whole, before those that it covers are removed, and names alone say what covers what: a kill at any moment leaves
files that say some things twice, of which readers take the outermost. Nothing is renamed and no condition is written
on, beyond what `Location.replace` does for a single file.
"""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from itertools import chain as joint

import pyarrow as pa
import pyarrow.compute as pc

from . import paths
from .coverage import chains, covers, events_in, first_within, joined, next_group, outermost
from .digests import DigestFile, digest
from .fences import NO_LIMITS, Limits
from .fold import first_arrivals
from .location import STORAGE_ERRORS, Location
from .parts import PartFile, stream_to_bytes
from .paths import PartName
from .pieces import EVENT_SCHEMA, Events
from .record import SCHEMA_VERSION

LARGEST_PART = 1 << 20
"""Events."""
DIGEST_EVENTS = 1 << 15
"""Events that a digest covers at least."""
_NO_LIMIT = 1 << 62


class Merger:
    """Merges the files of a study, for its one driver.

    Args:
        stop: merging ends soon after it is set; what is done by then stays.
        limits: what does not count is left as it is.
    """

    def __init__(self, location: Location, stop: threading.Event, limits: Limits = NO_LIMITS) -> None:
        self._location, self._stop, self._limits = location, stop, limits
        # What is no good to merge: unreadable, or with columns of a newer version, which would be lost.
        self._left: dict[str, set[PartName]] = {paths.PARTS: set(), paths.DIGESTS: set()}

    def run(self) -> None:
        """Merge until nothing is left to merge, or until it is told to stop.

        Raises OSError or pyarrow.ArrowException when the storage fails. Whatever is written by then stays good.
        """
        for name in self._names(paths.DIGESTS):
            self._open(paths.DIGESTS, name)
        while not self._stop.is_set() and (self._merge_parts() or self._make_digest() or self._merge_digests()):
            pass

    def _merge_parts(self) -> bool:
        digested = self._names(paths.DIGESTS)
        # Never across the end of a digest: it would cover half of the new part.
        inside = [name for name in self._names(paths.PARTS) if any(covers(one, name) for one in digested)]
        outside = [name for name in self._names(paths.PARTS) if name not in inside]
        for chain in joint(chains(inside), chains(outside)):
            if group := next_group(chain, LARGEST_PART):
                return self._write(paths.PARTS, paths.PARTS, group, _merged)
        return False

    def _make_digest(self) -> bool:
        digested = self._names(paths.DIGESTS)
        names = [name for name in self._names(paths.PARTS) if not any(covers(one, name) for one in digested)]
        for chain in chains(names):
            if events_in(joined(chain)) >= DIGEST_EVENTS:
                return self._write(paths.PARTS, paths.DIGESTS, first_within(chain, LARGEST_PART), digest)
        return False

    def _merge_digests(self) -> bool:
        for chain in chains(self._names(paths.DIGESTS)):
            if group := next_group(chain, _NO_LIMIT):
                return self._write(paths.DIGESTS, paths.DIGESTS, group, digest)
        return False

    def _write(
        self, source: str, target: str, group: Sequence[PartName], content: Callable[[Events], pa.Buffer]
    ) -> bool:
        """One file of a group; what lies in it is removed once it can be read. True: there may be more to do."""
        files = [file for name in group if (file := self._open(source, name)) is not None]
        if len(files) < len(group):
            return True
        try:
            data = content(Events(files))
        except (*STORAGE_ERRORS, ValueError):
            if all([self._whole(source, name, file) for name, file in zip(group, files, strict=True)]):
                raise
            return True
        name = joined(group)
        self._location.replace(f"{target}/{paths.part_file(*name)}", data)
        self._left[target].discard(name)
        if self._open(target, name) is None:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        for entry in self._location.files(target):
            other = paths.parse_part(entry.name)
            if other is not None and other != name and covers(name, other):
                self._location.remove_file(f"{target}/{entry.name}")
        return True

    def _names(self, folder: str) -> list[PartName]:
        found = (paths.parse_part(entry.name) for entry in self._location.files(folder))
        names = [name for name in found if name is not None and name not in self._left[folder]]
        if folder == paths.PARTS:
            # What lies in a part that counts in part is not merged without it: two parts would overlap.
            names = outermost(names)
        return outermost(name for name in names if self._limits.whole(name))

    def _open(self, folder: str, name: PartName) -> PartFile | None:
        """A file that is good to merge; None from now on for one that is not."""
        kind = DigestFile if folder == paths.DIGESTS else PartFile
        try:
            file = kind(self._location.open(f"{folder}/{paths.part_file(*name)}"))
            # As `Store` reads them: what it would leave aside must not take its neighbours along.
            version = pc.max(file.read(["schema_version"])["schema_version"]).as_py() or 0
            known = set(file.column_names) <= set(kind.schema.names) and version <= SCHEMA_VERSION
            if known and len(file) <= events_in(name):
                return file
        except (*STORAGE_ERRORS, ValueError):
            pass
        self._left[folder].add(name)
        return None

    def _whole(self, folder: str, name: PartName, file: PartFile) -> bool:
        """Whether all of it can be read; if not, it is no good to merge."""
        try:
            for _ in file.slices(file.schema.names):
                pass
        except (*STORAGE_ERRORS, ValueError):
            self._left[folder].add(name)
            return False
        return True


def _merged(events: Events) -> pa.Buffer:
    return stream_to_bytes(_first_arrivals(events), EVENT_SCHEMA)


def _first_arrivals(events: Events) -> Iterator[pa.Table]:
    keep, start = first_arrivals(events), 0
    for piece in events.pieces:
        for table in piece.slices(EVENT_SCHEMA.names):
            yield table.filter(pa.array(keep[start : start + len(table)]))
            start += len(table)
