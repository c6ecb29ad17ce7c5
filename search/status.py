"""How far a study is, from its records alone."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping
from typing import Any

import pyarrow.compute as pc

from ..results import Study
from .bands import best_by_band
from .progress import clock
from .study_run import OVER

QUIET_SECONDS = 120.0


def status_of(study: Study) -> dict[str, Any]:
    """Facts about a study, as plain JSON values.

    `seconds_since_last_event` tells a running study from an interrupted one: there is no other sign of life in a store.
    """
    trials = study.trials()
    counts = Counter(trials["state"].to_pylist())
    planned = int(study.spec["trials"])
    times = study.events()["time"]
    first, last = (pc.min(times).as_py(), pc.max(times).as_py()) if len(times) else (None, None)
    completed = trials.filter(pc.equal(trials["state"], "completed"))
    pairs = zip(completed["sparsity"].to_pylist(), completed["verified_accuracy"].to_pylist(), strict=True)
    over = sum(counts[state] for state in OVER)
    elapsed = last - first if first is not None else 0.0
    return {
        "study": study.uri,
        "trials": planned,
        "over": over,
        **{state: counts[state] for state in ("pending", "running", "paused", *OVER)},
        "finished": over >= planned,
        "seconds_active": elapsed,
        "seconds_left": elapsed / over * (planned - over) if over else None,
        "seconds_since_last_event": time.time() - last if last is not None else None,
        "hypervolume": study.hypervolume(),
        "best": {best.band.name: best.verified_accuracy for best in best_by_band(pairs)},
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
    lines.append(f"active for   {clock(facts['seconds_active'])}")
    if not facts["finished"]:
        left = facts["seconds_left"]
        lines.append("left         " + ("unknown yet" if left is None else f"about {clock(left)}"))
        silent = facts["seconds_since_last_event"]
        if silent is not None and silent > QUIET_SECONDS:
            lines.append(f"silent for   {clock(silent)}: it may have been interrupted")
    lines += [f"warning: {problem}" for problem in facts["problems"]]
    return "\n".join(lines)
