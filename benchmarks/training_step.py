"""What a training step of each loss costs, relative to a plain step of the same network.

    python benchmarks/training_step.py run                  # resumable by architecture; one thread
    python benchmarks/training_step.py run --label avx2     # beside what was measured on another processor
    python benchmarks/training_step.py report               # table from the raw data

A step is what training does with a batch: loss, backward pass, clipping and Adam. Networks are fresh, inputs are noise
of the shape of MNIST, epsilon 0.1 half way up its ramp. What comes before a step, picking the samples of a batch and
making their boxes, is a row of its own. Times are medians of process CPU time over repeats in which all steps take
turns, each on its own copy of the network and after one step that is not counted. auto_LiRPA's steps have no natural
term; without loss fusion they bound all margins by one specification, to be read beside `crown-ibp, all margins`.
"""

from __future__ import annotations

import argparse
import copy
import importlib
import json
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from machine import has_bfloat16, machine
from torch import Tensor, nn

from sparsevlr.spaces.architectures import build_architecture
from sparsevlr.trainables.bounds import Box, input_box, trace
from sparsevlr.trainables.certified_training import LOSSES, Batch, CertifiedLoss
from sparsevlr.trainables.optimizers import Adam
from sparsevlr.trainables.verification import auto_lirpa

RAW = Path(__file__).parent / "results" / "training_step"
SHAPE, CLASSES, EPSILON, RAMP = (1, 28, 28), 10, 0.1, 0.5
NETWORKS: Mapping[str, tuple[dict[str, object], int]] = {
    "mlp": ({}, 256),
    "cnn-small": ({}, 256),
    "cnn7": ({"width": 0.25}, 256),
}
"""Options and batch size by architecture."""

PLAIN = "cross-entropy"
OURS: Mapping[str, CertifiedLoss] = {
    **{name: kind() for name, kind in LOSSES.items()},
    "ibp, no natural term": LOSSES["ibp"](kappa_start=0.0),
    "crown-ibp, no natural term": LOSSES["crown-ibp"](kappa_start=0.0),
    "crown-ibp, all margins": LOSSES["crown-ibp"](kappa_start=0.0, fusion=False),
    "mtl-ibp, one step": LOSSES["mtl-ibp"](attack_steps=1, attack_step_size=2.0),
}
REDUCED = {
    f"{name}, bfloat16": OURS[name]
    for name in (PLAIN, "ibp, no natural term", "ibp", "crown-ibp, no natural term", "crown-ibp")
}
"""The same with products in bfloat16, where the processor has them."""
DATA, SAMPLES = "data: pick a batch, make its boxes", 60_000
THEIRS = {"auto_LiRPA ibp": "IBP", "auto_LiRPA crown-ibp, all margins": "CROWN-IBP"}
THEIR_FUSED = "auto_LiRPA crown-ibp"

Step = Callable[[], object]


def run(repeats: int, names: list[str], label: str | None) -> None:
    torch.set_num_threads(1)
    RAW.mkdir(parents=True, exist_ok=True)
    for name in names:
        path = RAW / labelled(name, label)
        if path.exists():
            continue
        options, size = NETWORKS[name]
        torch.manual_seed(0)
        network = build_architecture(name, options, SHAPE, CLASSES).train()
        x, y = torch.rand(size, *SHAPE), torch.randint(CLASSES, (size,))
        batch = Batch(x, y, input_box(x, EPSILON * RAMP, 0.0, 1.0), RAMP, low=0.0, high=1.0)
        steps = {which: our_step(copy.deepcopy(network), loss, batch) for which, loss in OURS.items()}
        if has_bfloat16():
            steps |= {
                which: our_step(copy.deepcopy(network), loss, batch, reduced=True) for which, loss in REDUCED.items()
            }
        steps[DATA] = data_step(size)
        if auto_lirpa.installed_version():
            steps |= {which: their_step(copy.deepcopy(network), method, batch) for which, method in THEIRS.items()}
            steps[THEIR_FUSED] = their_fused_step(copy.deepcopy(network), batch)
        raw = {"machine": machine(), "batch": size, "options": options, "seconds": alternating(steps, repeats)}
        path.write_text(json.dumps(raw, indent=1))
        print(name, "done")


def labelled(name: str, label: str | None) -> str:
    """The file of a network's raw data."""
    return f"{name}-{label}.json" if label else f"{name}.json"


def our_step(network: nn.Module, loss: CertifiedLoss, batch: Batch, *, reduced: bool = False) -> Step:
    graph, finish = trace(network, SHAPE), finisher(network)

    def step() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=reduced):
            value = loss.loss(graph, batch)
        finish(value)

    return step


