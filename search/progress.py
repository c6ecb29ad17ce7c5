"""What a person sees while a study runs: a live table on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections import Counter
from types import TracebackType

import numpy as np
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from ..results.pareto import hypervolume, orient
from ..results.record import DIRECTIONS
from ..spaces import StudySpec
from .bands import best_by_band
from .recorder import Recorder
from .scores import objective_values

ORDER = ("pending", "running", "paused", "completed", "stopped", "failed")
OVER = ("completed", "stopped", "failed")
SECONDS_BETWEEN_LINES = 10.0


class Progress:
    """Follows a study by the recorder's events; a context manager around `search`.

    Args:
        spec: the study.
        uri: where it lives.
        console: where to show it; standard error, so that standard output stays for results.
    """

    def __init__(self, spec: StudySpec, uri: str, console: Console) -> None:
        self._spec, self._uri, self._console = spec, uri, console
        self._recorder: Recorder | None = None
        self._started = time.monotonic()
        self._last_line = 0.0
        self._live = Live(get_renderable=self._table, console=console, refresh_per_second=2, transient=True)

    def __enter__(self) -> Progress:
        return self

    def begin(self) -> None:
        """Everything is checked: from here on there is something to follow."""
        self._console.print(
            f"searching {self._spec.data}: {self._spec.trials} trials of up to {self._spec.epochs} epochs, "
            f"epsilon {self._spec.epsilon:g}, seed {self._spec.seed} -> {self._uri}"
        )
        if self._console.is_terminal:
            self._live.start()

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._live.is_started:
            self._live.stop()
        elif self._recorder is not None:
            self._console.print(self._line())

    def __call__(self, recorder: Recorder) -> None:
        """Called after each event."""
        self._recorder = recorder
        if not self._console.is_terminal and time.monotonic() - self._last_line >= SECONDS_BETWEEN_LINES:
            self._last_line = time.monotonic()
            self._console.print(self._line())

    @property
    def elapsed(self) -> float:
        """Seconds since the study began."""
        return time.monotonic() - self._started

    def _counts(self) -> Counter[str]:
        return Counter(self._recorder.states.values() if self._recorder else ())

    def _completed(self) -> list[list[float]]:
        if self._recorder is None:
            return []
        return [
            objective_values(record, ("sparsity", "verified_accuracy", *self._spec.objectives))
            for trial_id, record in list(self._recorder.reports.items())
            if self._recorder.states[trial_id] == "completed"
        ]

    def _hypervolume(self, completed: list[list[float]]) -> float:
        if not completed:
            return 0.0
        directions = [DIRECTIONS[name] for name in self._spec.objectives]
        values = orient([row[2:] for row in completed], directions)
        # As in `Study.hypervolume`: 0 for what is maximised, the worst value seen for what is minimised.
        reference = np.where(np.array(directions) == "max", 0.0, values.min(axis=0))
        return hypervolume(values, reference)

    def _time(self) -> str:
        counts = self._counts()
        elapsed = self.elapsed
        over = sum(counts[state] for state in OVER)
        if not over:
            return f"elapsed {clock(elapsed)}"
        return f"elapsed {clock(elapsed)}, about {clock(elapsed / over * (self._spec.trials - over))} left"

    def _states(self) -> str:
        counts = self._counts()
        over = sum(counts[state] for state in OVER)
        listed = ", ".join(f"{counts[state]} {state}" for state in ORDER if counts[state])
        return f"{over}/{self._spec.trials} trials over" + (f" ({listed})" if listed else "")

    def _line(self) -> str:
        completed = self._completed()
        best = "; ".join(
            f"{best.band.name}: {best.verified_accuracy:.1%}"
            for best in best_by_band((row[0], row[1]) for row in completed)
            if best.verified_accuracy is not None
        )
        return f"{self._states()}, {self._time()}" + (f"; best verified at sparsity {best}" if best else "")

    def _table(self) -> Group:
        completed = self._completed()
        table = Table(title=f"study {self._spec.name}", title_justify="left")
        table.add_column("sparsity")
        table.add_column("completed", justify="right")
        table.add_column("best verified", justify="right")
        for best in best_by_band((row[0], row[1]) for row in completed):
            shown = "-" if best.verified_accuracy is None else f"{best.verified_accuracy:.1%}"
            table.add_row(best.band.name, str(best.trials), shown)
        lines = [self._states(), f"hypervolume {self._hypervolume(completed):.3f}", self._time()]
        return Group(table, *map(Text, lines))


def clock(seconds: float) -> str:
    """Seconds as 45s, 3m20s or 2h05m."""
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02d}s"
    return f"{whole // 3600}h{whole % 3600 // 60:02d}m"
