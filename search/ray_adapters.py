"""Ray's three views of a study in progress: searcher, scheduler and callback, each a thin shell around `StudyRun`."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ray.tune import Callback
from ray.tune.experiment import Trial as RayTrial
from ray.tune.schedulers import FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher

from ..results import Record, StorageError
from ..spaces import TrialConfig
from .cluster import last_line
from .study_run import StudyRun


class StudySearcher(Searcher):
    """Hands out the study's trials, never more at once than there are slots to run them.

    What Ray calls a trial is here one stretch of a trial: until it pauses, stops or ends. A promoted trial is handed
    out again with its checkpoint, as one that was interrupted is. So nothing ever is paused for Ray, whose limiters
    count paused trials and can lock up, and a paused trial holds no resources.

    Ray asks ahead of demand; a proposal made early would know less than it could, and with one worker the same seed
    would not give the same study.

    Args:
        run: the study.
        slots: how many trials fit at once, which changes as nodes come and go.
    """

    def __init__(self, run: StudyRun, slots: Callable[[], int]) -> None:
        super().__init__(metric=None, mode=None)
        self._run, self._slots = run, slots
        self._live: set[str] = set()

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        # There may be no slot at all, when nodes have gone: at a limit the study ends nevertheless.
        at_end = self._run.limit_reached is not None and not self._live
        if len(self._live) >= self._slots() and not at_end:
            return None
        assignment = self._run.next_trial()
        if assignment is None:
            return str(Searcher.FINISHED) if self._run.finished or at_end else None
        self._live.add(trial_id)
        return {"trial": assignment.config.to_json(), "checkpoint": assignment.checkpoint}

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        self._live.discard(trial_id)

    def save(self, checkpoint_path: str) -> None:
        """Nothing: the store is the memory of a study."""

    def restore(self, checkpoint_path: str) -> None:
        raise NotImplementedError("a study is resumed from its store, not from Ray's experiment state")


class StudyScheduler(FIFOScheduler):
    """Passes each report on, and does as it is told. Ray calls the scheduler before all callbacks.

    A worker that falls idle goes to the trial that has waited least. A worker takes seconds to start, and Ray ends one
    that is starting when its trial is given to another worker: with short trials, or many, the first workers so would
    take all there is, and those on a node that has joined would never come up.
    """

    def __init__(self, run: StudyRun) -> None:
        super().__init__()
        self._run = run
        self._waiting: list[RayTrial] = []

    def on_trial_add(self, tune_controller: Any, trial: RayTrial) -> None:
        # Once more where its worker has died.
        if trial not in self._waiting:
            self._waiting.append(trial)

    def choose_trial_to_run(self, tune_controller: Any) -> RayTrial | None:
        self._waiting = [trial for trial in self._waiting if trial.status == RayTrial.PENDING]
        ended = self._run.limit_reached is not None
        # Those whose worker died and that are not to have another one; at a limit, all that no node has taken yet.
        for trial in [trial for trial in self._waiting if ended or self._run.is_over(_trial_id(trial))]:
            self._waiting.remove(trial)
            tune_controller.stop_trial(trial)
            self._run.hand_back(_trial_id(trial))
        return self._waiting[-1] if self._waiting else None

    def on_trial_result(self, tune_controller: Any, trial: RayTrial, result: dict[str, Any]) -> str:
        if "left" in result:
            self._run.left(_trial_id(trial))
            return str(TrialScheduler.CONTINUE)
        if "storage_error" in result:
            self._run.break_off(StorageError(result["storage_error"]))
        record = Record(**json.loads(result["record"]))
        if record.event == "failed":
            self._run.failed(record.trial_id, record.error or "no reason given")
            return str(TrialScheduler.STOP)
        decision = self._run.reported(record)
        # What the trial goes on from, should it lose its worker.
        trial.config["checkpoint"] = self._run.reports[record.trial_id].checkpoint
        return str(TrialScheduler.CONTINUE if decision == "continue" else TrialScheduler.STOP)


class StudyCallback(Callback):
    """Passes on that a trial has begun to run, and that its worker died, with the reason that Ray gives."""

    def __init__(self, run: StudyRun) -> None:
        self._run = run
        # Ray tells the death of a worker that was just given a trial twice: first as one to recover from.
        self._recovering: set[str] = set()

    def on_trial_start(self, iteration: int, trials: list[RayTrial], trial: RayTrial, **info: Any) -> None:
        self._recovering.discard(trial.trial_id)
        self._run.started(_trial_id(trial))

    def on_trial_recover(self, iteration: int, trials: list[RayTrial], trial: RayTrial, **info: Any) -> None:
        self._recovering.add(trial.trial_id)
        self._run.worker_died(_trial_id(trial), _reason(trial))

    def on_trial_error(self, iteration: int, trials: list[RayTrial], trial: RayTrial, **info: Any) -> None:
        """The worker died when it was just given the trial: this Ray gives up on."""
        if trial.trial_id not in self._recovering:
            self._run.worker_died(_trial_id(trial), _reason(trial))
        self._run.hand_back(_trial_id(trial))


def _reason(trial: RayTrial) -> str:
    return last_line(Path(trial.error_file).read_text()) if trial.error_file else "no reason given"


def _trial_id(trial: RayTrial) -> str:
    return TrialConfig.from_json(trial.config["trial"]).trial_id
