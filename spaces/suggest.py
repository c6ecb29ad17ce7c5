"""Help for unknown names: the closest known one, and the list of what is known."""

from collections.abc import Collection, Iterable
from difflib import get_close_matches

from .errors import SpecError


def closest(name: object, known: Iterable[str]) -> str:
    """`; did you mean 'x'?`, or nothing where no known name comes near."""
    matches = get_close_matches(str(name), list(known), n=1, cutoff=0.6)
    return f"; did you mean {matches[0]!r}?" if matches else ""


def listed(names: Iterable[object]) -> str:
    return ", ".join(str(name) for name in names)


def reject_unknown(options: Iterable[str], known: Collection[str], owner: str) -> None:
    """Check that every option is known.

    Raises:
        SpecError: naming the option, the closest known one, and all that `owner` takes.
    """
    for option in options:
        if option not in known:
            takes = f"it has: {listed(known)}" if known else "it has none"
            raise SpecError(f"{owner} has no option {option!r}{closest(option, known)} ({takes})")
