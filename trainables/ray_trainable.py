"""The thin Ray Trainable around a trial."""

from __future__ import annotations

import contextlib
import faulthandler
import json
import signal
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from ray import tune
from ray.actor import exit_actor

from ..results import Record, StorageError
from ..results.location import Location
from ..results.paths import STUDY_FILE
from ..spaces import StudySpec, TrialConfig
from ..spaces.datasets import Dataset
from .errors import CheckpointError, Left, TrialError
from .trial import Trial

GRACE_SECONDS = 60.0
"""How long what is overdue may stay in code that cannot be interrupted."""


class Overdue(BaseException):
    """Something took longer than it may. No `Exception`: a verifier that fails by one is outlived, as unknown."""


class RayTrial(tune.Trainable):
    """One step is one rung; the result is the rung's record as JSON.

    A trial that fails reports its error as a result, so that the worker lives on for the next trial; where the study's
    storage fails, the result says so instead of a record. Ray's checkpoints are not used, since they need storage of
    their own that all nodes share: a configuration names the study's checkpoint to go on from.

    On SIGTERM the worker saves its trial after the epoch that it is in, says so, and ends.
    """

    _trial: Trial | None
    _stepping = _leaving = _said = False

    def setup(
        self,
        config: dict[str, Any],
        *,
        spec: dict[str, Any],
        data: Dataset,
        study: Location,
        allow_code: bool,
    ) -> None:
        self._spec, self._data, self._allow_code = StudySpec.from_dict(spec), data, allow_code
        self._location = study
        signal.signal(signal.SIGTERM, self._told_to_end)
        self._begin(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self._begin(new_config)
        return True

    def step(self) -> dict[str, Any]:
        if self._leaving:
            return self._leave()
        self._stepping = True
        try:
            with time_limit(self._spec.limits.rung_seconds):
                if self._trial is None:
                    self._trial = self._build()
                record = self._trial.advance(lambda: self._leaving)
        except Left:
            return self._leave()
        except StorageError as error:
            self._end_unless_seen()
            # Not this trial's fault: every other one would meet it too, so the driver ends the study.
            self._trial = None
            return {"storage_error": str(error)}
        except Exception as error:
            if isinstance(error, CheckpointError):
                self._end_unless_seen()
            # Whatever ends a trial is recorded and ends that trial only. The network goes with it: its memory may be
            # what the next trial on this worker needs.
            self._trial = None
            record = failed_record(self._config.trial_id, error)
        finally:
            self._stepping = False
        return {"record": json.dumps(record.to_dict())}

    def _told_to_end(self, number: int, frame: object) -> None:
        self._leaving = True
        if not self._stepping:
            exit_actor()

    def _leave(self) -> dict[str, Any]:
        """Say so, that it is not held against the trial; when that has been heard, end."""
        if self._said:
            exit_actor()
        self._said = True
        return {"left": True}

    def _end_unless_seen(self) -> None:
        """A node that joined without the study's storage is no place for trials: they go on elsewhere."""
        with contextlib.suppress(OSError):
            if not sees(self._location):
                exit_actor()

    def _begin(self, config: dict[str, Any]) -> None:
        settle_torch(self._spec)
        self._config = TrialConfig.from_json(config["trial"])
        self._trial, self._checkpoint = None, config["checkpoint"]

    def _build(self) -> Trial:
        trial = Trial(self._config, self._spec, self._data, location=self._location, allow_code=self._allow_code)
        if self._checkpoint is not None:
            trial.restore(self._checkpoint)
        trial.restore_left()
        return trial


def sees(location: Location) -> bool:
    """Whether the study at `location` is to be seen from this process, which can import all that a trial needs."""
    return location.has(STUDY_FILE)


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


@contextmanager
def time_limit(seconds: float | None) -> Iterator[None]:
    """End this process where what is within takes longer, whatever it is stuck in, and say on stderr where that was."""
    if seconds is not None:
        faulthandler.dump_traceback_later(seconds, exit=True)
    try:
        yield
    finally:
        if seconds is not None:
            faulthandler.cancel_dump_traceback_later()


@contextmanager
def in_time(seconds: float | None) -> Iterator[None]:
    """Interrupt what is within where it takes longer; where that is of no avail, end this process. Main thread only.

    Raises:
        Overdue: it took longer.
    """
    if seconds is None:
        yield
        return

    def interrupt(number: int, frame: object) -> None:
        raise Overdue

    before = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        with time_limit(seconds + GRACE_SECONDS):
            yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def failed_record(trial_id: str, error: Exception) -> Record:
    """What the study records of a trial that `error` has ended: one line, with the place for anything unforeseen."""
    line = " ".join(f"{type(error).__name__}: {error}".split())
    if not isinstance(error, TrialError | ValueError | MemoryError | torch.OutOfMemoryError):
        frame = traceback.extract_tb(error.__traceback__)[-1]
        line += f" ({Path(frame.filename).name}:{frame.lineno} in {frame.name})"
    return Record(event="failed", trial_id=trial_id, error=line)
