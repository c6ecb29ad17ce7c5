"""What a person sees while a study runs: a live table on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections import Counter
from types import TracebackType
from typing import TYPE_CHECKING

import numpy as np
from rich.box import SIMPLE_HEAD
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from ..results.pareto import Floats
from ..results.record import OVER
from ..results.study import by_norm
from .bands import best_by_band
from .limits import Use, first_end
from .scores import objective_values

if TYPE_CHECKING:
    from .study_run import StudyRun

ORDER = ("pending", "running", "paused", "completed", "stopped", "failed")
SECONDS_BETWEEN_LINES = 10.0


class Progress:
    """Follows a study as the observer of `search` or `resume`; a context manager around them.

    Args:
        uri: where the study lives.
        console: where to show it; standard error, so that standard output stays for results.
    """

    def __init__(self, uri: str, console: Console) -> None:
        self._uri, self._console = uri, console
        self._run: StudyRun | None = None
        self._over_before = 0
        self._before: list[Use] = []
        self._started = time.monotonic()
        self._last_line = self._started
        self._live = Live(get_renderable=self._table, console=console, refresh_per_second=2, transient=True)

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._live.is_started:
            self._live.stop()
        elif self._run is not None:
            self._console.print(self._line(self._run))

    def __call__(self, run: StudyRun) -> None:
        """Called when the study begins, and after each event."""
        if self._run is None:
            self._begin(run)
        elif not self._console.is_terminal and time.monotonic() - self._last_line >= SECONDS_BETWEEN_LINES:
            self._last_line = time.monotonic()
            self._console.print(self._line(run))

    def _begin(self, run: StudyRun) -> None:
        self._run, spec = run, run.spec
        self._over_before, self._before = _over(_counts(run)), run.uses
        before = f", {self._over_before} of them over already" if self._over_before else ""
        alone = spec.scheduler.kind != "none" and len(spec.rungs) == 1
        rungs = ", no rung before the last epoch, so that none is stopped early" if alone else ""
        self._console.print(
            f"searching {spec.data}: {spec.trials} trials of up to {spec.epochs} epochs{before}{rungs}, "
            f"epsilon {spec.epsilon:g}{by_norm(spec.norm)}, seed {spec.seed} -> {self._uri}"
        )
        if self._console.is_terminal:
            self._live.start()

    @property
    def begun(self) -> bool:
        """Whether there is a study that runs, or has run."""
        return self._run is not None

    @property
    def elapsed(self) -> float:
        """Seconds since the study began."""
        return time.monotonic() - self._started

    @property
    def limit_reached(self) -> Use | None:
        """The limit that has ended the study before its last trial."""
        return None if self._run is None or self._run.finished else self._run.limit_reached

    @property
    def summary(self) -> str:
        """How many trials are in which state."""
        return "" if self._run is None else _states(self._run)

    def _time(self, run: StudyRun) -> str:
        counts = _counts(run)
        over = _over(counts)
        if over < run.spec.trials and run.limit_reached and counts["running"]:
            return f"elapsed {clock(self.elapsed)}, a limit is reached, waiting for reports of what is running"
        if over >= run.spec.trials or run.limit_reached:
            measuring = ", measuring the front on the test split" if counts["completed"] else ""
            return f"elapsed {clock(self.elapsed)}{measuring}"
        done = over - self._over_before
        before = {use.limit: use.used for use in self._before}
        gained = {use.limit: use.used - before[use.limit] for use in run.uses}
        gained |= {"trials": done, "stagnation": done}
        left = first_end([Use("trials", over, run.spec.trials), *run.uses], gained, self.elapsed)
        return f"elapsed {clock(self.elapsed)}" + (f", about {clock(left.seconds)} left" if left else "")

    def _line(self, run: StudyRun) -> str:
        best = "; ".join(
            f"{best.band.name}: {best.verified_accuracy:.1%}"
            for best in best_by_band(_completed(run))
            if best.verified_accuracy is not None
        )
        return f"{_states(run)}, {self._time(run)}" + (f"; best verified at sparsity {best}" if best else "")

    def _table(self) -> Group | str:
        run = self._run
        if run is None:
            return ""
        table = Table(title=f"study {self._uri}", title_justify="left", box=SIMPLE_HEAD)
        table.add_column("sparsity")
        table.add_column("completed", justify="right")
        table.add_column("best verified", justify="right")
        for best in best_by_band(_completed(run)):
            shown = "-" if best.verified_accuracy is None else f"{best.verified_accuracy:.1%}"
            table.add_row(best.band.name, str(best.trials), shown)
        return Group(table, Text(_states(run)), Text(f"hypervolume {run.hypervolume:.3f}"), Text(self._time(run)))


def _counts(run: StudyRun) -> Counter[str]:
    # Copied first: the display has a thread of its own.
    return Counter(list(run.states.values()))


def _over(counts: Counter[str]) -> int:
    return sum(counts[state] for state in OVER)


def _states(run: StudyRun) -> str:
    counts = _counts(run)
    listed = ", ".join(f"{counts[state]} {state}" for state in ORDER if counts[state])
    return f"{_over(counts)}/{run.spec.trials} trials over" + (f" ({listed})" if listed else "")


def _completed(run: StudyRun) -> Floats:
    """Sparsity and verified accuracy ``(trials, 2)`` of every completed trial."""
    reports = [record for trial, record in list(run.reports.items()) if run.states[trial] == "completed"]
    values = [objective_values(record, ("sparsity", "verified_accuracy")) for record in reports]
    return np.array(values, dtype=float).reshape(-1, 2)


def clock(seconds: float) -> str:
    """Seconds as 45s, 3m20s or 2h05m."""
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02d}s"
    return f"{whole // 3600}h{whole % 3600 // 60:02d}m"
