"""Entries of trials' configurations, out of the JSON of many at once."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.json

from .untrusted import parse_json

AT_ONCE = 65_536
_KINDS: dict[type, pa.DataType] = {str: pa.string(), float: pa.float64(), bool: pa.bool_()}


def entries(configs: pa.ChunkedArray, name: str, kind: type) -> pa.ChunkedArray:
    """The values of one name ``(configs,)``: those of a kind (str, float, bool), null for others. Lists compare
    as their JSON: config.architecture.hidden = '[64,64]'."""
    found = []
    for texts in _slices(configs):
        column = _parsed(texts, name, kind)
        found.append(_of_kind(_values(texts, name), kind) if column is None else column)
    return pa.chunked_array(found, _KINDS[kind])


def absent(configs: pa.ChunkedArray, name: str) -> pa.ChunkedArray:
    """Where a name is missing or null ``(configs,)``."""
    found = []
    for texts in _slices(configs):
        columns = (_parsed(texts, name, kind) for kind in _KINDS)
        column = next((column for column in columns if column is not None), None)
        missing = [value is None for value in _values(texts, name)] if column is None else pc.is_null(column)
        found.append(pa.array(missing, pa.bool_()) if column is None else missing)
    return pa.chunked_array(found, pa.bool_())


def bears(configs: pa.ChunkedArray, name: str) -> bool:
    """Whether any has such a name."""
    pattern = re.escape(json.dumps(name, ensure_ascii=False)) + r"\s*:"
    return any(pc.any(pc.match_substring_regex(texts, pattern)).as_py() for texts in _slices(configs))


def names(configs: pa.ChunkedArray) -> list[str]:
    """What there is to ask for, as far as the first of them tell."""
    first = next(_slices(configs), None)
    found: set[str] = set() if first is None else set().union(*map(configuration, first.to_pylist()))
    return sorted(found)


def _slices(configs: pa.ChunkedArray) -> Iterator[pa.Array]:
    for chunk in configs.chunks:
        for start in range(0, len(chunk), AT_ONCE):
            yield chunk.slice(start, AT_ONCE)


def _parsed(texts: pa.Array, name: str, kind: type) -> pa.Array | None:
    """Values of one kind, read as lines of JSON; None where something else is among them."""
    if pc.any(pc.match_substring(texts, "\n")).as_py():
        return None
    lines = pa.ListArray.from_arrays(pa.array([0, len(texts)], pa.int32()), pc.fill_null(texts, "{}"))
    options = pa.json.ParseOptions(
        explicit_schema=pa.schema([(name, _KINDS[kind])]), unexpected_field_behavior="ignore"
    )
    try:
        found = pa.json.read_json(pa.BufferReader(pc.binary_join(lines, "\n")[0].as_buffer()), parse_options=options)
    except pa.ArrowException:
        return None
    return found[name].combine_chunks() if len(found) == len(texts) else None


def _values(texts: pa.Array, name: str) -> list[Any]:
    return [configuration(text).get(name) for text in texts.to_pylist()]


def configuration(text: str | None) -> dict[str, Any]:
    """What one configuration holds; nothing where it is none."""
    try:
        value = parse_json(text) if text is not None else {}
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def _of_kind(values: list[Any], kind: type) -> pa.Array:
    if kind is bool:
        return pa.array([value if isinstance(value, bool) else None for value in values], pa.bool_())
    if kind is str:
        texts = [json.dumps(value, separators=(",", ":")) if isinstance(value, list) else value for value in values]
        return pa.array([text if isinstance(text, str) else None for text in texts], pa.string())
    numbers = [value if isinstance(value, (int, float)) and not isinstance(value, bool) else None for value in values]
    return pa.array([None if number is None else _real(number) for number in numbers], pa.float64())


def _real(number: int | float) -> float:
    try:
        return float(number)
    except OverflowError:
        return float("inf") if number > 0 else float("-inf")
