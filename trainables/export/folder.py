"""The files of an export: written all at once, read with care, since the folder may be anybody's."""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
import stat
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors import torch as tensors
from torch import Tensor

from ...results import ExportError, untrusted
from ...results.location import reason_of, sync_folder

MODEL, NETWORK = "model.onnx", "network.json"
WEIGHTS, MASK, SAMPLES = "weights.safetensors", "mask.safetensors", "samples.safetensors"
CARD, CERTIFICATE, README, INSTANCES = "card.json", "certificate.json", "README.md", "instances.csv"
HASHED = (MODEL, NETWORK, WEIGHTS, MASK, SAMPLES, CARD)
"""Files whose digests every certificate has, beside those of its properties."""

MEGABYTE = 1 << 20
LARGEST = {MODEL: 512 * MEGABYTE, WEIGHTS: 512 * MEGABYTE, MASK: 128 * MEGABYTE, SAMPLES: 2048 * MEGABYTE}
"""Bytes; of all other files 64 MiB."""
_PROPERTY = re.compile(r"vnnlib/sample-[0-9]{1,12}\.vnnlib")


def property_file(index: int) -> str:
    """``vnnlib/sample-INDEX.vnnlib``, relative to the export."""
    return f"vnnlib/sample-{index}.vnnlib"


def may_be_hashed(name: str) -> bool:
    """Whether a certificate may name this file; nothing it names leads outside its folder."""
    return name in HASHED or name == INSTANCES or _PROPERTY.fullmatch(name) is not None


def digest(content: bytes) -> str:
    """SHA-256, hexadecimal."""
    return sha256(content).hexdigest()


def check_free(out: Path) -> None:
    """
    Raises:
        ExportError: `out` is there already and is no empty folder.
    """
    try:
        if out.is_symlink() or (out.exists() and not out.is_dir()) or (out.is_dir() and any(out.iterdir())):
            raise ExportError(f"{out} is there already and is no empty folder: give a new one with --out")
    except OSError as error:
        raise ExportError(f"cannot export to {out}: {reason_of(error)}; give another folder with --out") from error


def write_folder(out: Path, files: Mapping[str, bytes]) -> None:
    """Write a new folder of these files under a temporary name and rename it, so that it is there whole or not at all.

    Raises:
        ExportError: it is there already, a file is too large to be read back, or the disk does not take it.
    """
    check_free(out)
    for name, content in files.items():
        if len(content) > _largest(name):
            raise ExportError(f"{name} would have {len(content)} bytes, but an export holds at most {_largest(name)}")
    out = out.absolute()
    temporary = out.with_name(f".{out.name}.{secrets.token_hex(4)}.tmp")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        temporary.mkdir()
        for name, content in files.items():
            (temporary / name).parent.mkdir(exist_ok=True)
            with (temporary / name).open("xb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
        for folder in {(temporary / name).parent for name in files}:
            sync_folder(folder)
        temporary.rename(out)
        sync_folder(out.parent)
    except OSError as error:
        raise ExportError(f"cannot export to {out}: {reason_of(error)}; give another folder with --out") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def read_file(folder: Path, name: str) -> bytes:
    """A file of the export.

    Raises:
        ExportError: it is missing, no plain file, or larger than such a file may be.
    """
    path = folder / name
    try:
        for part in (path.parent, path):
            if part != folder and part.is_symlink():
                raise ExportError(f"{name} leads elsewhere through a symbolic link: an export holds its files itself")
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        with os.fdopen(descriptor, "rb") as file:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise ExportError(f"{folder}/{name} must be a file")
            if status.st_size > _largest(name):
                raise ExportError(f"{name} may have at most {_largest(name)} bytes, got {status.st_size}")
            return file.read(_largest(name))
    except OSError as error:
        raise ExportError(f"{folder} is no whole export: {name}: {reason_of(error)}") from error


def parse_json(content: bytes) -> Any:
    """
    Raises:
        ExportError: it is no JSON, has NaN in it, or is nested deeper than anything here.
    """
    try:
        return untrusted.parse_json(content)
    except ValueError as error:
        raise ExportError(str(error)) from None


def to_json(content: Any) -> bytes:
    """Indented, without NaN."""
    return (json.dumps(content, indent=1, allow_nan=False) + "\n").encode()


def parse_tensors(content: bytes) -> dict[str, Tensor]:
    """
    Raises:
        ExportError: it is no safetensors file.
    """
    try:
        found: dict[str, Tensor] = tensors.load(content)
    except (SafetensorError, KeyError, ValueError, TypeError, RuntimeError) as error:
        raise ExportError(f"it is no safetensors file ({error})") from error
    return found


def to_tensors(values: Mapping[str, Tensor]) -> bytes:
    """A safetensors file; equal values give equal bytes."""
    data: bytes = tensors.save({name: value.detach().cpu().contiguous() for name, value in values.items()})
    return data


def _largest(name: str) -> int:
    return LARGEST.get(name, 64 * MEGABYTE)
