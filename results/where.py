"""The filter language of ``--where``: parsed by hand, never evaluated as code.

::

    filter    := term {"or" term}
    term      := factor {"and" factor}
    factor    := "not" factor | "(" filter ")" | test
    test      := operand ("=" | "==" | "!=" | "<" | "<=" | ">" | ">=") operand
               | operand ["not"] "in" "(" literal {"," literal} ")"
               | operand "is" ["not"] "null"
    operand   := column | "config." name | literal
    literal   := 'text' | "text" | number | number% | true | false

Key words in any case; a quote inside text is doubled; ``95%`` is 0.95. ``config.NAME`` reads a trial's configuration:
``config.score = 'magnitude'`` and ``config.loss.kappa_end > 0.1``. A comparison with something missing (null, NaN, an
option that a trial does not have) is neither true nor false, and ``not`` does not make it true; ask with ``is null``.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import pyarrow as pa

from .conditions import Compare, Condition, Connective, IsNull, Literal, Not, OneOf, Operand, Reference, Rows
from .configs import names
from .errors import WhereError
from .record import CHOICES, COLUMNS, NUMERIC_COLUMNS

_TOKEN = re.compile(
    r"""(?P<text>'(?:[^']|'')*'|"(?:[^"]|"")*")
      | (?P<number>[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?%?(?![\w.%]))
      | (?P<word>[A-Za-z_][\w.-]*)
      | (?P<operator><=|>=|!=|==|<>|=|<|>)
      | (?P<mark>[(),])
      | (?P<end>\Z)""",
    re.VERBOSE,
)
_SPACE = re.compile(r"\s*")
_OPERATORS = {"=": "==", "<>": "!="}
_KEYWORDS = frozenset({"and", "or", "not", "in", "is", "null", "true", "false"})
_CONFIG = "config."
_MAX_DEPTH = 100


class _Token(NamedTuple):
    kind: str
    text: str
    position: int

    @property
    def word(self) -> str:
        return self.text.lower() if self.kind == "word" else ""

    def __str__(self) -> str:
        return "the end" if self.kind == "end" else repr(self.text[:40])


@dataclass(frozen=True)
class Filter:
    """A parsed filter. `parse` makes one."""

    text: str
    condition: Condition

    def mask(self, table: Any, everything: Any = None) -> pa.Array:
        """True for the rows that pass ``(rows,)``, never null. Raises WhereError for a config name that no row has, of
        the table or of everything that it is chosen from."""
        rows, whole = Rows(table), Rows(table if everything is None else everything)
        mask = self.condition.mask(rows)
        for reference in self.condition.references():
            known = not reference.config or reference.name in rows.borne or not len(table)
            if not known and not whole.bear(reference.name):
                hint = _closest(reference.name, names(whole.configs))
                raise WhereError(f"filter: no trial has {_CONFIG}{reference.name}{hint}")
        return mask


def parse(text: str) -> Filter:
    """A filter over record columns. Raises WhereError, one line with the position and what was expected there."""
    return Filter(text, _Parser(text).parse())


def filter_rows(table: Any, where: str | None, everything: Any = None) -> Any:
    """The rows that pass the filter, all of them when there is none: of a `pyarrow.Table` or of `TrialRows`. Raises as
    `Filter.mask` does."""
    return table if where is None else table.filter(parse(where).mask(table, everything))


def closest_column(name: str) -> str:
    """``; did you mean X?`` for the nearest record column, else where to find their names."""
    return _closest(name, COLUMNS)


def _closest(name: str, known: tuple[str, ...] | list[str]) -> str:
    similar = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    if similar:
        return f"; did you mean {similar[0]}?"
    return f"; there are {', '.join(known)}" if known else ""


class _Parser:
    def __init__(self, text: str) -> None:
        self.tokens = _tokens(text)
        self.next = 0
        self.depth = 0

    @property
    def token(self) -> _Token:
        return self.tokens[self.next]

    def take(self) -> _Token:
        token = self.token
        self.next += 1
        return token

    def expect(self, text: str, what: str) -> None:
        if self.token.text.lower() != text or self.token.kind == "text":
            raise _error(self.token, f"expected {what}, found {self.token}")
        self.take()

    def parse(self) -> Condition:
        condition = self.any_of()
        if self.token.kind == "operator":
            raise _error(self.token, f"comparisons do not chain, write 'a < b and b < c'; found {self.token}")
        if self.token.kind != "end":
            raise _error(self.token, f"expected 'and', 'or' or the end, found {self.token}")
        return condition

    def any_of(self) -> Condition:
        return self.chain("or", self.all_of)

    def all_of(self) -> Condition:
        return self.chain("and", self.factor)

    def chain(self, word: str, part: Callable[[], Condition]) -> Condition:
        parts = [part()]
        while self.token.word == word:
            self.take()
            parts.append(part())
        return parts[0] if len(parts) == 1 else Connective(word, tuple(parts))

    def factor(self) -> Condition:
        opening = self.token
        if opening.word != "not" and opening.text != "(":
            return self.test()
        self.depth += 1
        if self.depth > _MAX_DEPTH:
            raise _error(opening, f"nested deeper than {_MAX_DEPTH} levels")
        self.take()
        if opening.text == "(":
            condition = self.any_of()
            self.expect(")", f"')' for the '(' at position {opening.position + 1}")
        else:
            condition = Not(self.factor())
        self.depth -= 1
        return condition

    def test(self) -> Condition:
        start = self.token
        left = self.operand()
        operator = self.token
        if operator.kind == "operator":
            self.take()
            right_start = self.token
            right = self.operand()
            if isinstance(left, Literal) and isinstance(right, Literal):
                raise _error(start, "expected a column on one side of the comparison, found two values")
            _check_kinds(left, right, right_start if isinstance(right, Literal) else start)
            return Compare(left, _OPERATORS.get(operator.text, operator.text), right)
        if isinstance(left, Literal):
            raise _error(operator, f"expected a comparison (= != < <= > >=) after a value, found {operator}")
        negated = operator.word == "not"
        if negated:
            self.take()
        if self.token.word == "in":
            self.take()
            condition: Condition = OneOf(left, self.literals(left))
            return Not(condition) if negated else condition
        if operator.word == "is":
            self.take()
            negated = self.token.word == "not"
            if negated:
                self.take()
            self.expect("null", "'null' or 'not null'")
            return Not(IsNull(left)) if negated else IsNull(left)
        raise _error(self.token, f"expected a comparison (= != < <= > >= in, is null), found {self.token}")

    def literals(self, column: Reference) -> tuple[Literal, ...]:
        self.expect("(", "'(' and a list of values")
        values = [self.listed(column)]
        while self.token.text == "," and self.token.kind == "mark":
            self.take()
            values.append(self.listed(column))
        self.expect(")", "',' or ')'")
        return tuple(values)

    def listed(self, column: Reference) -> Literal:
        token = self.token
        value = self.operand()
        if not isinstance(value, Literal):
            raise _error(token, f"expected a value (text goes in quotes: '{token.text[:40]}'), found {token}")
        _check_kinds(column, value, token)
        return value

    def operand(self) -> Operand:
        token = self.take()
        if token.kind == "text":
            quote = token.text[0]
            return Literal(token.text[1:-1].replace(quote * 2, quote))
        if token.kind == "number":
            return Literal(_number(token.text))
        if token.word in ("true", "false"):
            return Literal(token.word == "true")
        if token.word == "null":
            raise _error(token, "nothing compares with null; write 'is null' or 'is not null'")
        if token.kind == "word" and token.word not in _KEYWORDS:
            return _reference(token, after_operator=self.next > 1 and self.tokens[self.next - 2].kind == "operator")
        raise _error(token, f"expected a column or a value, found {token}")


def _tokens(text: str) -> list[_Token]:
    tokens: list[_Token] = []
    position = 0
    while not tokens or tokens[-1].kind != "end":
        space = _SPACE.match(text, position)
        position = space.end() if space else position
        match = _TOKEN.match(text, position)
        if match is None:
            rest = text[position : position + 20]
            what = "text without its closing quote" if rest[0] in "'\"" else "no column, number, text or comparison"
            raise WhereError(f"filter, position {position + 1}: {what}: {rest!r}")
        tokens.append(_Token(str(match.lastgroup), match[0], position))
        position = match.end()
    if len(tokens) == 1:
        raise WhereError("filter, position 1: expected a condition such as sparsity >= 0.9, found nothing")
    return tokens


def _number(text: str) -> int | float:
    if text.endswith("%"):
        return float(text[:-1]) / 100
    if re.fullmatch(r"[+-]?[0-9]{1,19}", text) and -(2**63) <= int(text) < 2**63:
        return int(text)
    return float(text)


def _reference(token: _Token, after_operator: bool) -> Reference:
    name = token.text
    if name.startswith(_CONFIG) and len(name) > len(_CONFIG):
        return Reference(name.removeprefix(_CONFIG), config=True)
    if name in COLUMNS:
        return Reference(name, numeric=name in NUMERIC_COLUMNS)
    quotes = f", or text in quotes: '{name[:40]}'" if after_operator else ""
    raise _error(token, f"expected a column{quotes}; there is no column {name[:40]!r}{closest_column(name)}")


def _check_kinds(left: Operand, right: Operand, at: _Token) -> None:
    column, value = (right, left) if isinstance(left, Literal) else (left, right)
    if not isinstance(column, Reference) or column.config:
        return
    if isinstance(value, Reference):
        if not value.config and value.numeric != column.numeric:
            raise _error(at, f"{column.name} and {value.name} cannot be compared: one is text, one a number")
        return
    fits = isinstance(value.value, str) != column.numeric and not isinstance(value.value, bool)
    if not fits:
        raise _error(at, f"expected {'a number' if column.numeric else 'text in quotes'} for {column.name}, found {at}")
    words = CHOICES.get(column.name)
    if words and value.value not in words:
        raise _error(at, f"{column.name} is one of {', '.join(words)}; found {at}")


def _error(token: _Token, message: str) -> WhereError:
    return WhereError(f"filter, position {token.position + 1}: {message}")
