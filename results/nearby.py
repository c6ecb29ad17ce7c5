"""What to say when a study is not where it was looked for."""

from __future__ import annotations

import difflib

from . import paths
from .errors import StudyMissing
from .location import STORAGE_ERRORS, Location

_SHOWN = 8


def missing_study(location: Location) -> StudyMissing:
    """The error: which file was looked for, and the studies beside it, those with a similar name first."""
    found = studies_in(location.parent)
    similar = difflib.get_close_matches(location.name, found, n=_SHOWN, cutoff=0.5)
    names = [*similar, *(name for name in found if name not in similar)]
    message = f"no study at {location.shown} (looked for {location.shown.rstrip('/')}/{paths.STUDY_FILE})"
    if not names:
        return StudyMissing(f"{message}; {location.parent.shown} holds no studies, start one with: sparsevlr search")
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return StudyMissing(f"{message}; studies in {location.parent.shown}: {', '.join(names[:_SHOWN])}{more}")


def studies_in(storage: Location) -> list[str]:
    """Names of the studies in a storage; none where it cannot be listed."""
    try:
        return [name for name in storage.folders() if storage.has(f"{name}/{paths.STUDY_FILE}")]
    except STORAGE_ERRORS:
        return []
