"""The package for workers on other machines: a wheel of what runs here."""

from __future__ import annotations

import base64
import zipfile
from collections.abc import Iterator
from hashlib import sha256
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

PACKAGE = "sparsevlr"
PARTS = ("spaces", "trainables", "results", "search")
ENDINGS = (".py", ".yaml", ".typed")


def build_wheel(folder: Path) -> Path:
    """Write this package as a wheel into `folder`.

    It holds the modules that run here, whether they are installed or a checkout that is being worked on, so that
    workers run what the driver runs. It names no requirements: where Ray is given a wheel it has pip install it apart
    from what a node has, and pip would fetch all of them once more. Ray tells wheels apart by their names alone: the
    build number is a digest, so that equal contents have equal names and different ones different names.
    """
    files = dict(_modules())
    number = version(PACKAGE)
    information = f"{PACKAGE}-{number}.dist-info"
    files[f"{information}/METADATA"] = f"Metadata-Version: 2.1\nName: {PACKAGE}\nVersion: {number}\n".encode()
    # A build number begins with a digit.
    build = (
        "0" + sha256(b"".join(name.encode() + sha256(data).digest() for name, data in files.items())).hexdigest()[:16]
    )
    files[f"{information}/WHEEL"] = (
        f"Wheel-Version: 1.0\nGenerator: {PACKAGE}\nRoot-Is-Purelib: true\nTag: py3-none-any\nBuild: {build}\n".encode()
    )
    record = f"{information}/RECORD"
    lines = [f"{name},sha256={_digest(data)},{len(data)}" for name, data in files.items()]
    files[record] = "\n".join([*lines, f"{record},,", ""]).encode()
    wheel = folder / f"{PACKAGE}-{number}-{build}-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            # With the time left at its default, equal contents are equal bytes.
            archive.writestr(zipfile.ZipInfo(name), data, zipfile.ZIP_DEFLATED)
    return wheel


def unpacked_wheel(folder: Path) -> list[str]:
    """What is in the wheel, in `folder`: paths for the `py_modules` of a runtime environment.

    Ray does without pip then, which a node may not have, or not on the path of Ray's processes; and of two nodes on one
    machine, the second to install a wheel would remove it from the first.
    """
    with zipfile.ZipFile(build_wheel(folder)) as archive:
        archive.extractall(folder)
    return [str(path) for path in sorted(folder.iterdir()) if path.is_dir()]


def _modules() -> Iterator[tuple[str, bytes]]:
    for part in PARTS:
        found = find_spec(f"{PACKAGE}.{part}")
        assert found is not None
        assert found.origin is not None
        root = Path(found.origin).parent
        for path in sorted(root.rglob("*")):
            if path.suffix in ENDINGS and path.is_file():
                yield f"{PACKAGE}/{part}/{path.relative_to(root).as_posix()}", path.read_bytes()


def _digest(data: bytes) -> str:
    return base64.urlsafe_b64encode(sha256(data).digest()).rstrip(b"=").decode()
