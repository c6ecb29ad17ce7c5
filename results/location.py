"""A study's place in a file system: a plain path, any URI that pyarrow knows, or a pyarrow filesystem object."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
from pyarrow import fs

from .errors import StorageError
from .untrusted import LARGEST_FILE, check_plain, check_size, inside, read_file

# What reading and writing raises when the storage (not the caller) is at fault.
STORAGE_ERRORS = (OSError, pa.ArrowException)
S3_ATTEMPTS, S3_SECONDS = 7, 60.0
_READ_AGAIN = 3
_PORT = re.compile(r"[^/@]*:[0-9]*(/|$)")
_PLACES = ("region", "scheme", "endpoint_override")


class _TornAnswer(OSError):
    """An answer that arrow could not take in."""


class Entry(NamedTuple):
    """A file in a folder: its name and size in bytes."""

    name: str
    size: int


@dataclass(frozen=True)
class Location:
    """One folder, which may not exist yet. Paths given to the methods are relative to it."""

    filesystem: fs.FileSystem
    root: str
    shown: str
    local: Path | None

    def __setstate__(self, state: dict[str, Any]) -> None:
        # What it does about failures is not in a pickled filesystem.
        self.__dict__.update(state, filesystem=_patient(state["filesystem"]))

    @property
    def name(self) -> str:
        """Last component: the study's name."""
        return self.root.rstrip("/").rsplit("/", 1)[-1]

    @property
    def parent(self) -> Location:
        """The storage that holds the study."""
        root = self.root.rstrip("/").rpartition("/")[0] or "/"
        shown = self.shown.rstrip("/").rpartition("/")[0] or ("/" if self.shown.startswith("/") else ".")
        return Location(self.filesystem, root, shown, self.local.parent if self.local else None)

    def path(self, relative: str) -> str:
        """The path inside `filesystem`. Raises UnsafePath when links lead outside the folder."""
        if self.local is not None:
            inside(self.local, relative)
        return f"{self.root.rstrip('/')}/{relative}" if self.root else relative

    def files(self, folder: str) -> list[Entry]:
        """Files directly inside a folder, by name; an absent folder is an empty one. OSError when it cannot be read."""
        infos = self.filesystem.get_file_info(fs.FileSelector(self.path(folder), allow_not_found=True))
        return sorted(Entry(info.base_name, info.size or 0) for info in infos if info.is_file)

    def folders(self, folder: str = "") -> list[str]:
        """Names of the folders directly inside, or inside a folder of it."""
        place = self.path(folder) if folder else self.root
        infos = self.filesystem.get_file_info(fs.FileSelector(place, allow_not_found=True))
        return sorted(info.base_name for info in infos if info.type == fs.FileType.Directory)

    def has(self, relative: str) -> bool:
        """Whether that file exists. OSError when the storage does not answer."""
        return bool(self.filesystem.get_file_info(self.path(relative)).is_file)

    def read(self, relative: str, most: int = LARGEST_FILE) -> bytes:
        """All bytes of a file. OSError for one of more than `most` bytes, and for what is no plain file."""
        path = self.path(relative)
        if self.local is not None:
            return read_file(self.local / relative, most)
        for _ in range(_READ_AGAIN):
            # An error's text may not fit in the place of the data, and arrow does not try that again.
            with contextlib.suppress(_TornAnswer):
                return self._read_object(path, most)
        return self._read_object(path, most)

    def _read_object(self, path: str, most: int) -> bytes:
        with self.filesystem.open_input_file(path) as file:
            check_size(file.size(), most)
            try:
                return bytes(file.read())
            except OSError as error:
                if "response stream" in str(error):
                    raise _TornAnswer(*error.args) from error
                # Removed since it was opened, which arrow calls no missing file.
                if not self.filesystem.get_file_info(path).is_file:
                    raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT)) from error
                raise

    def open(self, relative: str) -> pa.NativeFile:
        """A file to read from anywhere in it. What it holds stays readable when it is removed meanwhile."""
        if self.local is not None:
            path = self.path(relative)
            check_plain((self.local / relative).stat().st_mode)
            return self.filesystem.open_input_file(path)
        return pa.BufferReader(self.read(relative))

    def write(self, relative: str, data: bytes | pa.Buffer) -> None:
        """A new object, once, under a name that nobody else uses. Object stores show it whole or not at all."""
        path = self.path(relative)
        try:
            stream = self.filesystem.open_output_stream(path)
        except FileNotFoundError:
            # File systems want the folder first; object stores have none, and making one may need further rights.
            self.filesystem.create_dir(path.rpartition("/")[0], recursive=True)
            stream = self.filesystem.open_output_stream(path)
        with stream:
            stream.write(data)

    def remove_file(self, relative: str) -> None:
        """Remove a file; one that is not there is no error."""
        with contextlib.suppress(FileNotFoundError):
            self.filesystem.delete_file(self.path(relative))

    def remove_folder(self, relative: str) -> None:
        """Remove a folder with all that is in it; one that is not there is no error."""
        with contextlib.suppress(FileNotFoundError):
            self.filesystem.delete_dir(self.path(relative))

    def replace(self, relative: str, data: bytes | pa.Buffer) -> None:
        """A file with that content, durable on return, in place of one that may be there already."""
        if self.local is None:
            self.write(relative, data)
            return
        path = inside(self.local, relative)
        # Never the folder itself: where a study has vanished, half of one in its place would keep it from coming back.
        if not self.local.is_dir():
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
        path.parent.mkdir(parents=True, exist_ok=True)
        write_durably(path, data)


