"""Files of checkpoints, read as they were written or not at all."""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import sha256
from typing import Any

from .errors import StorageDown, StorageError
from .location import STORAGE_ERRORS, Location, no_answer, reason_of
from .paths import STATE, check_saved
from .untrusted import LARGEST_FILE, LARGEST_JSON, parse_json


def read_state(location: Location, path: str) -> dict[str, Any]:
    """What the checkpoint in the folder `path` of a study says of itself: progress, and `sha256` of its files by name.

    Raises:
        StorageError: it is missing, or no such description; StorageDown: nothing is known about it.
        UnsafePath: the path leads outside the study.
    """
    content = _read(location, path, STATE, LARGEST_JSON)
    try:
        state = parse_json(content)
    except ValueError as error:
        raise StorageError(f"checkpoint {path} cannot be read: {STATE} is corrupt") from error
    if not isinstance(state, dict) or not isinstance(state.get("sha256"), dict):
        raise StorageError(f"checkpoint {path} cannot be read: {STATE} names no digests")
    return state


def read_file(location: Location, path: str, name: str, state: Mapping[str, Any]) -> bytes:
    """One file of the checkpoint in the folder `path`, whose state is `state`.

    Raises:
        StorageError: it is missing, or changed since it was written; StorageDown: nothing is known about it.
        UnsafePath: the path leads outside the study.
    """
    data = _read(location, path, name)
    if sha256(data).hexdigest() != state["sha256"].get(name):
        raise StorageError(f"checkpoint {path} cannot be read: {name} is not the file that was written there")
    return data


def _read(location: Location, path: str, name: str, most: int = LARGEST_FILE) -> bytes:
    check_saved(path)
    try:
        return location.read(f"{path}/{name}", most)
    except STORAGE_ERRORS as error:
        # A disk that cannot read one file may read others; an object store that fails says nothing of this one.
        kind = StorageDown if no_answer(error) else StorageError
        raise kind(f"checkpoint {path} cannot be read: {name}: {reason_of(error)}") from error
