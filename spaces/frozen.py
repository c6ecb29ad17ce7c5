"""Values of a specification: plain data that cannot change, and that has one canonical spelling."""

import json
import math
from collections.abc import ItemsView, Iterator, Mapping
from typing import Any, final

from .errors import SpecError

Value = str | int | float | bool | tuple["Value", ...]
"""What a parameter may be set to. Lists are kept as tuples."""


@final
class FrozenMapping(Mapping[str, Any]):
    """A read-only mapping that, unlike `types.MappingProxyType`, can be pickled, compared and hashed."""

    __slots__ = ("_items",)
    _items: dict[str, Any]

    def __init__(self, items: Mapping[str, Any]) -> None:
        object.__setattr__(self, "_items", dict(items))

    def __getitem__(self, key: str) -> Any:
        return self._items[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._items)

    def __len__(self) -> int:
        return len(self._items)

    def items(self) -> ItemsView[str, Any]:
        return self._items.items()

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"a FrozenMapping cannot change: make a new one instead of setting {name!r}")

    def __hash__(self) -> int:
        return hash(frozenset(self._items.items()))

    def __repr__(self) -> str:
        return repr(self._items)

    def __reduce__(self) -> tuple[Any, ...]:
        return FrozenMapping, (self._items,)


def freeze(value: Any, where: str) -> Value:
    """`value` with lists as tuples and array scalars as Python's own.

    Raises:
        SpecError: for what a specification cannot hold: nothing at all, mappings, NaN and infinities, other objects.
    """
    if isinstance(value, list | tuple):
        return tuple(freeze(item, where) for item in value)
    if hasattr(value, "item") and not isinstance(value, str):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        raise SpecError(f"{where} must be finite, got {value}")
    if not isinstance(value, str | int | float | bool):
        raise SpecError(f"{where} must be text, a number, true or false, or a list of those, got {value!r}")
    return value


def freeze_all(values: Mapping[str, Any], where: str) -> FrozenMapping:
    return FrozenMapping({str(key): freeze(value, f"{where}.{key}") for key, value in values.items()})


def thaw(value: Any) -> Any:
    """`value` as JSON holds it: tuples as lists, mappings as dicts."""
    if isinstance(value, Mapping):
        return {key: thaw(item) for key, item in value.items()}
    return [thaw(item) for item in value] if isinstance(value, list | tuple) else value


def spelled(value: Any) -> str:
    """`value` in a message, as a study file spells it: null, true and lists."""
    if value is None or isinstance(value, bool):
        return "null" if value is None else str(value).lower()
    return repr(thaw(value))


def same(one: Any, other: Any) -> bool:
    """Equality that keeps true and 1 apart, but not 1 and 1.0."""
    if isinstance(one, tuple) and isinstance(other, tuple):
        return len(one) == len(other) and all(same(a, b) for a, b in zip(one, other, strict=True))
    return isinstance(one, bool) == isinstance(other, bool) and bool(one == other)


def canonical_json(value: Any) -> str:
    """One spelling for equal values: keys sorted, no spaces, whole floats (and -0.0) as integers, so 1.0 reads as 1."""
    return json.dumps(_canonical(value), sort_keys=True, separators=(",", ":"), allow_nan=False)


def _canonical(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _canonical(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_canonical(item) for item in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value
