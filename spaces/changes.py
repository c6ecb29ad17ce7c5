"""What may differ between a study and the specification that it is resumed with."""

from collections.abc import Iterator, Mapping
from typing import Any, Final

from .errors import SpecError
from .frozen import canonical_json
from .spec import StudySpec
from .suggest import listed

MAY_CHANGE: Final = ("trials", "limits", "resources", "description")
"""Keys of a specification that decide how far a study goes and on what it runs, but no trial's outcome."""


def check_changes(old: StudySpec, new: StudySpec) -> None:
    """Refuse a change of anything that the trials of a study have in common: equal rungs mean equal epsilon.

    Raises:
        SpecError: one line with every key that must not differ, its old and its new value.
    """
    before, after = dict(_items(old.to_dict())), dict(_items(new.to_dict()))
    refused = [
        f"{key} {_shown(before, key)} -> {_shown(after, key)}"
        for key in dict.fromkeys([*before, *after])
        if key.partition(".")[0] not in MAY_CHANGE and _shown(before, key) != _shown(after, key)
    ]
    if not refused and [*old.space] != [*new.space]:
        refused = ["the order of space's parameters, in which values are drawn"]
    if refused:
        raise SpecError(
            f"a study keeps what its trials have in common, and this would change {'; '.join(refused)} "
            f"(only {listed(MAY_CHANGE)} may change); start a new study with: sparsevlr search"
        )


def _items(content: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Keys as `--set` names them, with their values."""
    for key, value in content.items():
        if isinstance(value, Mapping):
            yield from ((f"{key}.{inner}", held) for inner, held in value.items())
        else:
            yield key, value


def _shown(flat: Mapping[str, Any], key: str) -> str:
    return canonical_json(flat[key]) if key in flat else "(none)"
