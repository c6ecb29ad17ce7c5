"""Training trials of a study again with fresh seeds, on Ray."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pyarrow as pa
import ray
from ray.exceptions import RayError

from ..results import Record, open_study
from ..results.confirmations import read_confirmations, save_confirmation
from ..results.location import Location
from ..spaces import SpecError, StudySpec, TrialConfig
from ..spaces.datasets import Dataset
from ..trainables import Trial
from ..trainables.ray_trainable import failed_record, settle_torch
from ..trainables.seeds import derived_seed
from .cluster import as_trials_run, check_resources, cluster, terminable
from .engine import checked_data

Progress = Callable[[int, int, Sequence[Record]], None]
"""Called after each training: how many are done, of how many, and its records."""


def confirm(
    uri: str,
    trial_ids: Sequence[str] | None = None,
    *,
    seeds: int = 3,
    address: str | None = None,
    ship: bool = True,
    data_dir: str | None = None,
    allow_code: bool = False,
    observe: Progress = lambda done, planned, records: None,
) -> pa.Table:
    """Train completed trials again, each with so many fresh seeds, and put what they come to beside what was searched.

    A fresh seed drives everything random: initialisation, data order, pruning and attacks, in the dense stage too. A
    parent's mask stays the parent's. Nothing of it enters the search. Each outcome is kept in the study as it comes:
    what is there already is not trained again, but for what has failed.

    Args:
        uri: the study.
        trial_ids: of completed trials; by default the front's.
        seeds: how many for each trial, at least 1.
        address, ship, data_dir, allow_code: as for `search`.
        observe: for a display.

    Returns:
        one row per trial, with `results.confirmations.SCHEMA`.

    Raises:
        SpecError: `seeds` is below 1, or the study's data is not here.
        StudyError: a trial does not exist or is not completed, or the study's storage fails.
    """
    if seeds < 1:
        raise SpecError(f"seeds must be at least 1, got {seeds}")
    study = open_study(uri)
    rows, location = study.to_confirm(trial_ids), study.store.location
    spec = StudySpec.from_dict(study.spec)
    there = {
        row["trial_id"]: {
            number
            for number, records in read_confirmations(location, row["trial_id"]).items()
            if records[0].event != "failed"
        }
        for row in rows
    }
    # Seed by seed: whenever this is cut, all trials have been treated alike.
    planned = [(row, number) for number in range(seeds) for row in rows if number not in there[row["trial_id"]]]
    if planned:
        data = checked_data(spec, data_dir, allow_code)
        check_resources(spec, address)
        reached = cluster(spec, location, address, allow_code=allow_code, ship=ship)
        with terminable(), reached, terminable():
            _run(spec, planned, ray.put(data), location, allow_code, observe)
    return study.confirmations(trial_ids)


def _run(
    spec: StudySpec,
    planned: Sequence[tuple[dict[str, Any], int]],
    data: Any,
    location: Location,
    allow_code: bool,
    observe: Progress,
) -> None:
    train = as_trials_run(spec, trained_again)
    tasks = {
        train.remote(spec.to_dict(), row, number, data, location, allow_code): (row["trial_id"], number)
        for row, number in planned
    }
    waiting = list(tasks)
    while waiting:
        done, waiting = ray.wait(waiting)
        trial_id, number = tasks[done[0]]
        try:
            records = ray.get(done[0])
        except RayError as error:
            records = [failed_record(trial_id, error)]
        save_confirmation(location, number, records)
        observe(len(planned) - len(waiting), len(planned), records)


def trained_again(
    spec: dict[str, Any], row: dict[str, Any], number: int, data: Dataset, location: Location, allow_code: bool
) -> list[Record]:
    """The last records on validation and test of a trial with another seed, or one that says how it failed."""
    study, trial_id = StudySpec.from_dict(spec), row["trial_id"]
    settle_torch(study)
    seed = derived_seed(study.seed, "confirm", trial_id, number)
    config = TrialConfig(trial_id=trial_id, seed=seed, values=json.loads(row["config"]))
    try:
        # The study's seed is that of dense stages.
        trial = Trial(config, study.model_copy(update={"seed": seed}), data, parents=location, allow_code=allow_code)
        while not trial.finished:
            validation = trial.advance()
        return [validation, replace(trial.score_on_test(), checkpoint=None)]
    except Exception as error:
        return [failed_record(trial_id, error)]
