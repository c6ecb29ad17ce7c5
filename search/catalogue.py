"""What `sparsevlr list` lists: every table of methods, one row a member."""

from __future__ import annotations

from dataclasses import MISSING, fields, is_dataclass
from typing import Any

from ..spaces.architectures import ARCHITECTURES
from ..spaces.datasets import DATASETS
from ..spaces.load import PRESETS
from ..trainables.certified_training import INITIALISATIONS, LOSSES, REGULARISERS
from ..trainables.optimizers import OPTIMIZERS
from ..trainables.pruning import DISTRIBUTIONS, PATTERNS, SCHEDULES, SCORES
from ..trainables.starts import STARTS
from ..trainables.verification import VERIFIERS


def catalogue(kind: str) -> list[dict[str, Any]]:
    """Rows of name, description and options; `kind` is one of the keys below."""
    tables: dict[str, dict[str, Any]] = {
        "presets": dict(PRESETS),
        "datasets": dict(DATASETS),
        "architectures": dict(ARCHITECTURES),
        "pruners": {**SCORES, **DISTRIBUTIONS, **PATTERNS, **SCHEDULES},
        "losses": dict(LOSSES),
        "regularisers": dict(REGULARISERS),
        "initialisations": dict(INITIALISATIONS),
        "optimizers": dict(OPTIMIZERS),
        "starts": dict(STARTS),
        "verifiers": dict(VERIFIERS),
    }
    return [
        {"name": name, "description": member.description, **_options(member)} for name, member in tables[kind].items()
    ]


def _options(member: Any) -> dict[str, str]:
    if not isinstance(member, type) or not is_dataclass(member):
        return {}
    return {"options": ", ".join(f"{f.name}={'' if f.default is MISSING else f.default}" for f in fields(member))}
