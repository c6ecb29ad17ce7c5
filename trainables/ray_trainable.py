"""The thin Ray Trainable around a trial."""

from __future__ import annotations

import asyncio
import contextlib
import json
import traceback
from pathlib import Path
from typing import Any

import ray
import torch
from ray import tune
from ray.actor import ActorHandle
from ray.exceptions import RayActorError

from ..results import Record, StorageError
from ..results.location import Location
from ..results.paths import STATE
from ..spaces import StudySpec, TrialConfig
from ..spaces.datasets import Dataset
from .errors import TrialError
from .trial import Trial

POINTER = "checkpoint.json"


class Gate:
    """An actor that holds the first workers of a study back until all of them are up.

    A worker takes seconds to start. Ray gives a trial that waits for one to the next worker that falls idle, and ends
    the one that was starting: with short trials the first worker so takes all, and nothing ever runs side by side.

    Args:
        workers: how many to wait for.
        timeout: seconds after which the first ones go on without the others.
    """

    def __init__(self, workers: int, timeout: float) -> None:
        self._missing, self._timeout = workers, timeout
        self._open = asyncio.Event()

    async def arrive(self) -> None:
        """Returns once all have arrived, or after the timeout; from then on at once."""
        self._missing -= 1
        if self._missing <= 0:
            self._open.set()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._open.wait(), self._timeout)
        self._open.set()


class RayTrial(tune.Trainable):
    """One step is one rung; the result is the rung's record as JSON.

    A trial that fails reports its error as a result, so that the worker lives on for the next trial; where the study's
    storage fails, the result says so instead of a record. Ray's checkpoint
    is only a pointer to the study's own; its folder is disposable.
    """

    _trial: Trial | None
    _checkpoint: str | None

    def setup(
        self,
        config: dict[str, Any],
        *,
        spec: dict[str, Any],
        data: Dataset,
        study: Location,
        allow_code: bool,
        gate: ActorHandle,
    ) -> None:
        self._spec, self._data, self._allow_code = StudySpec.from_dict(spec), data, allow_code
        self._location = study
        self._begin(config)
        # A gate whose process has died stands open: every later trial would fail for want of it.
        with contextlib.suppress(RayActorError):
            ray.get(gate.arrive.remote())

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self._begin(new_config)
        return True

    def step(self) -> dict[str, Any]:
        try:
            if self._trial is None:
                self._trial = self._build()
            record = self._trial.advance()
        except StorageError as error:
            # Not this trial's fault: every other one would meet it too, so the driver ends the study.
            self._trial = None
            return {"storage_error": str(error)}
        except Exception as error:
            # Whatever ends a trial is recorded and ends that trial only. The network goes with it: its memory may be
            # what the next trial on this worker needs.
            self._trial = None
            record = failed_record(self._config.trial_id, error)
        self._checkpoint = record.checkpoint
        return {"record": json.dumps(record.to_dict())}

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        (Path(checkpoint_dir) / POINTER).write_text(json.dumps({"path": self._checkpoint}))

    def load_checkpoint(self, checkpoint: str | dict[str, Any] | None) -> None:
        assert isinstance(checkpoint, str)
        self._checkpoint = json.loads((Path(checkpoint) / POINTER).read_text())["path"]

    def _begin(self, config: dict[str, Any]) -> None:
        settle_torch(self._spec)
        self._config = TrialConfig.from_json(config["trial"])
        self._trial = None
        self._checkpoint = config["checkpoint"]

    def _build(self) -> Trial:
        trial = Trial(self._config, self._spec, self._data, location=self._location, allow_code=self._allow_code)
        if self._checkpoint is not None:
            trial.restore(standing_checkpoint(self._location, self._checkpoint))
        return trial


def settle_torch(spec: StudySpec) -> None:
    """Give a trial the torch that a fresh process has, whatever the trial before it on this worker has left behind.

    Code of the user's own may change any of this, and a trial that fails has no chance to put it back. Random numbers
    are not among it: a trial draws none from torch's global generator.
    """
    # One thread a trial: trials run side by side, and the same configuration gives the same bits.
    torch.set_num_threads(max(1, int(spec.resources.cpus_per_trial)))
    torch.use_deterministic_algorithms(True)
    torch.set_default_dtype(torch.float32)
    torch.set_grad_enabled(True)


def standing_checkpoint(location: Location, path: str) -> str:
    """`path`, or the newest checkpoint of the same trial where that one has been removed.

    The driver removes a checkpoint when the report of the next one has arrived, which may be before Ray has learnt of
    the next one: a worker that dies in between is restored by the older pointer.
    """
    if location.has(f"{path}/{STATE}"):
        return path
    folder = path.rpartition("/")[0]
    rungs = [name for name in location.folders(folder) if location.has(f"{folder}/{name}/{STATE}")]
    return f"{folder}/{max(rungs, key=lambda name: int(name.rpartition('-')[2]))}" if rungs else path


def failed_record(trial_id: str, error: Exception) -> Record:
    """What the study records of a trial that `error` has ended: one line, with the place for anything unforeseen."""
    line = " ".join(f"{type(error).__name__}: {error}".split())
    if not isinstance(error, TrialError | ValueError | MemoryError | torch.OutOfMemoryError):
        frame = traceback.extract_tb(error.__traceback__)[-1]
        line += f" ({Path(frame.filename).name}:{frame.lineno} in {frame.name})"
    return Record(event="failed", trial_id=trial_id, error=line)
