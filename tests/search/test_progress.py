"""What a person is told while a study runs."""

import io

from rich.console import Console

from sparsevlr.search.progress import Progress
from sparsevlr.search.study_run import StudyRun

from .test_study_run import Memory, measured, tiny


def test_it_says_what_is_waited_for_once_a_limit_is_reached() -> None:
    spec = tiny(limits={"compute_seconds": 1.0})
    run, text = StudyRun(spec, Memory()), io.StringIO()
    console = Console(file=text, width=300)
    with Progress("here", console) as progress:
        progress(run)
        first, second = (run.next_trial() for _ in range(2))
        assert first is not None
        assert second is not None
        for trial in (first, second):
            run.started(trial.config.trial_id)
        run.reported(measured(first.config, 0, spec))
        assert run.limit_reached
        assert "waiting for reports of what is running" in progress._line(run)
        run.reported(measured(second.config, 0, spec))
        # Nothing is complete, so there is no front to measure.
        assert "waiting" not in progress._line(run)
        assert "measuring" not in progress._line(run)


def test_a_study_without_a_rung_before_its_end_is_told_to_stop_nothing() -> None:
    for first_rung, told in ((1, False), (4, True)):
        spec = tiny(scheduler={"kind": "stopping", "eta": 2, "first_rung": first_rung})
        text = io.StringIO()
        with Progress("here", Console(file=text, width=300)) as progress:
            progress(StudyRun(spec, Memory()))
        assert ("no rung before the last epoch" in text.getvalue()) == told
