"""Small trials for tests, and what must be equal about two of them."""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from sparsevlr.results import Record
from sparsevlr.results.location import Location, locate
from sparsevlr.spaces import TrialConfig

TIMES = ("time", "train_seconds", "verify_seconds", "shared_seconds")

SCHEDULES: dict[str, dict[str, object]] = {
    "one-shot at 0": {"schedule": "one-shot", "schedule.at": 0.0},
    "one-shot within an epoch": {"schedule": "one-shot", "schedule.at": 0.6},
    "one-shot between epochs": {"schedule": "one-shot", "schedule.at": 0.5},
    "gradual": {"schedule": "gradual", "schedule.end": 0.5},
    "gradual after a dense stage": {"schedule": "gradual", "schedule.start": 0.25, "schedule.end": 0.75},
    "dense": {"schedule": "gradual", "sparsity": 0.0},
    "at-init": {"schedule": "at-init", "initialisation": "ibp", "initialisation.masked_fan_in": True},
    "drop-and-grow": {"schedule": "drop-and-grow", "schedule.end": 0.75, "schedule.updates": 9},
    "drop-and-grow at random": {
        "schedule": "drop-and-grow",
        "schedule.updates": 10,
        "schedule.end": 1.0,
        "schedule.grow": "random",
        "distribution": "global",
        "score": "random",
    },
    "drop-and-grow from a denser network": {
        "schedule": "drop-and-grow",
        "schedule.initial": 0.6,
        "schedule.updates": 5,
        "schedule.end": 0.8,
        "distribution": "lamp",
    },
    "drop-and-grow of filters": {
        "schedule": "drop-and-grow",
        "schedule.updates": 8,
        "schedule.end": 0.8,
        "distribution": "global",
        "pattern": "filter",
        "sparsity": 0.8,
    },
    "iterative": {"schedule": "iterative", "schedule.rounds": 3},
    "iterative by whole epochs": {"schedule": "iterative", "schedule.rounds": 4, "schedule.rewind_to": 0.5},
    "hydra": {"schedule": "one-shot", "schedule.at": 0.2, "score": "hydra", "score.span": 0.5},
    "hydra between epochs": {"schedule": "one-shot", "schedule.at": 0.25, "score": "hydra", "score.span": 0.25},
    "regularised": {"schedule": "gradual", "regulariser": "nrs"},
}
"""In a study of 4 epochs."""

WITH_STAGE = (
    "one-shot within an epoch",
    "one-shot between epochs",
    "gradual after a dense stage",
    "dense",
    "iterative",
    "iterative by whole epochs",
    "hydra between epochs",
)
RESTARTED = ("iterative", "iterative by whole epochs")
"""Schedules with a ramp of their own."""


def config(schedule: str = "gradual", *, seed: int = 11, trial_id: str = "00007", **changes: object) -> TrialConfig:
    values = {
        "architecture": "mlp",
        "architecture.hidden": [24, 24],
        "sparsity": 0.9,
        "score": "magnitude",
        "distribution": "global",
        "loss": "ibp",
        "optimizer": "adam",
        "optimizer.learning_rate": 0.005,
    }
    return TrialConfig(trial_id=trial_id, seed=seed, values=values | SCHEDULES[schedule] | changes)


def changed(one: TrialConfig, values: Mapping[str, object]) -> TrialConfig:
    return replace(one, values=dict(one.values) | dict(values))


def timeless(record: Record | Mapping[str, Any]) -> dict[str, object]:
    columns = record.to_dict() if isinstance(record, Record) else record
    return {name: value for name, value in columns.items() if name not in (*TIMES, "checkpoint")}


def study(path: Path) -> Location:
    (path / "checkpoints").mkdir(parents=True)
    return locate(path)


def bits(location: Location, path: str | None) -> dict[str, str]:
    """Digests of a checkpoint's weights, mask and optimizer."""
    digests: dict[str, str] = json.loads(location.read(f"{path}/state.json"))["sha256"]
    return digests
