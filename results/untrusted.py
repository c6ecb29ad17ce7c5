"""What anybody may have written, read with care."""

from __future__ import annotations

import errno
import json
import os
import re
import stat
from pathlib import Path
from typing import Any

from .errors import UnsafePath

DEEPEST_JSON = 200
LARGEST_JSON = 64 << 20
"""Bytes of a file."""
LARGEST_FILE = 8 << 30
"""Bytes of any other file that is read whole."""
# A string that does not end takes all that is left: to try again within it would take its length squared.
_STRING = re.compile(rb'"(?:[^"\\]++|\\.)*+(?:"|\\?\Z)', re.DOTALL)
_BRACKET = re.compile(rb"[\[\]{}]")


def parse_json(content: bytes | str) -> Any:
    """
    Raises:
        ValueError: it is no JSON, has NaN or an infinity in it, or is nested deeper than anything here.
    """
    data = content.encode("utf-8", "replace") if isinstance(content, str) else content
    # Brackets that are not there need not be looked for one by one.
    if data.count(b"[") + data.count(b"{") > DEEPEST_JSON and _nesting(data) > DEEPEST_JSON:
        raise ValueError(f"it is nested more than {DEEPEST_JSON} deep")
    try:
        return json.loads(content, parse_constant=_refuse)
    except (ValueError, RecursionError):
        raise ValueError("it is no JSON") from None


def inside(root: Path, relative: str) -> Path:
    """A place below a folder, links followed.

    Raises:
        UnsafePath: it leads outside. A study may have been made by somebody else.
    """
    target = (root / relative).resolve()
    if not target.is_relative_to(root.resolve()):
        raise UnsafePath(f"{relative} leads outside its study through a symbolic link; refusing to open it")
    return target


def read_file(path: Path, most: int = LARGEST_FILE) -> bytes:
    """
    Raises:
        OSError: it cannot be read, is no plain file, or larger than so many bytes.
    """
    # A pipe would let us wait for ever, a device would never end.
    with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb") as file:
        status = os.fstat(file.fileno())
        check_plain(status.st_mode)
        check_size(status.st_size, most)
        return file.read(most)


def check_plain(mode: int) -> None:
    """Raises OSError for what is no plain file."""
    if not stat.S_ISREG(mode):
        raise OSError(errno.EINVAL, "no plain file")


def check_size(size: int, most: int) -> None:
    """Raises OSError for more bytes than may be read."""
    if size > most:
        raise OSError(errno.EFBIG, f"it may have at most {most} bytes, got {size}")


def _nesting(content: bytes) -> int:
    """How deep brackets lie within each other, outside of strings.

    Python's parser calls itself for each, and a library that has raised the limit of recursion lets it overflow the
    stack.
    """
    deepest = depth = 0
    for bracket in _BRACKET.finditer(_STRING.sub(b"", content)):
        depth += 1 if bracket[0] in b"[{" else -1
        deepest = max(deepest, depth)
    return deepest


def _refuse(constant: str) -> None:
    raise ValueError(constant)
