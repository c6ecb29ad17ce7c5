"""What a parsed filter consists of, and how it becomes a mask over a table.

Masks are three-valued while they are combined (Kleene): null stands for "cannot be said", and passes no row.
"""

from __future__ import annotations

import functools
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from .configs import AT_ONCE, absent, bears, entries

_COMPARE = {
    "==": pc.equal,
    "!=": pc.not_equal,
    "<": pc.less,
    "<=": pc.less_equal,
    ">": pc.greater,
    ">=": pc.greater_equal,
}


@dataclass(frozen=True)
class Literal:
    """A value that stands in the filter."""

    value: str | int | float | bool


@dataclass(frozen=True)
class Reference:
    """A record column, or an entry of the trial's configuration."""

    name: str
    numeric: bool = False
    config: bool = False


Operand = Literal | Reference


@dataclass
class Rows:
    """A table under a filter, `pyarrow.Table` or `TrialRows`.

    Attributes:
        borne: names that were asked for and that some configuration has.
    """

    table: Any
    borne: set[str] = field(default_factory=set)

    @functools.cached_property
    def configs(self) -> pa.ChunkedArray:
        """The configuration of each row, as JSON."""
        return self.table["config"]

    def configs_with(self, name: str) -> pa.ChunkedArray:
        """The same, asked for one name."""
        if name not in self.borne and bears(self.configs, name):
            self.borne.add(name)
        return self.configs

    def filter(self, mask: pa.Array) -> Rows:
        """Those for which the mask is true."""
        return Rows(self.table.filter(mask), self.borne)

    def bear(self, name: str) -> bool:
        """Whether any configuration has such a name; no more of them are read than it takes to know."""
        starts = range(0, len(self.table), AT_ONCE)
        return any(bears(self.table.slice(start, AT_ONCE)["config"], name) for start in starts)

    def values(self, reference: Reference, kind: type) -> pa.Array | pa.ChunkedArray:
        """A column, NaN as null; of configurations the values of the wanted kind (str, float, bool), others as null."""
        if reference.config:
            return entries(self.configs_with(reference.name), reference.name, kind)
        column = self.table[reference.name]
        if pa.types.is_floating(column.type):
            return pc.if_else(pc.is_nan(column), pa.scalar(None, column.type), column)
        return column


class Condition(ABC):
    """A part of a filter."""

    @abstractmethod
    def three_valued(self, rows: Rows) -> pa.Array | pa.ChunkedArray:
        """True, false or null per row."""

    @abstractmethod
    def references(self) -> Iterator[Reference]:
        """Every column that the condition reads."""

    def mask(self, rows: Rows) -> pa.Array:
        """True where the condition holds, otherwise false."""
        return _whole(pc.fill_null(self.three_valued(rows), False))


@dataclass(frozen=True)
class Compare(Condition):
    """``left operator right``."""

    left: Operand
    operator: str
    right: Operand

    def three_valued(self, rows: Rows) -> pa.Array | pa.ChunkedArray:
        kind = _kind(self.left, self.right)
        left, right = _values(self.left, rows, kind), _values(self.right, rows, kind)
        if left.type != right.type:
            # Only integers and reals can meet here. Rounding a count beyond 2^53 is fine; pyarrow would raise.
            left, right = pc.cast(left, pa.float64(), safe=False), pc.cast(right, pa.float64(), safe=False)
        return _COMPARE[self.operator](left, right)

    def references(self) -> Iterator[Reference]:
        yield from (side for side in (self.left, self.right) if isinstance(side, Reference))


@dataclass(frozen=True)
class OneOf(Condition):
    """``column in (values)``."""

    column: Reference
    choices: tuple[Literal, ...]

    def three_valued(self, rows: Rows) -> pa.Array | pa.ChunkedArray:
        matches = [Compare(self.column, "==", choice).three_valued(rows) for choice in self.choices]
        if not self.column.config:
            return functools.reduce(pc.or_kleene, matches)
        # A text among numbers is null when read as a number: that choice does not match, and says no more.
        present = pc.invert(IsNull(self.column).three_valued(rows))
        matched = functools.reduce(pc.or_, [pc.fill_null(match, False) for match in matches])
        return pc.if_else(present, matched, pa.scalar(None, pa.bool_()))

    def references(self) -> Iterator[Reference]:
        yield self.column


@dataclass(frozen=True)
class IsNull(Condition):
    """``column is null``: nothing there, or NaN."""

    column: Reference

    def three_valued(self, rows: Rows) -> pa.Array | pa.ChunkedArray:
        if self.column.config:
            return absent(rows.configs_with(self.column.name), self.column.name)
        return pc.is_null(rows.values(self.column, float))

    def references(self) -> Iterator[Reference]:
        yield self.column


@dataclass(frozen=True)
class Not(Condition):
    """Null stays null."""

    condition: Condition

    def three_valued(self, rows: Rows) -> pa.Array | pa.ChunkedArray:
        return pc.invert(self.condition.three_valued(rows))

    def references(self) -> Iterator[Reference]:
        yield from self.condition.references()


@dataclass(frozen=True)
class Connective(Condition):
    """All (``and``) or any (``or``) of the parts."""

    word: str
    parts: tuple[Condition, ...]

    def three_valued(self, rows: Rows) -> pa.Array | pa.ChunkedArray:
        combine, settled = (pc.and_kleene, False) if self.word == "and" else (pc.or_kleene, True)
        # Configurations are dear to read: only for rows of which the rest does not say it all.
        first, *rest = sorted(self.parts, key=lambda part: any(reference.config for reference in part.references()))
        found = _whole(first.three_valued(rows))
        for part in rest:
            open_ = pc.fill_null(pc.not_equal(found, settled), True)
            told = combine(found.filter(open_), _whole(part.three_valued(rows.filter(open_))))
            found = pc.replace_with_mask(found, open_, told)
        return found

    def references(self) -> Iterator[Reference]:
        for part in self.parts:
            yield from part.references()


def _whole(values: pa.Array | pa.ChunkedArray) -> pa.Array:
    return values.combine_chunks() if isinstance(values, pa.ChunkedArray) else values


def _kind(left: Operand, right: Operand) -> type:
    """How entries of configurations are read in a comparison: as what stands on the other side, else as numbers."""
    for side in (left, right):
        if isinstance(side, Literal):
            return bool if isinstance(side.value, bool) else str if isinstance(side.value, str) else float
        if not side.config:
            return float if side.numeric else str
    return float


def _values(operand: Operand, rows: Rows, kind: type) -> Any:
    if isinstance(operand, Literal):
        return pa.scalar(operand.value)
    return rows.values(operand, kind)
