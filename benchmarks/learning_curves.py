"""Learning curves of 200 random configurations and the starting points of a preset, recorded once and replayed often.

    python benchmarks/learning_curves.py digits --workers 2      # resumable; about 20 minutes on two cores
    python benchmarks/learning_curves.py mnist-5k --workers 2    # about an hour
    python benchmarks/learning_curves.py digits-sabr             # half an hour of one core; digits-mtl-ibp too

`digits-sabr` and `digits-mtl-ibp` are the preset with that loss in place of IBP, its options searched, and rungs scored
by intervals and CROWN-IBP; half as many configurations. A file that is there is completed with the study it began with.
Every configuration is trained to the end and scored along the way on the validation split, as a study scores it at a
rung; at the end by the whole cascade, on both splits. Each is one line of `results/learning_curves/PRESET.jsonl`; those
that diverge are lines as well. Seconds are processor time of one thread.
"""

from __future__ import annotations

import argparse
import json
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
from machine import machine

from sparsevlr.spaces import StudySpec, TrialConfig, load_dataset, load_spec
from sparsevlr.spaces.datasets import Dataset, Split
from sparsevlr.trainables.accounting import network_cost
from sparsevlr.trainables.dense_stage import DenseStage
from sparsevlr.trainables.errors import TrialError
from sparsevlr.trainables.methods import Methods
from sparsevlr.trainables.seeds import derived_seed
from sparsevlr.trainables.training import Training
from sparsevlr.trainables.trial import cascade_options, fixed_subset
from sparsevlr.trainables.verification import CascadeOptions, Verdict, verified_over_grid, verify

RAW = Path(__file__).parent / "results" / "learning_curves"
RANDOM_CONFIGURATIONS = 200
DENSE_REPEATS = 4
EPOCHS = (1, 2, 4, 6, 8, 12, 16, 20, 30)
PLAIN = ("digits", "mnist-5k")
ATTACK = {"loss.attack_steps": 4, "loss.attack_step_size": 0.5}
LOSSES: dict[str, dict[str, Any]] = {
    "digits-sabr": {"loss": "sabr", "loss.subselection": {"low": 0.1, "high": 0.9}, **ATTACK},
    "digits-mtl-ibp": {"loss": "mtl-ibp", "loss.alpha": {"low": 1e-3, "high": 0.5, "scale": "log"}, **ATTACK},
}


def study(name: str) -> StudySpec:
    """A preset, or `digits` with another loss."""
    if name in PLAIN:
        return load_spec(name)
    plain = load_spec("digits").to_dict()
    space = {key: value for key, value in plain["space"].items() if not key.startswith("loss")}
    points = [
        {key: value for key, value in point.items() if not key.startswith("loss")} for point in plain["starting_points"]
    ]
    rungs = plain["verification"] | {"rung_stages": ["ibp", "crown-ibp"]}
    changes = {"name": name, "space": space | LOSSES[name], "starting_points": points, "verification": rungs}
    return StudySpec.from_dict(plain | changes)


def configurations(spec: StudySpec) -> list[TrialConfig]:
    """The starting points, then random draws; the same for everybody."""
    rng = np.random.default_rng(derived_seed("learning-curves"))
    count = RANDOM_CONFIGURATIONS if spec.name in PLAIN else RANDOM_CONFIGURATIONS // 2
    points = [
        spec.space.sample(lambda name, parameter, given=point: given[name] if name in given else parameter.random(rng))
        for point in spec.starting_points
    ]
    drawn = [spec.space.random(rng) for _ in range(count)]
    named = {f"{number:05d}": values for number, values in enumerate([*points, *drawn])}
    # The dense network once more with other seeds, for a mean to compare with.
    named |= {f"dense-{repeat}": points[0] for repeat in range(DENSE_REPEATS)}
    return [
        TrialConfig(trial_id=trial_id, seed=derived_seed("curve", trial_id) % 2**31, values=values)
        for trial_id, values in named.items()
    ]


def record(plain: dict[str, Any], config: TrialConfig) -> dict[str, Any]:
    torch.set_num_threads(1)
    spec = StudySpec.from_dict(plain)
    data = load_dataset(spec.data)
    line: dict[str, Any] = {
        "trial_id": config.trial_id,
        "seed": config.seed,
        "config": json.loads(config.values_json()),
    }
    try:
        return line | curve(config, spec, data)
    except TrialError as error:
        return line | {"error": str(error)}