def data_step(size: int) -> Step:
    """What training does before a step, on as many samples as MNIST has for training."""
    drawn = np.random.default_rng(0)
    x, y = drawn.random((SAMPLES, *SHAPE), dtype=np.float32), drawn.integers(CLASSES, size=SAMPLES)

    def step() -> object:
        chosen = drawn.integers(SAMPLES, size=size)
        inputs = torch.from_numpy(x[chosen])
        return torch.from_numpy(y[chosen]), input_box(inputs, EPSILON * RAMP, 0.0, 1.0)

    return step


def their_step(network: nn.Module, method: str, batch: Batch) -> Step:
    library, finish = auto_lirpa.load(), finisher(network)
    # It cannot convert a BatchNorm in training mode, and takes the statistics of one from a natural pass.
    bounded = library.BoundedModule(network.eval(), batch.x)
    bounded.train()
    natural = any(isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d) for module in network.modules())
    inputs = their_inputs(batch)
    unit = torch.eye(CLASSES)
    margins = unit[batch.y][:, None, :] - unit

    def step() -> None:
        if natural:
            bounded(batch.x)
        lower, _ = bounded.compute_bounds(x=(inputs,), C=margins, method=method, bound_upper=False)
        finish(F.cross_entropy(-lower, batch.y))

    return step


def their_fused_step(network: nn.Module, batch: Batch) -> Step:
    """Its loss fusion: a bound of the sum of exponentials, which a natural pass keeps from overflowing."""
    library, finish = auto_lirpa.load(), finisher(network)
    # Tracing the network's gather needs this module of torch's exporter, which nothing imports by itself.
    importlib.import_module("torch.onnx._internal.torchscript_exporter.symbolic_opset11")
    wrapper = importlib.import_module("auto_LiRPA.wrapper").CrossEntropyWrapper
    bounded = library.BoundedModule(wrapper(network.eval()), (batch.x, batch.y), bound_opts={"loss_fusion": True})
    bounded.train()
    inputs = their_inputs(batch)
    (exponential,) = (module for module in bounded.modules() if type(module).__name__ == "BoundExp")

    def step() -> None:
        bounded(batch.x, batch.y)
        _, upper = bounded.compute_bounds(x=(inputs, batch.y), method="CROWN-IBP", bound_lower=False)
        finish((upper.log() + exponential.max_input).mean())

    return step


def their_inputs(batch: Batch) -> Any:
    library, box = auto_lirpa.load(), batch.region
    assert isinstance(box, Box)
    perturbation = library.PerturbationLpNorm(norm=float("inf"), x_L=box.lower, x_U=box.upper)
    return library.BoundedTensor(batch.x, perturbation)


def finisher(network: nn.Module) -> Callable[[Tensor], None]:
    """What every step does with its loss."""
    chosen = Adam()
    optimizer = chosen.build(network.parameters())

    def finish(loss: Tensor) -> None:
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        if any(parameter.grad is None for parameter in network.parameters()):
            raise RuntimeError("a step that leaves weights without a gradient is no training step")
        nn.utils.clip_grad_norm_(network.parameters(), chosen.clip)
        optimizer.step()

    return finish


def alternating(steps: Mapping[str, Step], repeats: int) -> dict[str, list[float]]:
    """CPU seconds of each repeat, all steps taking turns.

    Before each one that counts comes one that does not: memory that a step before has given back to the system would be
    charged to whoever comes next, and make a plain step after a large one twice as slow.
    """
    seconds: dict[str, list[float]] = {which: [] for which in steps}
    for _ in range(repeats):
        for which, step in steps.items():
            step()
            started = time.process_time()
            step()
            seconds[which].append(time.process_time() - started)
    return seconds


def report() -> None:
    raws = {path.stem: json.loads(path.read_text()) for path in sorted(RAW.glob("*.json"))}
    print("| step |", " | ".join(f"{name}, batch {raw['batch']}" for name, raw in raws.items()), "|")
    print("|---" * (1 + len(raws)) + "|")
    for which in (*OURS, *REDUCED, *THEIRS, THEIR_FUSED, DATA):
        times = [raw["seconds"].get(which) for raw in raws.values()]
        plain = [statistics.median(raw["seconds"][PLAIN]) for raw in raws.values()]
        cells = [
            f"{statistics.median(time) / one:.2f} x" if time else "-" for time, one in zip(times, plain, strict=True)
        ]
        print("|", " | ".join([which, *cells]), "|")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=["run", "report"])
    parser.add_argument("--repeats", type=int, default=31)
    parser.add_argument("--architecture", choices=list(NETWORKS), action="append", help="only this one")
    parser.add_argument("--label", help="of this processor, where the raw data of another one is to stay")
    arguments = parser.parse_args()
    if arguments.command == "run":
        run(arguments.repeats, arguments.architecture or list(NETWORKS), arguments.label)
    else:
        report()
