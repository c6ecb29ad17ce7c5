"""Many trainings of a benchmark: each in a process of its own and one line of JSON, what is there is not run again."""

from __future__ import annotations

import json
import math
import statistics
import time
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from functools import cache
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Protocol

import torch
from machine import machine
from scipy import stats

from sparsevlr.spaces import StudySpec, TrialConfig, load_dataset
from sparsevlr.spaces.datasets import Dataset
from sparsevlr.trainables import Trial
from sparsevlr.trainables.errors import TrialError

FIGURES = Path(__file__).parents[1] / "docs" / "figures"
Line = dict[str, Any]
"""One training: its key, what it was, and what came out."""


class Training(Protocol):
    """What is planned; it must pickle."""

    @property
    def seed(self) -> int: ...

    @property
    def key(self) -> str: ...

    def line(self) -> Line: ...


def train_all(planned: Iterable[Training], file: Path, workers: int) -> None:
    """Run what is not in the file yet, seed by seed: whenever this is cut, all have been treated alike."""
    file.parent.mkdir(parents=True, exist_ok=True)
    (file.parent / "machine.json").write_text(json.dumps(machine(), indent=1) + "\n")
    done = lines_of(file)
    left = sorted((one for one in planned if one.key not in done), key=lambda one: one.seed)
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        for future in as_completed([pool.submit(one.line) for one in left]):
            line = future.result()
            with file.open("a") as lines:
                lines.write(json.dumps(line) + "\n")
            said = line.get("error") or f"{line['test']['verified_accuracy']:.1%} verified on test"
            print(line["key"], said, flush=True)


def lines_of(file: Path) -> dict[str, Line]:
    lines = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
    return {line["key"]: line for line in lines}


def in_process(spec: Mapping[str, Any], values: Mapping[str, Any], seed: int) -> Line:
    """One training on one thread of this process: what it costs and what comes out, or why it failed."""
    torch.set_num_threads(1)
    study = StudySpec.from_dict(dict(spec) | {"seed": seed})
    config = TrialConfig(trial_id="one", seed=seed, values=values)
    try:
        return {"seed": seed, **_trained(config, study, _data(str(study.data)))}
    except TrialError as error:
        return {"seed": seed, "error": str(error)}


@cache
def _data(name: str) -> Dataset:
    return load_dataset(name)


def _trained(config: TrialConfig, spec: StudySpec, data: Dataset) -> Line:
    started = time.process_time()
    trial = Trial(config, spec, data)
    while not trial.finished:
        validation = trial.advance()
    trained = time.process_time()
    test = trial.score_on_test()
    wall = validation.train_seconds or 0.0, validation.verify_seconds or 0.0
    keep = ("natural_accuracy", "adversarial_accuracy", "verified_accuracy", "samples", "unstable_relu_fraction")
    return {
        "measured_sparsity": validation.sparsity,
        "nonzero_weights": validation.nonzero_weights,
        "layer_densities": json.loads(getattr(validation, "layer_densities", None) or "{}"),
        "macs": validation.macs,
        "size_bytes": validation.size_bytes,
        # The machine may be busy with other work: processor seconds, divided as the wall time was.
        "train_processor_seconds": round((trained - started) * wall[0] / sum(wall), 2),
        "processor_seconds": round(trained - started, 2),
        "validation": {name: getattr(validation, name) for name in keep},
        "test": {name: getattr(test, name) for name in keep},
    }


def verified(line: Line, split: str) -> float:
    """Verified accuracy on a split; -1 where training failed."""
    return -1.0 if "error" in line else float(line[split]["verified_accuracy"])


def spread(values: Sequence[float]) -> str:
    """Mean and standard deviation of shares, in percent."""
    deviation = f" ± {100 * statistics.stdev(values):.1f}" if len(values) > 1 else ""
    return f"{100 * statistics.mean(values):.1f}{deviation}"


def interval(differences: Sequence[float]) -> str:
    """Mean of paired differences of shares and its 95 % interval by Student's t, in percent points."""
    if len(differences) < 2:
        return ""
    half = stats.t.ppf(0.975, len(differences) - 1) * statistics.stdev(differences) / math.sqrt(len(differences))
    return f"{100 * statistics.mean(differences):+.1f} ± {100 * half:.1f}"
