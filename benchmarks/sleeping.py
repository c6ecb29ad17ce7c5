"""A trial that sleeps in place of training, for benchmarks of everything else; free of torch, so that many fit."""

from __future__ import annotations

import json
import os
import time
from typing import Any

from ray import tune

CHECKPOINT_BYTES = 2**20


class SleepingTrial(tune.Trainable):
    """What `RayTrial` is to the driver: one report a rung, each with a checkpoint of 1 MB in the study.

    The environment variable SLEEP_SECONDS says how long a whole trial takes. Its reports are below their target
    sparsity, so that no trial is ever stopped.
    """

    def setup(
        self, config: dict[str, Any], *, spec: dict[str, Any], data: object, study: Any, allow_code: bool
    ) -> None:
        self._study, self._epochs = study, _rungs(spec)
        self._seconds = float(os.environ["SLEEP_SECONDS"]) / len(self._epochs)
        self._weights = os.urandom(CHECKPOINT_BYTES)
        self.reset_config(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        trial = json.loads(new_config["trial"])
        self._trial, self._target, self._rung = trial["trial_id"], trial["values"]["sparsity"], 0
        return True

    def step(self) -> dict[str, Any]:
        time.sleep(self._seconds)
        path = f"checkpoints/{self._trial}/rung-{self._rung}"
        self._study.replace(f"{path}/weights.safetensors", self._weights)
        self._study.replace(f"{path}/state.json", b"{}")
        record = {
            "event": "report",
            "trial_id": self._trial,
            "split": "validation",
            "rung": self._rung,
            "epoch": self._epochs[self._rung],
            "sparsity": 0.0,
            "target_sparsity": self._target,
            "total_weights": 1000,
            "verified_accuracy": 0.5,
            "verified_ramp": 0.5,
            "train_seconds": self._seconds * (self._rung + 1),
            "verify_seconds": 0.0,
            "checkpoint": path,
            "time": time.time(),
        }
        self._rung += 1
        return {"record": json.dumps(record)}


def _rungs(spec: dict[str, Any]) -> list[int]:
    """Epochs of the reports: the study's `scheduler` with its `first_rung` and `eta`, and the end."""
    scheduler, epochs = spec["scheduler"], spec["epochs"]
    rungs, epoch = [], scheduler["first_rung"]
    while epoch < epochs:
        rungs.append(epoch)
        epoch *= scheduler["eta"]
    return [*rungs, epochs]
