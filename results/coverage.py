"""What files cover, by their names alone; and which of them should become one."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from .paths import PartName, session_order

FANOUT = 16
"""So many neighbours of like size become one: an event is written anew once in each class of sizes, and there are never
many more files than this in each class."""


def in_order(names: Iterable[PartName]) -> list[PartName]:
    """By session and position; of two that begin together the longer one first."""
    return sorted(names, key=lambda name: (session_order(name.session), name.first, -name.last))


def outermost(names: Iterable[PartName]) -> list[PartName]:
    """In their order, those that lie in no other."""
    found: list[PartName] = []
    for name in in_order(names):
        if not found or not covers(found[-1], name):
            found.append(name)
    return found


def covers(one: PartName, other: PartName) -> bool:
    """Whether everything of the other lies in the one."""
    return one.session == other.session and one.first <= other.first and other.last <= one.last


def chains(names: Sequence[PartName]) -> list[list[PartName]]:
    """Names in their order, cut where one does not follow upon the other without a gap."""
    found: list[list[PartName]] = []
    for name in names:
        if found and found[-1][-1].session == name.session and found[-1][-1].last + 1 == name.first:
            found[-1].append(name)
        else:
            found.append([name])
    return found


def events_in(name: PartName) -> int:
    """How many events it covers."""
    return name.last - name.first + 1


def joined(group: Sequence[PartName]) -> PartName:
    """What the files of a chain cover together."""
    return PartName(group[0].session, group[0].first, group[-1].last)


def next_group(chain: Sequence[PartName], limit: int) -> list[PartName]:
    """Neighbours that should become one file of at most `limit` events; none where all is well.

    The smallest first: `FANOUT` files or more of one class of sizes (powers of `FANOUT`), with smaller ones between
    them. What is more than half of the limit stays as it is.
    """
    whole = _size_class(limit) + 1
    classes = [whole if 2 * events_in(name) > limit else _size_class(events_in(name)) for name in chain]
    for size_class in sorted(set(classes) - {whole}):
        run: list[PartName] = []
        alike = 0
        for name, own in [*zip(chain, classes, strict=True), (None, whole)]:
            if name is not None and own <= size_class:
                run.append(name)
                alike += own == size_class
            elif alike >= FANOUT:
                return first_within(run, limit)
            else:
                run, alike = [], 0
    return []


def first_within(run: Sequence[PartName], limit: int) -> list[PartName]:
    """As many of the first neighbours as are not more than `limit` events together; one at least."""
    group = [run[0]]
    for name in run[1:]:
        if events_in(joined([*group, name])) > limit:
            break
        group.append(name)
    return group


def _size_class(events: int) -> int:
    size_class = 0
    while events >= FANOUT:
        events //= FANOUT
        size_class += 1
    return size_class
