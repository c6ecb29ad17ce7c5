"""``study.json``: what a study is, written once; and the folder that appears with it."""

from __future__ import annotations

import errno
import json
import os
import secrets
import shutil
import time
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from . import paths
from .errors import StorageError, StudyError, StudyExists
from .location import Location, sync_folder
from .record import SCHEMA_VERSION
from .untrusted import parse_json

FORMAT = "sparsevlr-study"
_PACKAGES = ("sparsevlr", "torch", "ray", "optuna", "numpy", "pyarrow", "auto_LiRPA", "onnx", "onnxruntime")


def new_manifest(spec: Mapping[str, Any]) -> dict[str, Any]:
    """The manifest of a study that begins now, with the versions installed here."""
    return {
        "format": FORMAT,
        "schema_version": SCHEMA_VERSION,
        "created": time.time(),
        "versions": installed_versions(),
        "spec": dict(spec),
    }


def to_json(manifest: Mapping[str, Any]) -> bytes:
    """The file's bytes. Raises StudyError for a spec that is not plain JSON."""
    try:
        return json.dumps(manifest, indent=2, allow_nan=False).encode()
    except (TypeError, ValueError) as error:
        raise StudyError(f"a spec must be plain JSON without NaN: {error}") from None


def create_folder(location: Location, root: Path, manifest: bytes) -> None:
    """The study's folder, filled under a temporary name and renamed, so that it appears whole, once."""
    try:
        root.parent.mkdir(parents=True, exist_ok=True)
    except FileExistsError:
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR)) from None
    temporary = root.parent / f".{root.name}.{secrets.token_hex(4)}.tmp"
    try:
        temporary.mkdir()
        for folder in (paths.JOURNAL, paths.PARTS, paths.CHECKPOINTS):
            (temporary / folder).mkdir()
        with (temporary / paths.STUDY_FILE).open("xb") as file:
            file.write(manifest)
            file.flush()
            os.fsync(file.fileno())
        sync_folder(temporary)
        try:
            temporary.rename(root)
        except OSError:
            if (root / paths.STUDY_FILE).is_file():
                raise study_exists(location) from None
            if root.exists():
                raise StudyExists(
                    f"{location.shown} is there already and is not a study; choose another name"
                ) from None
            raise
        sync_folder(root.parent)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def study_exists(location: Location) -> StudyExists:
    """The error, with the way to go on."""
    return StudyExists(
        f"the study {location.shown} exists already; continue it with: sparsevlr resume {location.shown}"
        " (or choose another name)"
    )


def parse_manifest(location: Location, data: bytes) -> dict[str, Any]:
    """The manifest. Raises StudyError for what is none, StorageError for what is corrupt."""
    where = f"{location.shown}/{paths.STUDY_FILE}"
    try:
        manifest = parse_json(data)
    except ValueError as error:
        raise StorageError(f"{where} is corrupt: {error}; restore it from a copy") from None
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT or not isinstance(manifest.get("spec"), dict):
        raise StudyError(f"{where} does not describe a study: format {FORMAT!r} and a spec are needed")
    check_version(where, manifest.get("schema_version"))
    return manifest


def check_version(where: str, version: Any) -> None:
    """Raises StudyError for a file of a newer version than is known here; within a version columns may be added."""
    if not isinstance(version, int) or version > SCHEMA_VERSION:
        raise StudyError(
            f"{where} has schema version {version!r}, this sparsevlr reads up to {SCHEMA_VERSION}; install a newer one"
        )


def installed_versions() -> dict[str, str]:
    """Of the packages that results depend on, those that are there."""
    versions = {}
    for package in _PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return versions
