"""Would torch.compile or channels-last make a training step faster? Each beside the step that training takes.

    python benchmarks/step_variants.py run                  # resumable by architecture; minutes of compiling
    python benchmarks/step_variants.py run --label avx2     # beside what was measured on another processor
    python benchmarks/step_variants.py report               # table from the raw data

Steps are those of `training_step.py` with the IBP loss. `channels-last` lays out weights and inputs so; `compiled`
passes the loss with its bounds through `torch.compile`, whose backward pass is compiled with it. What compiling takes
is the wall time of the first step; a trial that changes its epsilon or is compacted may pay it again.
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics
import time
from pathlib import Path

import torch
from machine import has_bfloat16, machine
from torch import Tensor
from training_step import CLASSES, EPSILON, NETWORKS, OURS, RAMP, SHAPE, Step, alternating, finisher, labelled, our_step

from sparsevlr.spaces.architectures import build_architecture
from sparsevlr.trainables.bounds import input_box, trace
from sparsevlr.trainables.certified_training import Batch

RAW = Path(__file__).parent / "results" / "step_variants"
LOSS = OURS["ibp"]
STEPS = NETWORKS | {"cnn7": ({"width": 0.25}, 64), "cnn-medium": ({}, 128)}
PRECISIONS = ("float32", "bfloat16")
VARIANTS = ("as it is", "channels-last", "compiled")


def run(repeats: int, label: str | None) -> None:
    torch.set_num_threads(1)
    RAW.mkdir(parents=True, exist_ok=True)
    for name in STEPS:
        path = RAW / labelled(name, label)
        if path.exists():
            continue
        steps = variants(name)
        first = {}
        for which, step in steps.items():
            started = time.perf_counter()
            step()
            first[which] = time.perf_counter() - started
        raw = {"machine": machine(), "first_step_seconds": first, "seconds": alternating(steps, repeats)}
        path.write_text(json.dumps(raw, indent=1) + "\n")
        print(name, "done", flush=True)


def variants(name: str) -> dict[str, Step]:
    options, size = STEPS[name]
    torch.manual_seed(0)
    network = build_architecture(name, options, SHAPE, CLASSES).train()
    x, y = torch.rand(size, *SHAPE), torch.randint(CLASSES, (size,))

    def batch(inputs: Tensor) -> Batch:
        return Batch(inputs, y, input_box(inputs, EPSILON * RAMP, 0.0, 1.0), RAMP, low=0.0, high=1.0)

    steps: dict[str, Step] = {}
    for precision in PRECISIONS if has_bfloat16() else PRECISIONS[:1]:
        reduced, layout = precision == "bfloat16", torch.channels_last
        steps[f"as it is, {precision}"] = our_step(copy.deepcopy(network), LOSS, batch(x), reduced=reduced)
        steps[f"channels-last, {precision}"] = our_step(
            copy.deepcopy(network).to(memory_format=layout), LOSS, batch(x.to(memory_format=layout)), reduced=reduced
        )
        steps[f"compiled, {precision}"] = compiled_step(copy.deepcopy(network), batch(x), reduced=reduced)
    return steps


def compiled_step(network: torch.nn.Module, batch: Batch, *, reduced: bool) -> Step:
    graph, finish, loss = trace(network, SHAPE), finisher(network), torch.compile(LOSS.loss)

    def step() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=reduced):
            value = loss(graph, batch)
        finish(value)

    return step


def report() -> None:
    print("| network | precision | as it is | channels-last | compiled | compiling |")
    print("|---|---|---|---|---|---|")
    for path in sorted(RAW.glob("*.json")):
        raw = json.loads(path.read_text())
        for precision in PRECISIONS:
            times = [raw["seconds"].get(f"{variant}, {precision}") for variant in VARIANTS]
            if None in times:
                continue
            median = [statistics.median(seconds) for seconds in times]
            ratios = " | ".join(f"{seconds / median[0]:.2f} x" for seconds in median[1:])
            compiling = raw["first_step_seconds"][f"compiled, {precision}"]
            print(f"| {path.stem} | {precision} | {1000 * median[0]:.0f} ms | {ratios} | {compiling:.0f} s |")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=["run", "report"])
    parser.add_argument("--repeats", type=int, default=11)
    parser.add_argument("--label", help="of this processor, where the raw data of another one is to stay")
    asked = parser.parse_args()
    if asked.command == "run":
        run(asked.repeats, asked.label)
    else:
        report()
