"""Where data files are looked for, and how they are read."""

import gzip
import os
import zlib
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from ..errors import SpecError
from ..suggest import listed
from .base import MissingDataError

DATA_VARIABLE = "SPARSEVLR_DATA"


def named_places(data_dir: str | None) -> list[Path]:
    """The directories that the user named: `data_dir`, then `$SPARSEVLR_DATA`."""
    return [at_home(place) for place in (data_dir, os.environ.get(DATA_VARIABLE)) if place]


def data_places(data_dir: str | None) -> list[Path]:
    """Where data is looked for, the most wanted first: named places, `./data`, then where systems keep data sets."""
    shared = [Path("/usr/local/share/datasets"), Path("/usr/share/datasets")]
    # Some containers run users that have no home.
    with suppress(SpecError):
        shared.insert(0, at_home(os.environ.get("XDG_DATA_HOME") or "~/.local/share") / "datasets")
    return [*named_places(data_dir), Path("data"), *shared]


def find_files(
    name: str, wanted: Sequence[str], folders: Sequence[str], data_dir: str | None, *, remedy: str
) -> list[Path]:
    """The paths of `wanted`, plain or with `.gz`, from the first directory that holds them all.

    Looked in are the sub-folders `folders` of every place, then that place itself if the user named it: in this order,
    since the files of MNIST and Fashion-MNIST have the same names.

    Raises:
        MissingDataError: naming the files that are missing, the directories looked in, and the remedy.
    """
    most: list[str] = []
    for place in data_places(data_dir):
        itself = [place] if place in named_places(data_dir) else []
        for directory in [*(place / folder for folder in folders), *itself]:
            found = {file: path for file in wanted if (path := _plain_or_gzip(directory, file))}
            if len(found) == len(wanted):
                return [found[file] for file in wanted]
            most = max(most, list(found), key=len)
    missing = [file for file in wanted if file not in most]
    raise MissingDataError(
        f"data set {name!r}: missing {listed(missing)} (looked in {listed(data_places(data_dir))} and their folders "
        f"{listed(folders)}); {remedy} and pass their directory as --data-dir or ${DATA_VARIABLE}"
    )


def _plain_or_gzip(place: Path, file: str) -> Path | None:
    return next((path for path in (place / file, place / f"{file}.gz") if is_file(path)), None)


def at_home(path: str) -> Path:
    """A path with its `~` replaced.

    Raises:
        SpecError: nobody is known whose home it would be.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise SpecError(
            f"the data cannot be looked for in {path}: {str(error).rstrip('.')}; give the whole path"
        ) from error


def is_file(path: Path) -> bool:
    """
    Raises:
        SpecError: this cannot be told, as the folder is not readable or the name too long.
    """
    try:
        return path.is_file()
    except OSError as error:
        raise SpecError(f"data file {path!s:.200} cannot be read: {error.strerror or error}") from error


def read_bytes(path: Path) -> bytes:
    """The contents of a file, unpacked if it is gzip.

    Raises:
        SpecError: unreadable, or a gzip file that ends early or fails its checksum.
    """
    try:
        packed = path.read_bytes()
    except OSError as error:
        raise SpecError(f"data file {path} cannot be read: {error.strerror or error}") from error
    if not packed.startswith(b"\x1f\x8b"):
        return packed
    try:
        return gzip.decompress(packed)
    except (OSError, EOFError, zlib.error) as error:
        raise SpecError(
            f"data file {path} is truncated or corrupt: its {len(packed)} bytes do not unpack ({error}); get it again"
        ) from error


def check_size(path: Path, found: int, expected: int, unit: str = "bytes") -> None:
    """
    Raises:
        SpecError: naming the file, and the expected and found sizes, where they differ.
    """
    if found != expected:
        what = "truncated" if found < expected else "corrupt"
        raise SpecError(f"data file {path} is {what}: expected {expected} {unit}, found {found}; get it again")
