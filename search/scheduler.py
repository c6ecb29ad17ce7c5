"""Ray's view of early stopping, and the one place where reports become durable before they are acted on."""

from __future__ import annotations

import json
from typing import Any

from ray.tune.experiment import Trial as RayTrial
from ray.tune.schedulers import FIFOScheduler, TrialScheduler

from ..results import Record
from ..spaces import StudySpec, TrialConfig
from .asha import ParetoASHA
from .recorder import Recorder
from .scores import at_target, rung_values


class StudyScheduler(FIFOScheduler):
    """Records each report, then decides whether the trial goes on.

    Ray calls the scheduler before all callbacks, hence the recording here.

    Args:
        spec: the study.
        recorder: its store.
    """

    def __init__(self, spec: StudySpec, recorder: Recorder) -> None:
        super().__init__()
        self._spec, self._recorder = spec, recorder
        stops = spec.scheduler.kind == "stopping"
        self._asha = ParetoASHA(len(spec.rungs), spec.scheduler.eta) if stops else None

    def on_trial_result(self, tune_controller: Any, trial: RayTrial, result: dict[str, Any]) -> str:
        record = Record(**json.loads(result["record"]))
        if record.event == "failed":
            self._recorder.failed(record.trial_id, record.error or "no reason given")
            return str(TrialScheduler.STOP)
        self._recorder.reported(record)
        decision = self._decide(record)
        self._recorder.decided(record.trial_id, decision)
        return str(TrialScheduler.CONTINUE if decision == "continue" else TrialScheduler.STOP)

    def on_trial_error(self, tune_controller: Any, trial: RayTrial) -> None:
        """The worker died more often than is forgiven; errors of the trial itself arrive as results."""
        config = TrialConfig.from_json(trial.config["trial"])
        self._recorder.failed(config.trial_id, "the worker process died repeatedly: it was killed or ran out of memory")

    def _decide(self, record: Record) -> str:
        assert record.rung is not None
        if record.rung == len(self._spec.rungs) - 1:
            return "complete"
        if self._asha is None or not at_target(record):
            return "continue"
        goes_on = self._asha.goes_on(record.trial_id, record.rung, rung_values(record, self._spec.objectives))
        return "continue" if goes_on else "stop"
