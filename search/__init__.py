"""How trials are chosen, stopped, launched and resumed: sampler, Pareto scheduler, engine, command line."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .engine import resume, search

__all__ = ["resume", "search"]


def __getattr__(name: str) -> Any:
    # Ray takes seconds to import, which a look at a finished study need not wait for.
    if name in __all__:
        from . import engine

        return getattr(engine, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
