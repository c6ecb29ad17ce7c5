"""How far a study is, from its records alone."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any, NamedTuple

from ..results import Study, StudyError
from ..results.course import floats
from ..results.record import OVER
from ..spaces import Limits
from .bands import best_by_band
from .limits import Growth, Use, first_end, uses
from .progress import clock

QUIET_SECONDS = 120.0


class Pace(NamedTuple):
    """What a stretch of time has brought: its seconds, trials that came to their end, seconds of compute."""

    seconds: float
    over: int
    compute_seconds: float


class Past(NamedTuple):
    """What the events of a study tell: `all` of it, the `newest` session, and trials over since the last growth."""

    all: Pace
    newest: Pace
    stagnation: int


def status_of(study: Study) -> dict[str, Any]:
    """Facts about a study, as plain JSON values.

    `seconds_active` sums over sessions, so that a night between an interruption and a resume does not count.
    `seconds_left` follows from the pace of the newest session (of all, where no trial has ended in it yet) and from
    `ends_by`, whatever comes first of the trials and the limits. `seconds_since_last_event` tells a running study from
    an interrupted one: there is no other sign of life in a store.
    """
    counts = study.states()
    planned, limits = _planned(study)
    past = _past(study, limits)
    silent = time.time() - study.sessions[-1][1] if study.sessions else None
    completed = floats(study.completed(("sparsity", "verified_accuracy")))
    over = sum(counts[state] for state in OVER)
    used = [Use("trials", over, planned)]
    used += uses(
        limits,
        wall_seconds=past.newest.seconds,
        compute_seconds=past.all.compute_seconds,
        stagnation=past.stagnation,
    )
    pace = past.newest if past.newest.over and past.newest.seconds > 0 else past.all
    gained = {"trials": pace.over, "stagnation": pace.over, "compute_seconds": pace.compute_seconds}
    if silent is not None and silent <= QUIET_SECONDS:
        gained["wall_seconds"] = pace.seconds
    end = first_end(used, gained, pace.seconds) if over < planned else None
    return {
        "study": study.uri,
        "trials": planned,
        "over": over,
        **{state: counts[state] for state in ("pending", "running", "paused", *OVER)},
        "finished": over >= planned,
        "limits": {use.limit: {"used": use.used, "allowed": use.allowed} for use in used},
        "seconds_active": past.all.seconds,
        "seconds_left": end.seconds if end else None,
        "ends_by": end.limit if end else None,
        "seconds_since_last_event": silent,
        "hypervolume": study.hypervolume(),
        "best": {best.band.name: best.verified_accuracy for best in best_by_band(completed)},
        "problems": list(study.problems),
    }


def status_text(facts: Mapping[str, Any]) -> str:
    """The same in words."""
    lines = [f"study {facts['study']}: {facts['over']} of {facts['trials']} trials over"]
    states = ", ".join(f"{facts[state]} {state}" for state in ("pending", "running", "paused", *OVER) if facts[state])
    lines.append(f"trials       {states or 'none yet'}")
    for name, verified in facts["best"].items():
        lines.append(
            f"sparsity     {name}: " + ("nothing completed" if verified is None else f"{verified:.1%} verified")
        )
    lines.append(f"hypervolume  {facts['hypervolume']:.3f}")
    limits = [Use(name, **use) for name, use in facts["limits"].items() if name != "trials"]
    lines += [f"limit        {use.limit}: {use}" for use in limits]
    lines.append(f"active for   {clock(facts['seconds_active'])}")
    if not facts["finished"]:
        lines.append(f"left         {_left(facts, limits)}")
        silent = facts["seconds_since_last_event"]
        if silent is not None and silent > QUIET_SECONDS:
            lines.append(f"silent for   {clock(silent)}: it may have been interrupted, or have come to a limit")
    lines += [f"warning: {problem}" for problem in facts["problems"]]
    return "\n".join(lines)


def _left(facts: Mapping[str, Any], limits: list[Use]) -> str:
    # A session's wall time says nothing about the next session.
    for use in limits:
        if use.reached and use.limit != "wall_seconds":
            return f"{use.story}; raise it: {use.remedy(facts['study'])}"
    if facts["seconds_left"] is None:
        return "unknown yet"
    by = "" if facts["ends_by"] == "trials" else f", until limits.{facts['ends_by']} is reached"
    return f"about {clock(facts['seconds_left'])}{by}"


def _planned(study: Study) -> tuple[int, Limits]:
    """
    Raises:
        StudyError, SpecError: the spec, which may be anybody's, does not say it.
    """
    trials, limits = study.spec.get("trials"), study.spec.get("limits", {})
    if not isinstance(trials, int) or not isinstance(limits, dict):
        raise StudyError(f"the spec of {study.name} must have a number of trials and limits; see its study.json")
    return trials, Limits(**limits)


def _past(study: Study, limits: Limits) -> Past:
    sessions = study.sessions
    course = study.course(study.objectives, sessions[-1][0] if sessions else 0.0)
    growth = Growth(study.objectives, limits.tolerance)
    ended = 0
    for before, values in zip(course.ended_before.tolist(), course.worse.tolist(), strict=True):
        growth.ended_in_turn(course.objectives[ended:before])
        growth.measured(values)
        ended = before
    growth.ended_in_turn(course.objectives[ended:])
    seconds = [last - first for first, last in sessions]
    return Past(
        all=Pace(sum(seconds), len(course.objectives), course.compute_seconds),
        newest=Pace(seconds[-1] if seconds else 0.0, course.over_since, course.compute_seconds_since),
        stagnation=growth.stagnation,
    )
