"""The cascade beside alpha-CROWN on every sample: how many each verifies, and at what cost.

    python benchmarks/cascade.py run [NETWORK ...]    # resumable; hours, of which the cascade takes minutes
    python benchmarks/cascade.py report               # table from the checked-in raw data

1,000 test images each, cnn-small, trained by IBP or SABR at epsilon 0.1 or by PGD at 0.02. The cascade ends with
alpha-CROWN on whatever its cheaper stages leave undecided, with as many gradient steps as the baseline. Both take the
bounds before ReLUs from CROWN. The baseline is run in batches of the size that is fastest for it on 250 images, tried
first. Ours leaves margins alone that CROWN proves, and ends with a margin once it is proved; what alpha-CROWN costs
that takes all its steps for every margin of every sample is measured on the first 200 images. auto_LiRPA by itself
optimises the bounds before ReLUs too, which costs far more: this is measured on the first few. At last whatever the
cascade has verified is attacked with many steps and restarts, and the run ends with an error should one succeed.
Processor seconds of one thread. Networks are kept in build/ and trained again where they are not there: the seed makes
them the same.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from machine import machine
from torch import Tensor, nn

from sparsevlr.results.location import locate
from sparsevlr.results.paths import STATE, checkpoint_path
from sparsevlr.spaces import StudySpec, TrialConfig, load_dataset
from sparsevlr.spaces.datasets import Dataset
from sparsevlr.trainables import Methods, Trial
from sparsevlr.trainables.bounds import Graph, Region, crown_bounds, input_box, magnitudes, optimised_margins, trace
from sparsevlr.trainables.checkpoint import Checkpoint
from sparsevlr.trainables.trial import fixed_subset
from sparsevlr.trainables.verification import CascadeOptions, verify
from sparsevlr.trainables.verification.auto_lirpa import Method, lirpa_margins
from sparsevlr.trainables.verification.base import MarginBounds, Verifier

RAW = Path(__file__).parent / "results" / "cascade"
SCRATCH = Path(__file__).parents[1] / "build" / "cascade"
SAMPLES, CHUNK, TRIED, EVERY_STEP, FEW = 1000, 250, (1, 8, 64, 250), 200, 4
COMMON = {"ramp": {"start": 0.01, "end": 0.6}, "scheduler": {"kind": "none"}, "seed": 0}
DATA: Mapping[str, dict[str, Any]] = {
    "mnist-5k": COMMON | {"data": "mnist-5k", "epochs": 40, "batch_size": 128},
    "fashion-mnist": COMMON | {"data": "fashion-mnist", "epochs": 5, "batch_size": 256},
}
TRAINED: Mapping[str, tuple[float, dict[str, Any]]] = {
    "ibp": (0.1, {"loss": "ibp", "loss.kappa_end": 0.3}),
    "sabr": (0.1, {"loss": "sabr", "loss.subselection": 0.4, "loss.attack_steps": 4}),
    "pgd": (0.02, {"loss": "pgd", "loss.attack_steps": 4}),
}
"""Epsilon, of training and of verification, and the loss."""

NETWORKS = tuple(f"{data}, {loss}" for data in DATA for loss in TRAINED)
ALPHA = 20
BASELINE = CascadeOptions(stages=("alpha-crown",), alpha_iterations=ALPHA, audit=0)
# Without `crown`, which alpha-CROWN begins with.
CASCADE = CascadeOptions(stages=("ibp", "pgd", "crown-ibp", "alpha-crown"), alpha_iterations=ALPHA, audit=0)
ATTACKED = replace(CASCADE, pgd_steps=50, pgd_restarts=10, audit=None)


@dataclass(frozen=True)
class EveryStep(Verifier):
    """Our alpha-CROWN without its short cuts: all steps for all margins."""

    def margins(self, graph: Graph, region: Region, labels: Tensor) -> MarginBounds:
        with torch.no_grad():
            bounds = crown_bounds(graph, region, tighten=True)
            scale = magnitudes(graph, bounds)
        never = torch.full_like(scale, torch.inf)
        return MarginBounds(optimised_margins(graph, region, bounds, labels, never, iterations=ALPHA), scale)


def prepared(name: str) -> tuple[nn.Module, np.ndarray, np.ndarray, dict[str, float]]:
    """The network, inputs and labels, and how far an input may move."""
    data = load_dataset(name.split(", ")[0])
    network, epsilon = trained(name, data)
    chosen = fixed_subset(len(data.test.y), SAMPLES, "cascade")
    asked = {"epsilon": epsilon, "low": data.low, "high": data.high}
    return network, data.test.x[chosen], data.test.y[chosen], asked


def trained(name: str, data: Dataset) -> tuple[nn.Module, float]:
    """The network, and the epsilon it is meant for."""
    epsilon, loss = TRAINED[name.split(", ")[1]]
    spec = StudySpec.from_dict(DATA[name.split(", ")[0]] | {"epsilon": epsilon, "verification": {"stages": ["ibp"]}})
    values = {"architecture": "cnn-small", "sparsity": 0.0, "score": "magnitude", "distribution": "lamp"}
    values |= {"schedule": "gradual", "optimizer": "adam", "optimizer.learning_rate": 2e-3}
    config = TrialConfig(trial_id=name.replace(", ", "-"), seed=0, values=values | loss)
    SCRATCH.mkdir(parents=True, exist_ok=True)
    location, path = locate(SCRATCH), checkpoint_path(config.trial_id, "rung-0")
    trial = Trial(config, spec, data, location=location)
    if location.has(f"{path}/{STATE}"):
        # Refuses a network of other options.
        trial.restore(path)
    while not trial.finished:
        trial.advance()
    network = Methods.of(config).build_network(data.shape, data.classes)
    network.load_state_dict(dict(Checkpoint.load(location, path).weights))
    return network, epsilon


def run(names: Sequence[str]) -> None:
    torch.set_num_threads(1)
    RAW.mkdir(parents=True, exist_ok=True)
    (RAW / "machine.json").write_text(json.dumps(machine(), indent=1) + "\n")
    for name in names:
        compare(name, *prepared(name))
    # The slowest, last of all.
    for name in names:
        if not told(name, "by itself"):
            network, x, y, asked = prepared(name)
            keep(name, "by itself", 0, by_itself(network, x[:FEW], y[:FEW], asked))


def compare(name: str, network: nn.Module, x: np.ndarray, y: np.ndarray, asked: Mapping[str, float]) -> None:
    if not told(name, "cascade"):
        keep(name, "cascade", 0, measured(network, x, y, CASCADE, asked))
    size = fastest(name, network, x[: max(TRIED)], y[: max(TRIED)], asked)
    if not told(name, "every step"):
        options, own = sized(min(size, EVERY_STEP)), {"alpha-crown": EveryStep()}
        line = measured(network, x[:EVERY_STEP], y[:EVERY_STEP], options, asked | {"verifiers": own})
        keep(name, "every step", 0, line)
    done = {line["chunk"] for line in told(name, "baseline")}
    for chunk in range(0, SAMPLES, CHUNK):
        if chunk not in done:
            part = slice(chunk, chunk + CHUNK)
            keep(name, "baseline", chunk, measured(network, x[part], y[part], sized(size), asked))
            print(name, chunk, flush=True)
    if not told(name, "attacked"):
        keep(name, "attacked", 0, measured(network, x, y, ATTACKED, asked))


def by_itself(network: nn.Module, x: np.ndarray, y: np.ndarray, asked: Mapping[str, float]) -> dict[str, Any]:
    """alpha-CROWN as auto_LiRPA runs it when it is asked for nothing else, on one sample at a time."""
    started, verified = time.process_time(), 0
    graph = trace(network, x.shape[1:])
    for sample, label in zip(torch.from_numpy(x)[:, None], torch.from_numpy(y)[:, None], strict=True):
        box = input_box(sample, asked["epsilon"], asked["low"], asked["high"])
        margins = lirpa_margins(graph, box, label, Method.alpha_crown, iterations=ALPHA)[0]
        verified += bool((margins[torch.arange(len(margins)) != label] > 0).all())
    return {"samples": len(y), "seconds": round(time.process_time() - started, 3), "verified": verified}


def fastest(name: str, network: nn.Module, x: np.ndarray, y: np.ndarray, asked: Mapping[str, float]) -> int:
    if not (tried := told(name, "batch size")):
        for size in TRIED:
            keep(name, "batch size", size, measured(network, x, y, sized(size), asked))
        tried = told(name, "batch size")
    return int(min(tried, key=lambda line: float(line["seconds"]))["chunk"])


def sized(size: int) -> CascadeOptions:
    return CascadeOptions(stages=BASELINE.stages, alpha_iterations=ALPHA, audit=0, batch_size=size)


def measured(
    network: nn.Module, x: np.ndarray, y: np.ndarray, options: CascadeOptions, asked: Mapping[str, Any]
) -> dict[str, Any]:
    started = time.process_time()
    found = verify(network, x, y, options=options, **asked)
    seconds = time.process_time() - started
    stages, counts = np.unique(found.stage, return_counts=True)
    return {
        "samples": len(y),
        "seconds": round(seconds, 3),
        "verified": found.n_verified,
        "unknown": found.n_unknown,
        "decided_by": {str(stage) or "none": int(count) for stage, count in zip(stages, counts, strict=True)},
        "stage_seconds": {stage: round(value, 3) for stage, value in found.seconds.items()},
    }


def keep(name: str, what: str, chunk: int, line: Mapping[str, Any]) -> None:
    with (RAW / "lines.jsonl").open("a") as lines:
        lines.write(json.dumps({"network": name, "what": what, "chunk": chunk, **line}) + "\n")


def told(name: str, what: str) -> list[dict[str, Any]]:
    file = RAW / "lines.jsonl"
    lines = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
    return [line for line in lines if (line["network"], line["what"]) == (name, what)]


def report(names: Sequence[str]) -> None:
    print("| network | verified, cascade | by alpha-CROWN on every sample | seconds | seconds | ratio |", end="")
    print(" ratio, every step | most it can be | seconds a sample by itself | decided by | attacked in vain |")
    print("|---" * 11 + "|")
    for name in names:
        cascade, baseline = told(name, "cascade"), told(name, "baseline")
        samples = sum(line["samples"] for line in baseline)
        if not cascade or not samples:
            print(f"| {name} | not run | | | | | | | | | |")
            continue
        spent, verified = (sum(line[key] for line in baseline) for key in ("seconds", "verified"))
        # Where the baseline has not come to its end yet: as much for every sample still to come.
        ratio = spent * SAMPLES / samples / cascade[0]["seconds"]
        whole = [line["seconds"] * SAMPLES / line["samples"] for line in told(name, "every step")]
        every = f"{whole[0] / cascade[0]['seconds']:.1f}" if whole else "not run"
        few = [line["seconds"] / line["samples"] for line in told(name, "by itself")]
        # Were all other stages free: what CROWN and alpha-CROWN have to do remains.
        last = ("none", "crown", "alpha-crown")
        reached = sum(count for stage, count in cascade[0]["decided_by"].items() if stage in last)
        attacked = sum(line["verified"] for line in told(name, "attacked")) or "not run"
        itself = f"{few[0]:.1f}" if few else "not run"
        by = ", ".join(f"{stage} {count}" for stage, count in cascade[0]["decided_by"].items())
        print(
            f"| {name} | {cascade[0]['verified']} of {SAMPLES} | {verified} of {samples} | "
            f"{cascade[0]['seconds']:.1f} | {spent:.0f} | {ratio:.1f} | {every} | {SAMPLES / reached:.0f} | "
            f"{itself} | {by} | {attacked} |"
        )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=["run", "report"])
    parser.add_argument("networks", nargs="*", default=NETWORKS)
    asked = parser.parse_args()
    {"run": run, "report": report}[asked.command](asked.networks)
