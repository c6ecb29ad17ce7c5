"""What auto_LiRPA 0.3 misses in the torch and numpy of today, put back before it is imported.

Every patch is applied only where its name is missing, and none for newer releases. Here nothing imports auto_LiRPA.
"""

import importlib
import inspect
import sys
import tempfile
import types
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, final

import numpy as np
import torch
from torch import nn


@final
@dataclass(frozen=True)
class Patch:
    """A name that auto_LiRPA 0.3 looks for, whether it is there, and how to put it back."""

    name: str
    present: Callable[[], bool]
    apply: Callable[[], None]


def needed_patches(version: str) -> list[Patch]:
    """What is missing for this release of auto_LiRPA; nothing for 0.4 and newer, which follow torch and numpy."""
    if not version.startswith(("0.1", "0.2", "0.3")):
        return []
    return [patch for patch in _PATCHES if not patch.present()]


def accept_remove_duplicate(bounded_module: Any) -> None:
    """Let the override of `nn.Module._named_members` take the keyword that torch passes since 2.0.

    Without it anything that lists parameters fails, among that CROWN over a residual block or BatchNorm.
    """
    original = bounded_module._named_members
    if "remove_duplicate" in inspect.signature(original).parameters:
        return

    def named_members(
        self: nn.Module,
        get_members_fn: Callable[..., Any],
        prefix: str = "",
        recurse: bool = True,
        remove_duplicate: bool = True,
    ) -> Iterator[tuple[str, Any]]:
        return original(self, get_members_fn, prefix, recurse)

    bounded_module._named_members = named_members


def _importable(name: str) -> bool:
    try:
        importlib.import_module(name)
    except ImportError:
        return False
    return True


def _provide(name: str, **members: Any) -> None:
    module = types.ModuleType(name)
    vars(module).update(members)
    sys.modules[name] = module


def _exporter(name: str) -> Any:
    """A module of torch's TorchScript exporter, which has moved to a private package."""
    try:
        return importlib.import_module(f"torch.onnx._internal.torchscript_exporter.{name}")
    except ImportError:
        return importlib.import_module(f"torch.onnx.{name}")


def _set_opset_version(version: int) -> None:
    _exporter("_globals").GLOBALS.export_onnx_opset_version = version


def _provide_node_items() -> None:
    node_get = _exporter("symbolic_helper")._node_get
    setattr(torch._C.Node, "__getitem__", lambda node, key: node_get(node, key))  # noqa: B010 - a C type, for mypy


def _symbolic_helper() -> Any:
    return importlib.import_module("torch.onnx.symbolic_helper")


_PATCHES = (
    Patch(
        "numpy.lib.arraysetops",
        lambda: _importable("numpy.lib.arraysetops"),
        lambda: _provide("numpy.lib.arraysetops", isin=np.isin),
    ),
    # Only asked for a folder to keep things in, which it creates on import and never uses.
    Patch(
        "appdirs",
        lambda: _importable("appdirs"),
        lambda: _provide("appdirs", user_data_dir=lambda *_: tempfile.gettempdir()),
    ),
    Patch(
        "torch.onnx.symbolic_helper._set_opset_version",
        lambda: hasattr(_symbolic_helper(), "_set_opset_version"),
        lambda: setattr(_symbolic_helper(), "_set_opset_version", _set_opset_version),
    ),
    Patch("torch._C.Node.__getitem__", lambda: hasattr(torch._C.Node, "__getitem__"), _provide_node_items),
)