def locate(uri: str | os.PathLike[str], filesystem: fs.FileSystem | None = None) -> Location:
    """The place that a path or URI names; with ``filesystem`` given, ``uri`` is a path inside it.

    Raises StorageError for URIs that pyarrow does not know. Credentials in a URI are kept out of `Location.shown`.
    """
    text = os.fspath(uri)
    shown = without_credentials(text)
    if filesystem is not None:
        return Location(filesystem, text.rstrip("/"), shown, None)
    if re.match(r"(s3|gs|gcs|hdfs|abfss?|file):/[^/]", text):
        # Not told in full: it may hold credentials.
        scheme = text.partition(":")[0]
        raise StorageError(f"cannot use a storage that begins with {scheme}:/ and no second slash: write {scheme}://")
    if "://" not in text:
        try:
            return _local(Path(text).expanduser(), shown)
        except RuntimeError as error:
            raise StorageError(f"cannot use the storage {shown}: {error}; give the folder's whole path") from None
    try:
        found, path = fs.FileSystem.from_uri(text)
    except (*STORAGE_ERRORS, ValueError) as error:
        # What pyarrow says may quote any part of it.
        reason = (
            reason_of(error) if shown == text else "no URI, unless '/', '@' and '?' of a key are written %2F, %40, %3F"
        )
        raise StorageError(
            f"cannot use the storage {shown}: {reason}; give a folder, or a URI that pyarrow knows"
        ) from None
    if isinstance(found, fs.LocalFileSystem):
        return _local(Path(path), shown)
    return Location(_patient(found), path.rstrip("/"), shown, None)


def _patient(filesystem: fs.FileSystem) -> fs.FileSystem:
    """S3 with time for slow answers, and tries for about half a minute of failures; pyarrow's own gives up on an answer
    that takes 3 s, and a URI cannot say otherwise. What was made with a timeout of its own stays as it is."""
    if filesystem.type_name != "s3":
        return filesystem
    build, (options,) = filesystem.__reduce__()
    if options["request_timeout"] not in (-1.0, S3_SECONDS):
        return filesystem
    tries = fs.AwsStandardS3RetryStrategy(max_attempts=S3_ATTEMPTS)
    return build(options | {"request_timeout": S3_SECONDS, "connect_timeout": 10.0, "retry_strategy": tries})


def _local(path: Path, shown: str) -> Location:
    absolute = Path(os.path.abspath(path))  # noqa: PTH100 - resolve() would follow links that the user means to keep
    return Location(fs.LocalFileSystem(), absolute.as_posix(), shown, absolute)


def without_credentials(uri: str) -> str:
    """The URI less user, password and query, which may hold keys; also where their '/', '@' and '?' are not escaped."""
    scheme, mark, rest = uri.partition("://")
    if not mark:
        return uri
    path = rest.partition("?")[0]
    user, at, place = path.partition("@")
    if ":" in user and not _PORT.match(user):
        return f"{scheme}://{rest.rpartition('@')[2].partition('?')[0] if '@' in rest else '...'}"
    return f"{scheme}://{place if at and '/' not in user else path}"


def to_type(uri: str) -> str:
    """The URI to type again: less user and password; of the query what says where the storage is."""
    if "://" not in uri:
        return uri
    options = uri.rpartition("@")[2].partition("?")[2].split("&")
    kept = [option for option in options if option.partition("=")[0] in _PLACES and "%40" not in option]
    return "?".join([without_credentials(uri), *(["&".join(kept)] if kept else [])])


def below(uri: str, name: str) -> str:
    """STORAGE/NAME; a URI's query stays at its end."""
    path, mark, query = uri.partition("?") if "://" in uri else (uri, "", "")
    return f"{path.rstrip('/')}/{name}{mark}{query}"


def reason_of(error: BaseException) -> str:
    """One line saying what the storage said; never the path with its credentials."""
    if isinstance(error, OSError) and error.errno is not None and error.strerror:
        # Arrow's text quotes the path, and says what failed rather than why.
        said = error.strerror.splitlines()[0]
        return os.strerror(error.errno) if " '" in said else said
    return without_credentials(str(error).splitlines()[0]) if str(error) else type(error).__name__


def no_answer(error: BaseException) -> bool:
    """Whether an object store failed as such, which says nothing of what was asked for. Its errors have no number."""
    return isinstance(error, OSError) and error.errno is None and not isinstance(error, FileNotFoundError)


@contextmanager
def storage_errors(doing: str, remedy: str) -> Iterator[None]:
    """Turns what the file system raises into a StorageError ``cannot DOING: reason; REMEDY``."""
    try:
        yield
    except STORAGE_ERRORS as error:
        raise StorageError(f"cannot {doing}: {reason_of(error)}; {remedy}") from error


def sync_folder(folder: Path) -> None:
    """Makes renames and new names in a local folder durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_durably(path: Path, data: bytes | pa.Buffer) -> None:
    """A local file, whole or not at all, durable on return: temporary name, fsync, rename, fsync of the folder."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        with temporary.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)
