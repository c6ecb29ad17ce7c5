"""What pretraining, rounds and scores cost: each approach by its published schedule, over several lengths of training.

    python benchmarks/published_schedules.py run [--workers 2]    # resumable; an hour or two of one core
    python benchmarks/published_schedules.py report               # table and plot from the checked-in raw data

A length is the number of epochs of one training, its epsilon ramp over the first 60 %. Schedules differ in how many of
those they take: pretrain-prune-finetune trains dense for one length, prunes, and finetunes at full epsilon for another;
HYDRA learns its scores for a fifth of one in between (Sehwag et al. 2020, arXiv 2002.10509: 100, 20 and 100 epochs);
the lottery ticket takes one a round (Frankle and Carbin 2019, arXiv 1803.03635); whoever prunes while it trains, or
never trains dense, takes one. With a `short ramp` epsilon and sparsity grow over the first 30 % of it, as large a part
as when a network is finetuned for as long as it was trained. Learning rate and kappa are the same for all. Accuracies
are those of the whole test split, by the whole cascade; compute is processor seconds of training on one thread.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from approaches import APPROACHES, COMMON, FIXED, MAGNITUDE, SMALL
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from trainings import FIGURES, Line, in_process, lines_of, train_all

RAW = Path(__file__).parent / "results" / "published_schedules"
LENGTHS = (5, 10, 20, 40)
SPARSITIES = (0.95, 0.99)
SEEDS = (0, 1, 2)
RAMP_END = 0.6


@dataclass(frozen=True)
class Published:
    """A schedule that takes `trainings` lengths; the ramp is that of the first, or runs in every round, and takes
    `ramp` of it."""

    values: Mapping[str, Any]
    trainings: float = 1.0
    rounds: bool = False
    ramp: float = RAMP_END

    def spec(self, length: int) -> dict[str, Any]:
        epochs = round(length * self.trainings)
        first = 1.0 if self.rounds else length / epochs
        ramp = {"start": 0.01 * first, "end": self.ramp * first}
        return COMMON | {"data": "mnist-5k", "batch_size": 128, "epochs": epochs, "ramp": ramp}


PRUNED_AFTER = "pretrain, prune, finetune"
SCHEDULES = {
    PRUNED_AFTER: Published({**MAGNITUDE, "schedule": "one-shot", "schedule.at": 0.5}, 2.0),
    "HYDRA": Published(APPROACHES["HYDRA"] | {"schedule.at": 1 / 2.2, "score.span": 0.2 / 2.2}, 2.2),
    "IMP, 5 rounds": Published(APPROACHES["IMP"], 5.0, rounds=True),
    "magnitude, gradual": Published(APPROACHES["magnitude, gradual"] | {"schedule.end": 0.6}),
    "magnitude, gradual, short ramp": Published(
        APPROACHES["magnitude, gradual"] | {"schedule.end": RAMP_END / 2}, ramp=RAMP_END / 2
    ),
    "SparseVLR": Published(APPROACHES["SparseVLR"] | {"schedule.end": 0.6}),
    "SparseVLR, short ramp": Published(APPROACHES["SparseVLR"] | {"schedule.end": RAMP_END / 2}, ramp=RAMP_END / 2),
}


@dataclass(frozen=True)
class Run:
    """One training."""

    schedule: str
    sparsity: float
    length: int
    seed: int

    @property
    def key(self) -> str:
        return json.dumps([self.schedule, self.sparsity, self.length, self.seed])

    def line(self) -> Line:
        schedule = SCHEDULES[self.schedule]
        values = FIXED | SMALL | {"architecture.width": 0.5, "sparsity": self.sparsity} | dict(schedule.values)
        told = {"schedule": self.schedule, "sparsity": self.sparsity, "length": self.length}
        return {"key": self.key, **told, **in_process(schedule.spec(self.length), values, self.seed)}


def run(workers: int) -> None:
    train_all(
        [
            Run(schedule, sparsity, length, seed)
            for seed in SEEDS
            for length in LENGTHS
            for sparsity in SPARSITIES
            for schedule in SCHEDULES
        ],
        RAW / "mnist-5k.jsonl",
        workers,
    )


def report(workers: int) -> None:
    lines = list(lines_of(RAW / "mnist-5k.jsonl").values())
    figure = Figure(figsize=(5.5 * len(SPARSITIES), 4.5), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    for sparsity, axes in zip(SPARSITIES, figure.subplots(1, len(SPARSITIES), squeeze=False)[0], strict=True):
        curves = {name: curve(lines, name, sparsity) for name in SCHEDULES}
        reference = curves[PRUNED_AFTER]
        if not reference:
            print(f"{sparsity:.0%}: nothing has been run yet")
            continue
        # The longest but one: the others then have room on either side.
        wanted = reference[-2 if len(reference) > 1 else -1].verified
        print(f"\n{sparsity:.0%} sparse, {reference[0].seeds} seed(s); verified on test, processor seconds\n")
        print("| schedule | " + " | ".join(f"length {length}" for length in LENGTHS) + f" | to {wanted:.1%} | ratio |")
        print("|---|" + "---|" * (len(LENGTHS) + 2))
        needed = {name: compute_to(points, wanted) for name, points in curves.items()}
        for name, points in curves.items():
            if not points:
                print(f"| {name} |" + " not run |" * len(LENGTHS) + " | |")
                continue
            by_length = {point.length: point for point in points}
            cells = [cell(by_length.get(length)) for length in LENGTHS]
            ratio = needed[name] / needed[PRUNED_AFTER]
            compute = f"{needed[name]:.0f} s" if math.isfinite(ratio) else "never"
            print(f"| {name} | {' | '.join(cells)} | {compute} | {ratio:.2f} |")
            seconds, verified = [point.seconds for point in points], [point.verified for point in points]
            axes.errorbar(seconds, verified, [point.spread for point in points], fmt="o-", ms=4, capsize=2, label=name)
        axes.axhline(wanted, color="0.5", lw=0.8, ls=":")
        axes.set_xscale("log")
        axes.set_title(f"mnist-5k, {sparsity:.0%} sparse", loc="left")
        axes.set(xlabel="processor seconds of training", ylabel="verified accuracy, mean and s.d.")
        axes.grid(color="0.92")
        axes.legend(fontsize=8)
    FIGURES.mkdir(parents=True, exist_ok=True)
    figure.savefig(FIGURES / "published_schedules.png")
    print("\nplot: published_schedules.png")


@dataclass(frozen=True)
class Point:
    """A schedule at one length, over its seeds."""

    length: int
    seconds: float
    verified: float
    spread: float
    seeds: int


def curve(lines: Sequence[Line], schedule: str, sparsity: float) -> list[Point]:
    points = []
    for length in LENGTHS:
        mine = [
            line
            for line in lines
            if (line["schedule"], line["sparsity"], line["length"]) == (schedule, sparsity, length)
            and "error" not in line
        ]
        if mine:
            verified = [line["test"]["verified_accuracy"] for line in mine]
            spread = statistics.stdev(verified) if len(verified) > 1 else 0.0
            seconds = statistics.median(line["train_processor_seconds"] for line in mine)
            points.append(Point(length, seconds, statistics.mean(verified), spread, len(mine)))
    return points


def cell(point: Point | None) -> str:
    if point is None:
        return "not run"
    spread = f" ± {100 * point.spread:.1f}" if point.seeds > 1 else ""
    return f"{100 * point.verified:.1f}{spread} ({point.seconds:.0f} s)"


def compute_to(points: Sequence[Point], wanted: float) -> float:
    """Seconds at which the curve first reaches `wanted`, linear in the logarithm of seconds between its points."""
    if not points or max(point.verified for point in points) < wanted:
        return math.inf
    reached = next(index for index, point in enumerate(points) if point.verified >= wanted)
    if reached == 0:
        return points[0].seconds
    before, after = points[reached - 1], points[reached]
    share = (wanted - before.verified) / (after.verified - before.verified)
    return float(np.exp(np.log(before.seconds) * (1 - share) + np.log(after.seconds) * share))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=["run", "report"])
    parser.add_argument("--workers", type=int, default=2)
    asked = parser.parse_args()
    {"run": run, "report": report}[asked.command](asked.workers)
