"""What compaction saves: time of bounds and of training steps, and bytes, beside the network with its zeros.

    python benchmarks/compaction.py run       # resumable by architecture; one thread
    python benchmarks/compaction.py report    # table and plot from the checked-in raw data

Per architecture one dense network is trained for a few epochs on mnist-5k by IBP. Then it is pruned at once, without
further training, in two ways: single weights by magnitude over the whole network, and whole filters and neurons of each
hidden layer by the L1 norm of their incoming weights, biases and BatchNorm parameters included. Times are medians of
process CPU time over repeats in which both networks take turns; ratios above 1 say how much faster or smaller the
compacted one is. IBP and CROWN-IBP bound a whole batch of the cascade, CROWN as many samples as are often left to it. A
training step is forward and backward of the IBP loss.
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics
import time
from collections.abc import Callable, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from machine import machine
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch import Tensor, nn

from sparsevlr.spaces import StudySpec, TrialConfig, load_dataset
from sparsevlr.spaces.datasets import Dataset
from sparsevlr.trainables import Mask, Methods
from sparsevlr.trainables.accounting import network_cost
from sparsevlr.trainables.bounds import Graph, input_box, trace
from sparsevlr.trainables.certified_training import IBP, Batch
from sparsevlr.trainables.compaction import compact
from sparsevlr.trainables.dense_stage import DenseStage
from sparsevlr.trainables.mask import prunable_weights
from sparsevlr.trainables.training import Training
from sparsevlr.trainables.verification import CascadeOptions

RAW = Path(__file__).parent / "results" / "compaction"
FIGURE = Path(__file__).parents[1] / "docs" / "figures" / "compaction.png"
ARCHITECTURES: Mapping[str, dict[str, object]] = {
    "mlp": {},
    "cnn-small": {},
    "cnn7": {"architecture.width": 0.25},
}
SPARSITIES = (0.9, 0.95, 0.99)
EPSILON, SEED = 0.1, 0
SAMPLES = {"ibp": 256, "crown-ibp": 256, "crown": 32}
STEP = "training step"
STEP_SAMPLES = 128


def run(epochs: int, repeats: int, names: list[str]) -> None:
    torch.set_num_threads(1)
    RAW.mkdir(parents=True, exist_ok=True)
    (RAW / "machine.json").write_text(json.dumps(machine(), indent=1) + "\n")
    data = load_dataset("mnist-5k")
    for name in names:
        file = RAW / f"{name}.json"
        if file.exists():
            continue
        dense = trained(name, data, epochs)
        rows = [
            {"pattern": pattern, "sparsity": sparsity, **compared(prune(dense, sparsity), data, repeats)}
            for pattern, prune in PATTERNS.items()
            for sparsity in SPARSITIES
        ]
        about = {"epochs": epochs, "repeats": repeats, "seed": SEED, "epsilon": EPSILON, "options": ARCHITECTURES[name]}
        file.write_text(json.dumps({**about, "rows": rows}, indent=1) + "\n")
        print(f"{file.name}: written", flush=True)


def trained(name: str, data: Dataset, epochs: int) -> nn.Sequential:
    spec = StudySpec.from_dict({"data": "mnist-5k", "epsilon": EPSILON, "epochs": epochs})
    values = {"architecture": name, "sparsity": 0.0, "score": "magnitude", "distribution": "global",
              "schedule": "gradual", "schedule.end": 0.5, "loss": "ibp", "optimizer": "adam"}  # fmt: skip
    config = TrialConfig(trial_id="dense", seed=SEED, values=values | ARCHITECTURES[name])
    stage = DenseStage.of(config, spec, len(data.train.y))
    training = Training(Methods.of(config), 0.0, spec, data, SEED, stage, device=torch.device("cpu"))
    training.train_until(epochs)
    return training.network.eval()


def single_weights(dense: nn.Sequential, sparsity: float) -> nn.Sequential:
    """The smallest weights of the whole network become zero."""
    network = copy.deepcopy(dense)
    weights = prunable_weights(network)
    magnitude = torch.cat([weight.detach().abs().flatten() for weight in weights.values()])
    threshold = magnitude.kthvalue(max(1, round(sparsity * magnitude.numel()))).values
    Mask({name: weight.detach().abs() > threshold for name, weight in weights.items()}).apply_(network)
    return network


@torch.no_grad()
def whole_units(dense: nn.Sequential, sparsity: float) -> nn.Sequential:
    """The filters and neurons of the smallest norm become zero, the same share of each hidden layer."""
    network = copy.deepcopy(dense)
    for layer, after in pairwise(network):
        if isinstance(layer, nn.Linear | nn.Conv2d):
            norm = layer.weight.abs().flatten(1).sum(1)
            dead = norm.argsort()[: min(len(norm) - 1, round(sparsity * len(norm)))]
            layer.weight[dead] = 0
            layer.bias[dead] = 0
            if isinstance(after, nn.BatchNorm1d | nn.BatchNorm2d):
                after.weight[dead] = 0
                after.bias[dead] = 0
    return network


PATTERNS: Mapping[str, Callable[[nn.Sequential, float], nn.Sequential]] = {
    "unstructured": single_weights,
    "structured": whole_units,
}


def compared(network: nn.Sequential, data: Dataset, repeats: int) -> dict[str, Any]:
    started = time.process_time()
    compaction = compact(network, data.shape)
    seconds = time.process_time() - started
    both = {"masked": network, "compacted": compaction.network}
    graphs = {which: trace(module, data.shape) for which, module in both.items()}
    x, y = torch.from_numpy(data.validation.x), torch.from_numpy(data.validation.y)
    with torch.no_grad():
        logits = [module(x[:256]) for module in both.values()]
    tasks: dict[str, Callable[[Graph], object]] = {
        name: bounding(name, x[:count], y[:count], data) for name, count in SAMPLES.items()
    }
    times = {task: alternating(run, graphs, repeats) for task, run in tasks.items()}
    steps = {which: trace(copy.deepcopy(module).train(), data.shape) for which, module in both.items()}
    times[STEP] = alternating(stepping(x[:STEP_SAMPLES], y[:STEP_SAMPLES], data), steps, repeats)
    return {
        "compaction_seconds": seconds,
        "units": [[layer.name, layer.before, layer.after] for layer in compaction.layers],
        "cost": {which: cost(graph) for which, graph in graphs.items()},
        "largest_difference": float((logits[0] - logits[1]).abs().max() / logits[0].abs().max()),
        "seconds": times,
    }


def bounding(name: str, x: Tensor, y: Tensor, data: Dataset) -> Callable[[Graph], object]:
    verifier = CascadeOptions(stages=(name,)).verifiers()[name]
    box = input_box(x, EPSILON, data.low, data.high)
    return lambda graph: verifier.margins(graph, box, y)


def stepping(x: Tensor, y: Tensor, data: Dataset) -> Callable[[Graph], object]:
    batch = Batch(x, y, *input_box(x, EPSILON, data.low, data.high), ramp=1.0)

    def step(graph: Graph) -> None:
        graph.network.zero_grad(set_to_none=True)
        IBP().loss(graph, batch).backward()

    return step


def alternating(task: Callable[[Graph], object], graphs: Mapping[str, Graph], repeats: int) -> dict[str, list[float]]:
    """CPU seconds of each repeat, the networks taking turns, after one round that is not counted."""
    seconds: dict[str, list[float]] = {which: [] for which in graphs}
    for repeat in range(repeats + 1):
        for which, graph in graphs.items():
            started = time.process_time()
            task(graph)
            if repeat:
                seconds[which].append(time.process_time() - started)
    return seconds


def cost(graph: Graph) -> dict[str, int]:
    counted = network_cost(graph)
    dense = 4 * sum(value.numel() for value in graph.network.state_dict().values() if value.is_floating_point())
    return {
        "nonzero_weights": counted.nonzero_weights,
        "total_weights": counted.total_weights,
        "macs": counted.macs,
        "size_bytes": counted.size_bytes,
        "dense_bytes": dense,
    }


def report() -> None:
    raws = {
        name: json.loads((RAW / f"{name}.json").read_text())
        for name in ARCHITECTURES
        if (RAW / f"{name}.json").exists()
    }
    tasks = (*SAMPLES, STEP)
    print(
        "| network | zeros | sparsity | units left | weights stored | bytes | dense bytes |",
        *(f" {task} |" for task in tasks),
    )
    print("|---" * (7 + len(tasks)) + "|")
    for name, raw in raws.items():
        for row in raw["rows"]:
            hidden = row["units"][:-1]
            left = sum(after for _, _, after in hidden) / sum(before for _, before, _ in hidden)
            masked, compacted = row["cost"]["masked"], row["cost"]["compacted"]
            measured = 1 - masked["nonzero_weights"] / masked["total_weights"]
            stored = compacted["total_weights"] / masked["total_weights"]
            cells = [name, row["pattern"], f"{measured:.1%}", f"{left:.0%}", f"{stored:.1%}"]
            cells += [f"{masked[size] / compacted[size]:.2f} x" for size in ("size_bytes", "dense_bytes")]
            print("|", " | ".join([*cells, *(f"{faster(row, task):.2f} x" for task in tasks)]), "|")
    print(
        "\nlargest difference of logits, relative:",
        f"{max(r['largest_difference'] for v in raws.values() for r in v['rows']):.1e}",
    )
    print(
        "seconds to compact, at most:", f"{max(r['compaction_seconds'] for v in raws.values() for r in v['rows']):.2f}"
    )
    draw(raws)


def faster(row: Mapping[str, Any], task: str) -> float:
    masked, compacted = (statistics.median(row["seconds"][task][which]) for which in ("masked", "compacted"))
    return masked / compacted


def draw(raws: Mapping[str, Any]) -> None:
    figure = Figure(figsize=(4 * len(raws), 6.4), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(len(PATTERNS), len(raws), squeeze=False, sharex=True)
    for column, (name, raw) in enumerate(raws.items()):
        for line, pattern in zip(panels, PATTERNS, strict=True):
            axes = line[column]
            rows = [row for row in raw["rows"] if row["pattern"] == pattern]
            for task in (*SAMPLES, STEP):
                axes.plot(range(len(rows)), [faster(row, task) for row in rows], "o-", ms=4, lw=1.4, label=task)
            axes.axhline(1, color="0.6", lw=0.8, zorder=0)
            axes.set_yscale("log")
            axes.set_xticks(range(len(rows)), [f"{100 * row['sparsity']:g}" for row in rows])
            axes.set_title(f"{name}, {pattern}", loc="left")
            axes.grid(color="0.92", which="both")
    for line in panels:
        line[0].set_ylabel("times as fast when compacted")
    for axes in panels[-1]:
        axes.set_xlabel("weights or units zeroed (%)")
    panels[0][0].legend(fontsize=8)
    FIGURE.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(FIGURE)
    print(f"plot: {FIGURE.name}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=["run", "report"])
    parser.add_argument("--epochs", type=int, default=5, help="of the dense training")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--architecture", choices=list(ARCHITECTURES), action="append", help="only this one")
    arguments = parser.parse_args()
    if arguments.command == "run":
        run(arguments.epochs, arguments.repeats, arguments.architecture or list(ARCHITECTURES))
    else:
        report()
