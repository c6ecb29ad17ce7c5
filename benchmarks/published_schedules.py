"""What pretraining, rounds and scores cost: each approach by its published schedule, over several lengths of training.

    python benchmarks/published_schedules.py run [--workers 2]    # resumable; an hour or two of one core
    python benchmarks/published_schedules.py report               # table and plot from the checked-in raw data

A length is the number of epochs of one training, its epsilon ramp over the first 60 %. Schedules differ in how many of
those they take: pretrain-prune-finetune trains dense for one length, prunes, and finetunes at full epsilon for another;
HYDRA learns its scores for a fifth of one in between (Sehwag et al. 2020, arXiv 2002.10509: 100, 20 and 100 epochs);
the lottery ticket takes one a round (Frankle and Carbin 2019, arXiv 1803.03635); whoever prunes while it trains, or
never trains dense, takes one. With a `short ramp` epsilon and sparsity grow over the first 30 % of it, as large a part
as when a network is finetuned for as long as it was trained. Each schedule is tuned equally at either sparsity: one
training of length 20 with each of four learning rates, of which the best one on the validation split is taken at all
lengths, with other seeds. Accuracies are those of the whole test split, by the whole cascade; compute is processor
seconds of training on one thread, without the tuning.
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
from approaches import APPROACHES, COMMON, FIXED, MAGNITUDE, SMALL, TUNING_SEED
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter
from trainings import FIGURES, Line, in_process, lines_of, train_all, verified

RAW = Path(__file__).parent / "results" / "published_schedules" / "mnist-5k.jsonl"
LENGTHS = (5, 10, 20, 40)
SPARSITIES = (0.95, 0.99)
SEEDS = (0, 1, 2)
RAMP_END = 0.6
LEARNING_RATES, TUNED_LENGTH = (3e-3, 6e-3, 1.2e-2, 2.4e-2), 20
TICKS, SHOWN = (2, 5, 10, 20, 50), (0.55, 0.95)


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


def trained_once(approach: str) -> dict[str, Published]:
    """An approach that is sparse by the end of its ramp, with either ramp."""
    return {
        name: Published(APPROACHES[approach] | {"schedule.end": end}, ramp=end)
        for name, end in ((approach, RAMP_END), (f"{approach}, short ramp", RAMP_END / 2))
    }


PRUNED_AFTER = "pretrain, prune, finetune"
SCHEDULES = {
    PRUNED_AFTER: Published({**MAGNITUDE, "schedule": "one-shot", "schedule.at": 0.5}, 2.0),
    "HYDRA": Published(APPROACHES["HYDRA"] | {"schedule.at": 1 / 2.2, "score.span": 0.2 / 2.2}, 2.2),
    "IMP, 5 rounds": Published(APPROACHES["IMP"], 5.0, rounds=True),
    **trained_once("magnitude, gradual"),
    **trained_once("SparseVLR"),
    **trained_once("SparseVLR, from half"),
}


@dataclass(frozen=True)
class Run:
    """One training."""

    schedule: str
    sparsity: float
    length: int
    seed: int
    learning_rate: float

    @property
    def key(self) -> str:
        return json.dumps([self.schedule, self.sparsity, self.length, self.seed, self.learning_rate])

    def line(self) -> Line:
        schedule = SCHEDULES[self.schedule]
        fixed = FIXED | SMALL | {"architecture.width": 0.5, "optimizer.learning_rate": self.learning_rate}
        told = {"schedule": self.schedule, "sparsity": self.sparsity, "length": self.length}
        values = fixed | {"sparsity": self.sparsity} | dict(schedule.values)
        return {"key": self.key, **told, **in_process(schedule.spec(self.length), values, self.seed)}


def tuning() -> dict[tuple[str, float], list[Run]]:
    """By schedule and sparsity."""
    return {
        (schedule, sparsity): [Run(schedule, sparsity, TUNED_LENGTH, TUNING_SEED, rate) for rate in LEARNING_RATES]
        for sparsity in SPARSITIES
        for schedule in SCHEDULES
    }


def counting(lines: Mapping[str, Line]) -> list[Run]:
    """The runs that count, of the schedules whose tuning is complete."""
    best = {
        case: max(tried, key=lambda run: verified(lines[run.key], "validation")).learning_rate
        for case, tried in tuning().items()
        if all(run.key in lines for run in tried)
    }
    return [
        Run(schedule, sparsity, length, seed, rate)
        for seed in SEEDS
        for length in LENGTHS
        for (schedule, sparsity), rate in best.items()
    ]


def run(workers: int) -> None:
    train_all([one for tried in tuning().values() for one in tried], RAW, workers)
    train_all(counting(lines_of(RAW)), RAW, workers)


def report(workers: int) -> None:
    lines = lines_of(RAW)
    counted = [(one, lines[one.key]) for one in counting(lines) if one.key in lines]
    figure = Figure(figsize=(5.5 * len(SPARSITIES), 4.5), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    for sparsity, axes in zip(SPARSITIES, figure.subplots(1, len(SPARSITIES), squeeze=False)[0], strict=True):
        curves = {name: curve(counted, name, sparsity) for name in SCHEDULES}
        reference = curves[PRUNED_AFTER]
        if not reference:
            print(f"{sparsity:.0%}: nothing has been run yet")
            continue
        # The longest but one: the others then have room on either side.
        wanted = reference[-2 if len(reference) > 1 else -1].verified
        print(f"\n{sparsity:.0%} sparse, {reference[0].seeds} seed(s); verified on test, processor seconds\n")
        lengths = " | ".join(f"length {length}" for length in LENGTHS)
        print(f"| schedule | learning rate | {lengths} | to {wanted:.1%} | ratio |")
        print("|---|" + "---|" * (len(LENGTHS) + 3))
        rates = {one.schedule: one.learning_rate for one, _ in counted if one.sparsity == sparsity}
        needed = {name: compute_to(points, wanted) for name, points in curves.items()}
        for name, points in curves.items():
            if not points:
                print(f"| {name} | |" + " not run |" * len(LENGTHS) + " | |")
                continue
            by_length = {point.length: point for point in points}
            cells = [cell(by_length.get(length)) for length in LENGTHS]
            ratio = needed[name] / needed[PRUNED_AFTER]
            compute = f"{needed[name]:.0f} s" if math.isfinite(ratio) else "never"
            print(f"| {name} | {rates[name]:g} | {' | '.join(cells)} | {compute} | {ratio:.2f} |")
            axes.errorbar(
                [point.seconds for point in points],
                [point.verified for point in points],
                [point.spread for point in points],
                fmt="o-",
                ms=4,
                capsize=2,
                label=name,
            )
        axes.axhline(wanted, color="0.5", lw=0.8, ls=":")
        axes.set_xscale("log")
        axes.set_xticks(TICKS, [str(tick) for tick in TICKS])
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.set_ylim(*SHOWN)
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


def curve(counted: Sequence[tuple[Run, Line]], schedule: str, sparsity: float) -> list[Point]:
    points = []
    for length in LENGTHS:
        mine = [
            line
            for one, line in counted
            if (one.schedule, one.sparsity, one.length) == (schedule, sparsity, length) and "error" not in line
        ]
        if mine:
            accuracies = [verified(line, "test") for line in mine]
            spread = statistics.stdev(accuracies) if len(accuracies) > 1 else 0.0
            seconds = statistics.median(line["train_processor_seconds"] for line in mine)
            points.append(Point(length, seconds, statistics.mean(accuracies), spread, len(mine)))
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
