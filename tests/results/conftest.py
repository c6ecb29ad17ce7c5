"""Builders of small studies."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sparsevlr.results import Record, Store
from sparsevlr.results.record import canonical_json

SPEC = {"name": "small", "objectives": ["sparsity", "verified_accuracy"]}


def report(trial_id: str, rung: int = 0, split: str = "validation", **values: Any) -> Record:
    return Record(event="report", trial_id=trial_id, rung=rung, split=split, **values)


def trial(trial_id: str, sparsity: float, verified: float, state: str = "completed", **values: Any) -> list[Record]:
    """A trial's whole life: proposed, one report, one decision."""
    config = canonical_json({"score": "magnitude", "sparsity": sparsity if math.isfinite(sparsity) else 0.0})
    decision = {"completed": "complete", "stopped": "stop", "paused": "pause"}[state]
    return [
        Record(event="proposed", trial_id=trial_id, config=config, fingerprint="f" + trial_id, seed=0),
        report(trial_id, sparsity=sparsity, verified_accuracy=verified, samples=100, **values),
        Record(event="decision", trial_id=trial_id, rung=0, decision=decision, state=state),
    ]


@pytest.fixture
def make_report() -> Callable[..., Record]:
    return report


@pytest.fixture
def make_trial() -> Callable[..., list[Record]]:
    return trial


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.create(tmp_path / "studies" / "small", SPEC)
