"""Ray's callbacks that the study's record needs beside the scheduler's."""

from __future__ import annotations

from typing import Any

from ray.tune import Callback
from ray.tune.experiment import Trial as RayTrial

from ..spaces import TrialConfig
from .recorder import Recorder


class StartRecorder(Callback):
    """Records that a trial has begun to run: until its first report nothing else would tell."""

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder

    def on_trial_start(self, iteration: int, trials: list[RayTrial], trial: RayTrial, **info: Any) -> None:
        self._recorder.started(TrialConfig.from_json(trial.config["trial"]).trial_id)