def curve(config: TrialConfig, spec: StudySpec, data: Dataset) -> dict[str, Any]:
    device = torch.device("cpu")
    stage = DenseStage.of(config, spec, len(data.train.y))
    training = Training(Methods.of(config), config.target_sparsity, spec, data, config.seed, stage, device=device)
    rows, train_seconds, verify_seconds = [], 0.0, 0.0
    for epoch in (*(epoch for epoch in EPOCHS if epoch < spec.epochs), spec.epochs):
        started = time.process_time()
        training.train_until(epoch)
        trained = time.process_time()
        row = scores(training, spec, data, data.validation, cascade_options(spec, spec.verification.rung_stages))
        cost = network_cost(training.graph)
        verified = time.process_time()
        train_seconds += trained - started
        rows.append(
            row
            | {
                "epoch": epoch,
                "sparsity": cost.sparsity,
                "nonzero_weights": cost.nonzero_weights,
                "total_weights": cost.total_weights,
                "train_seconds": round(train_seconds, 3),
                "verify_seconds": round(verified - trained, 3),
            }
        )
    ends = {}
    for name, split in (("validation", data.validation), ("test", data.test)):
        started = time.process_time()
        ends[name] = scores(training, spec, data, split, cascade_options(spec, spec.verification.stages))
        verify_seconds = time.process_time() - started
        ends[name]["verify_seconds"] = round(verify_seconds, 3)
    return {"target_sparsity": config.target_sparsity, "curve": rows, **ends}


def scores(training: Training, spec: StudySpec, data: Dataset, split: Split, options: CascadeOptions) -> dict[str, Any]:
    """Natural and verified accuracy: at the target epsilon, at the one training is at, and averaged over the grid."""
    chosen = fixed_subset(len(split.y), None, "validation")
    x, y = torch.from_numpy(split.x[chosen]), torch.from_numpy(split.y[chosen])
    network = training.network
    found = verify(network, x, y, epsilon=spec.epsilon, low=data.low, high=data.high, options=options, seed=0)
    known = found.verdict == Verdict.verified
    grid = [fraction * spec.epsilon for fraction in spec.verification.grid]
    box = {"low": data.low, "high": data.high, "options": options}
    over_grid = verified_over_grid(network, x, y, grid, **box, known=known)
    current = training.ramp * spec.epsilon
    ramping = 0 < current < spec.epsilon
    at_current = verified_over_grid(network, x, y, [current], **box) if ramping else None
    by_intervals: dict[str, float] = {}
    if spec.name not in PLAIN and current:
        alone = {"low": data.low, "high": data.high, "options": CascadeOptions(stages=("ibp",))}
        by_intervals["verified_current_ibp"] = float(verified_over_grid(network, x, y, [current], **alone)[0])
    return by_intervals | {
        "samples": len(y),
        "natural_accuracy": round(found.natural_accuracy, 6),
        "verified_accuracy": round(found.verified_accuracy, 6),
        "verified_auc": round(float(over_grid.mean()), 6),
        "verified_current": round(float(at_current[0]), 6)
        if at_current is not None
        else round(found.verified_accuracy if current else found.natural_accuracy, 6),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("preset", choices=[*PLAIN, *LOSSES])
    parser.add_argument("--workers", type=int, default=1)
    asked = parser.parse_args()
    RAW.mkdir(parents=True, exist_ok=True)
    (RAW / "machine.json").write_text(json.dumps(machine(), indent=1) + "\n")
    file, told = RAW / f"{asked.preset}.jsonl", RAW / f"{asked.preset}.spec.json"
    if not told.exists():
        told.write_text(json.dumps(study(asked.preset).to_dict(), indent=1) + "\n")
    spec = StudySpec.from_dict(json.loads(told.read_text()))
    done = {json.loads(line)["trial_id"] for line in file.read_text().splitlines()} if file.exists() else set()
    missing = [config for config in configurations(spec) if config.trial_id not in done]
    with ProcessPoolExecutor(asked.workers, mp_context=get_context("spawn")) as pool:
        for future in as_completed([pool.submit(record, spec.to_dict(), config) for config in missing]):
            line = future.result()
            with file.open("a") as lines:
                lines.write(json.dumps(line) + "\n")
            print(line["trial_id"], line.get("error") or line["curve"][-1], flush=True)


if __name__ == "__main__":
    main()
