"""How trials are chosen, stopped, launched and resumed: sampler, Pareto scheduler, engine, command line."""

import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .engine import resume, search

__all__ = ["resume", "search"]

# Ray reads these when it is imported.
QUIET = {
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",
    # Ctrl-C shall end the search at once, not leave it as if it had finished: the store is safe at any moment.
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "TUNE_WARN_INSUFFICENT_RESOURCE_THRESHOLD_S": "3600",
}
for _name, _value in QUIET.items():
    os.environ.setdefault(_name, _value)


def __getattr__(name: str) -> Any:
    # Ray takes seconds to import, which a look at a finished study need not wait for.
    if name in __all__:
        from . import engine

        return getattr(engine, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
