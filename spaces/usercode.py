"""The one door through which a spec may name code of the user's own."""

import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .errors import SpecError


def is_reference(name: str) -> bool:
    """Whether `name` has the form `module:function`."""
    module, colon, function = name.partition(":")
    return bool(colon) and function.isidentifier() and all(part.isidentifier() for part in module.split("."))


def resolve(reference: str, *, allow_code: bool, what: str) -> Callable[..., Any]:
    """The function that `module:function` names; modules are also looked for in the current directory.

    Raises:
        SpecError: without `allow_code`, since a spec may come from somebody else and importing runs code; or where the
            module or function is missing or fails to import.
    """
    if not allow_code:
        raise SpecError(
            f"{what} {reference!r} would run code of that module, and a spec may come from somebody else: "
            "pass --allow-code if you trust it"
        )
    module_name, _, function_name = reference.partition(":")
    here = str(Path.cwd())
    if here not in sys.path:
        # A console script does not search the current directory, where people keep such modules.
        sys.path.append(here)
    try:
        module = importlib.import_module(module_name)
    except Exception as error:
        raise SpecError(f"{what} {reference!r}: importing {module_name!r} failed with {described(error)}") from error
    function = getattr(module, function_name, None)
    if not callable(function):
        raise SpecError(f"{what} {reference!r}: module {module_name!r} has no function {function_name!r}")
    return function


def described(error: BaseException) -> str:
    """An exception in one line, for a message that has the exception as its cause."""
    return f"{type(error).__name__}: {error}"
