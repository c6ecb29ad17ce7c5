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
}
"""In a study of 4 epochs; the first and the fourth have no dense stage."""

WITH_STAGE = tuple(name for name in SCHEDULES if name not in ("one-shot at 0", "gradual"))


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
