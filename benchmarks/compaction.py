"""What compaction saves: time of training steps and of bounds, and bytes, beside the network with its zeros.

    python benchmarks/compaction.py run       # resumable by part; one thread
    python benchmarks/compaction.py report    # tables and plot from the checked-in raw data

Networks are trained on mnist-5k (natural and IBP loss) and pruned by magnitude along the gradual schedule: single
weights over the whole network by LAMP, and whole filters and neurons, the same share of the weights of each layer.
Once the mask has settled, an epoch of the training loop is timed from one checkpoint, with compaction and without (at
`WORTHWHILE` 0 nothing is worthwhile); what compacting and expanding cost is in it. Bounds are those of the network
with its zeros and of the one that is scored at the checkpoint: IBP and CROWN-IBP of a whole batch of the cascade,
CROWN of as many samples as are often left to it. Times are medians of process CPU time over repeats in which both
take turns.

Whether accuracy suffers is measured on digits, by whole trials of several seeds with compaction and without.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import statistics
import time
from collections.abc import Callable, Mapping
from itertools import product
from pathlib import Path
from typing import Any

import torch
from machine import machine
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter
from scipy import stats
from torch import Tensor

from sparsevlr.spaces import StudySpec, TrialConfig, load_dataset
from sparsevlr.spaces.datasets import Dataset
from sparsevlr.trainables import Methods, run_trial
from sparsevlr.trainables.accounting import dense_macs, network_cost
from sparsevlr.trainables.bounds import Graph, input_box, trace
from sparsevlr.trainables.checkpoint import Checkpoint
from sparsevlr.trainables.compaction import InTraining, Trained, compact, in_training
from sparsevlr.trainables.dense_stage import DenseStage
from sparsevlr.trainables.optimizers import Adam
from sparsevlr.trainables.steps import Steps
from sparsevlr.trainables.training import Training
from sparsevlr.trainables.verification import CascadeOptions

RAW = Path(__file__).parent / "results" / "compaction"
FIGURE = Path(__file__).parents[1] / "docs" / "figures" / "compaction.png"
ARCHITECTURES: Mapping[str, dict[str, object]] = {
    "mlp": {},
    "cnn-small": {},
    "cnn7": {"architecture.width": 0.125},
}
REPEATS = {"mlp": 7, "cnn-small": 5, "cnn7": 2}
PATTERNS = {"unstructured": "lamp", "filter": "uniform"}
"""With the distribution of each: over the whole network whole filters would leave some layers a single one."""
SPARSITIES = (0.9, 0.95, 0.99)
TICKS = (1, 1.5, 2, 3, 4, 6)
EPSILON, SEED = 0.1, 0
EPOCHS, SETTLED = 10, 3
ACCURACY = "accuracy"
TRIALS = {
    "data": "digits",
    "epsilon": 0.05,
    "epochs": 27,
    "scheduler": {"kind": "none"},
    "verification": {"stages": ["ibp", "crown-ibp"]},
}
SEEDS = range(5)
WAYS = {"masked": 0.0, "compacted": in_training.WORTHWHILE}
"""The two networks, and from which share of the multiply-accumulates on training compacts."""
SAMPLES = {"ibp": 256, "crown-ibp": 256, "crown": 32}
STEP = "training step"
LABELS = {STEP: "training step", "ibp": "IBP", "crown-ibp": "CROWN-IBP", "crown": "CROWN"}


def run(parts: list[str]) -> None:
    torch.set_num_threads(1)
    RAW.mkdir(parents=True, exist_ok=True)
    (RAW / "machine.json").write_text(json.dumps(machine(), indent=1) + "\n")
    for part in parts:
        file = RAW / f"{part}.json"
        if not file.exists():
            found = accuracies() if part == ACCURACY else times(part)
            file.write_text(json.dumps(found, indent=1) + "\n")
            print(f"{file.name}: written", flush=True)


def times(name: str) -> dict[str, Any]:
    data = load_dataset("mnist-5k")
    rows = [measured(name, pattern, sparsity, data) for pattern in PATTERNS for sparsity in SPARSITIES]
    options, repeats = ARCHITECTURES[name], REPEATS[name]
    return {"epochs": EPOCHS, "repeats": repeats, "seed": SEED, "epsilon": EPSILON, "options": options, "rows": rows}


def accuracies() -> dict[str, Any]:
    spec, data = StudySpec.from_dict(TRIALS), load_dataset("digits")
    rows = []
    for name, sparsity, seed, way in product(("mlp", "cnn-small"), (0.95,), SEEDS, WAYS):
        in_training.WORTHWHILE = WAYS[way]
        config = configuration(name, "unstructured", sparsity, seed, **{"optimizer.learning_rate": 5e-3})
        record = run_trial(config, spec, data)[-1]
        kept = ("natural_accuracy", "verified_accuracy", "samples", "sparsity", "train_seconds")
        about = {"architecture": name, "target": sparsity, "seed": seed, "way": way}
        rows.append(about | {column: getattr(record, column) for column in kept})
    return {"spec": TRIALS, "rows": rows}


def configuration(name: str, pattern: str, sparsity: float, seed: int, **changes: object) -> TrialConfig:
    values: dict[str, object] = {
        "architecture": name,
        "sparsity": sparsity,
        "score": "magnitude",
        "distribution": PATTERNS[pattern],
        "pattern": pattern,
        "schedule": "gradual",
        "schedule.end": SETTLED / EPOCHS,
        "loss": "ibp",
        "optimizer": "adam",
    }
    return TrialConfig(trial_id="1", seed=seed, values=values | ARCHITECTURES[name] | changes)


def measured(name: str, pattern: str, sparsity: float, data: Dataset) -> dict[str, Any]:
    repeats = REPEATS[name]
    spec = StudySpec.from_dict({"data": "mnist-5k", "epsilon": EPSILON, "epochs": EPOCHS})
    config = configuration(name, pattern, sparsity, SEED)
    stage = DenseStage.of(config, spec, len(data.train.y))
    training = Training(Methods.of(config), sparsity, spec, data, SEED, stage, device=torch.device("cpu"))
    training.train_until(SETTLED)
    settled = copy.deepcopy(training.checkpoint("", 0.0))

    seconds = {STEP: step_seconds(training, settled, repeats, Steps.of(spec, len(data.train.y)).per_epoch)}
    training.restore(copy.deepcopy(settled), "")
    training.network.eval()
    started = time.process_time()
    compaction = compact(training.network, data.shape)
    to_compact = time.process_time() - started
    graphs = {"masked": training.graph, "compacted": trace(compaction.network, data.shape)}
    x, y = torch.from_numpy(data.validation.x), torch.from_numpy(data.validation.y)
    with torch.no_grad():
        logits = [graph.network(x) for graph in graphs.values()]
    for task, count in SAMPLES.items():
        seconds[task] = alternating(bounding(task, x[:count], y[:count], data), graphs, repeats)
    return {
        "pattern": pattern,
        "sparsity": sparsity,
        "compaction_seconds": to_compact,
        "units": [[layer.name, layer.before, layer.after] for layer in compaction.layers],
        "cost": {way: cost(graph) for way, graph in graphs.items()},
        "dense_macs": {way: dense_macs(graph) for way, graph in graphs.items()} | {STEP: trained_macs(training)},
        "largest_difference": float((logits[0] - logits[1]).abs().max() / logits[0].abs().max()),
        "seconds": seconds,
    }


def step_seconds(training: Training, settled: Checkpoint, repeats: int, steps: int) -> dict[str, list[float]]:
    """CPU seconds of a step, mean over an epoch, after an epoch of each that is not counted."""

    def epoch(share: float) -> None:
        in_training.WORTHWHILE = share
        training.train_until(SETTLED + 1)

    def prepare() -> None:
        training.restore(copy.deepcopy(settled), "")

    seconds = alternating(epoch, WAYS, repeats, prepare)
    return {way: [value / steps for value in values] for way, values in seconds.items()}


def trained_macs(training: Training) -> int:
    """Multiply-accumulates of the network that training goes on with; folds constants into the biases of the whole."""
    in_training.WORTHWHILE = WAYS["compacted"]
    optimizer = Adam().build(training.network.parameters())
    return dense_macs(InTraining(Trained(training.graph, training.mask, optimizer), Adam().build).trained.graph)


def bounding(name: str, x: Tensor, y: Tensor, data: Dataset) -> Callable[[Graph], object]:
    verifier = CascadeOptions(stages=(name,)).verifiers()[name]
    box = input_box(x, EPSILON, data.low, data.high)
    return lambda graph: verifier.margins(graph, box, y)


def alternating(
    task: Callable[[Any], object],
    subjects: Mapping[str, Any],
    repeats: int,
    prepare: Callable[[], object] = lambda: None,
) -> dict[str, list[float]]:
    """CPU seconds of each repeat, the subjects taking turns, after one round that is not counted."""
    seconds: dict[str, list[float]] = {way: [] for way in subjects}
    for repeat in range(repeats + 1):
        for way, subject in subjects.items():
            prepare()
            started = time.process_time()
            task(subject)
            if repeat:
                seconds[way].append(time.process_time() - started)
    return seconds


def cost(graph: Graph) -> dict[str, int]:
    counted = network_cost(graph)
    return {
        "nonzero_weights": counted.nonzero_weights,
        "total_weights": counted.total_weights,
        "macs": counted.macs,
        "size_bytes": counted.size_bytes,
        "dense_bytes": counted.dense_bytes,
    }


def report() -> None:
    raws = {
        name: json.loads((RAW / f"{name}.json").read_text())
        for name in ARCHITECTURES
        if (RAW / f"{name}.json").exists()
    }
    rows = [(name, row) for name, raw in raws.items() for row in raw["rows"]]
    print("Times as fast, times as small\n")
    heads = ["network", "pattern", "sparsity", "units left", *LABELS.values(), "dense bytes", "bytes"]
    print("|", " | ".join(heads), "|")
    print("|---" * len(heads) + "|")
    for name, row in rows:
        hidden = row["units"][:-1]
        left = sum(after for _, _, after in hidden) / sum(before for _, before, _ in hidden)
        masked, compacted = row["cost"]["masked"], row["cost"]["compacted"]
        cells = [name, row["pattern"], f"{1 - masked['nonzero_weights'] / masked['total_weights']:.1%}", f"{left:.0%}"]
        cells += [f"{faster(row, task):.2f}" for task in LABELS]
        cells += [f"{masked[size] / compacted[size]:.2f}" for size in ("dense_bytes", "size_bytes")]
        print("|", " | ".join(cells), "|")

    print("\nMilliseconds of a training step, the smallest and the largest of the repeats\n")
    heads = ["network", "pattern", "sparsity", "MACs left in training", "with zeros", "compacted"]
    print("|", " | ".join(heads), "|")
    print("|---" * len(heads) + "|")
    for name, row in rows:
        macs, seconds = row["dense_macs"], row["seconds"][STEP]
        cells = [name, row["pattern"], f"{row['sparsity']:.0%}", f"{macs[STEP] / macs['masked']:.0%}"]
        cells += [f"{1000 * min(seconds[way]):.1f} to {1000 * max(seconds[way]):.1f}" for way in WAYS]
        print("|", " | ".join(cells), "|")
    if (RAW / f"{ACCURACY}.json").exists():
        report_accuracy(json.loads((RAW / f"{ACCURACY}.json").read_text())["rows"])
    print(f"\nlargest difference of logits, relative: {max(row['largest_difference'] for _, row in rows):.1e}")
    print(f"seconds to compact for scoring, at most: {max(row['compaction_seconds'] for _, row in rows):.2f}")
    draw(raws)


def report_accuracy(rows: list[dict[str, Any]]) -> None:
    print("\nTrials on digits: mean over seeds, and difference compacted less with zeros, 95 % t interval, in points\n")
    heads = ["network", "sparsity", "natural with zeros", "difference", "verified with zeros", "difference"]
    print("|", " | ".join([*heads, "training time, of that with zeros, median and range"]), "|")
    print("|---" * (len(heads) + 1) + "|")
    for name, target in dict.fromkeys((row["architecture"], row["target"]) for row in rows):
        chosen = [row for row in rows if (row["architecture"], row["target"]) == (name, target)]
        masked, compacted = ([row for row in chosen if row["way"] == way] for way in WAYS)
        cells = [name, f"{target:.0%}"]
        for column in ("natural_accuracy", "verified_accuracy"):
            cells.append(f"{statistics.mean(row[column] for row in masked):.1%}")
            gains = [100 * (new[column] - old[column]) for old, new in zip(masked, compacted, strict=True)]
            half = stats.t.ppf(0.975, len(gains) - 1) * statistics.stdev(gains) / math.sqrt(len(gains))
            cells.append(f"{statistics.mean(gains):+.1f} ± {half:.1f}")
        ratios = [new["train_seconds"] / old["train_seconds"] for old, new in zip(masked, compacted, strict=True)]
        spread = f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
        print("|", " | ".join([*cells, spread]), "|")


def faster(row: Mapping[str, Any], task: str) -> float:
    masked, compacted = (statistics.median(row["seconds"][task][way]) for way in WAYS)
    return masked / compacted


def draw(raws: Mapping[str, Any]) -> None:
    figure = Figure(figsize=(4 * len(raws), 6.4), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(len(PATTERNS), len(raws), squeeze=False, sharex=True, sharey=True)
    for column, (name, raw) in enumerate(raws.items()):
        for line, pattern in zip(panels, PATTERNS, strict=True):
            axes = line[column]
            rows = [row for row in raw["rows"] if row["pattern"] == pattern]
            for task, label in LABELS.items():
                axes.plot(range(len(rows)), [faster(row, task) for row in rows], "o-", ms=4, lw=1.4, label=label)
            axes.axhline(1, color="0.6", lw=0.8, zorder=0)
            axes.set_yscale("log")
            axes.set_yticks(TICKS, [f"{tick:g}" for tick in TICKS])
            axes.yaxis.set_minor_formatter(NullFormatter())
            axes.set_xticks(range(len(rows)), [f"{100 * row['sparsity']:g}" for row in rows])
            axes.set_title(f"{name}, {pattern}", loc="left")
            axes.grid(color="0.92", which="both")
    for line in panels:
        line[0].set_ylabel("times as fast when compacted")
    for axes in panels[-1]:
        axes.set_xlabel("sparsity (%)")
    panels[0][0].legend(fontsize=8)
    FIGURE.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(FIGURE)
    print(f"plot: {FIGURE.name}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=["run", "report"])
    parser.add_argument("--part", choices=[*ARCHITECTURES, ACCURACY], action="append", help="only this one")
    arguments = parser.parse_args()
    if arguments.command == "run":
        run(arguments.part or [*ARCHITECTURES, ACCURACY])
    else:
        report()
