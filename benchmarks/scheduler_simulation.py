"""A thousand workers, a hundred thousand trials, simulated: how fast the driver decides, how idle it leaves workers.

    python benchmarks/scheduler_simulation.py run       # about ten minutes on one core
    python benchmarks/scheduler_simulation.py report    # table and plot from the checked-in raw data

No training: the seconds between two rungs are drawn (log-normal, proportional to the epochs between them, differing by
a factor of about three from trial to trial), and so is what a trial scores there (its quality, falling with sparsity,
and noise that shrinks with every rung). The `driver` cases are the real `StudyRun` with the real sampler (random: a
model of the past takes 10 ms and more a question) and a store that forgets or a real one; the `scheduler` cases are the
early-stopping rule alone. A decision is a report that is answered or a trial that is handed out; its processor time
includes the simulation's own.
"""

from __future__ import annotations

import argparse
import heapq
import json
import math
import resource
import tempfile
import time
from collections.abc import Mapping
from itertools import count
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from machine import machine
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from sparsevlr.results import Record, Store
from sparsevlr.search.asha import SCHEDULERS
from sparsevlr.search.study_run import StudyRun
from sparsevlr.spaces import StudySpec, load_spec

RAW = Path(__file__).parent / "results" / "scheduler_simulation"
FIGURE = Path(__file__).parents[1] / "docs" / "figures" / "scheduler_simulation.png"
WORKERS, TRIALS = 1_000, 100_000
WEIGHTS = 100_000
CASES = {
    "scheduler-promotion": ("promotion", "scheduler"),
    "scheduler-stopping": ("stopping", "scheduler"),
    "driver-promotion": ("promotion", "forgets"),
    "driver-stopping": ("stopping", "forgets"),
    "driver-promotion-store": ("promotion", "on disk"),
}


class Nothing:
    """A store that forgets."""

    def append(self, records: object) -> None: ...

    def discard_checkpoint(self, path: str) -> None: ...


class World:
    """What trials take and score, drawn once."""

    def __init__(self, trials: int, rungs: tuple[int, ...]) -> None:
        rng = np.random.default_rng(0)
        self._rungs = (0, *rungs)
        self._speed = rng.lognormal(0.0, 0.5, trials)
        self._quality = rng.normal(0.0, 0.05, trials)
        self._noise = rng.normal(0.0, 0.05, (trials, len(rungs))) / np.arange(1, len(rungs) + 1)

    def seconds(self, trial: int, rung: int) -> float:
        return float(self._speed[trial] * (self._rungs[rung + 1] - self._rungs[rung]))

    def accuracy(self, trial: int, rung: int, sparsity: float) -> float:
        value = 0.9 - 0.2 * sparsity**8 + self._quality[trial] + self._noise[trial, rung]
        return float(min(max(value, 0.0), 1.0))


def simulate(spec: StudySpec, driver: Any, world: World) -> dict[str, Any]:
    clock, busy, decisions, ticket = 0.0, 0.0, 0, count()
    working: list[tuple[float, int, int, int]] = []
    rates: list[tuple[int, float]] = []
    started = time.process_time()
    idle_while_open = 0.0
    while True:
        while len(working) < WORKERS:
            handed = driver.next()
            if handed is None:
                break
            decisions += 1
            trial, rung = handed
            seconds = world.seconds(trial, rung)
            busy += seconds
            heapq.heappush(working, (clock + seconds, next(ticket), trial, rung))
        if not working:
            break
        before = clock
        clock, _, trial, rung = heapq.heappop(working)
        if driver.open:
            idle_while_open += (WORKERS - len(working) - 1) * (clock - before)
        goes_on = driver.reported(trial, rung, world)
        decisions += 1
        if goes_on:
            seconds = world.seconds(trial, rung + 1)
            busy += seconds
            heapq.heappush(working, (clock + seconds, next(ticket), trial, rung + 1))
        if decisions % 5_000 < 2:
            rates.append((decisions, time.process_time() - started))
    return {
        "decisions": decisions,
        "process_seconds": round(time.process_time() - started, 2),
        "idle_fraction": 1.0 - busy / (WORKERS * clock),
        "idle_fraction_while_trials_are_left": idle_while_open / (WORKERS * clock),
        "peak_memory_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "rates": rates,
        "clock": clock,
    }


class SchedulerAlone:
    """The rule without anything around it."""

    def __init__(self, spec: StudySpec) -> None:
        self._spec, self._rungs = spec, len(spec.rungs)
        self._asha = SCHEDULERS[spec.scheduler.kind](self._rungs, spec.scheduler.eta)
        self._sparsity = 1.0 - 10 ** -np.random.default_rng(1).uniform(0, 2.3, spec.trials)
        self._begun, self._at = 0, dict[int, int]()

    @property
    def open(self) -> bool:
        return self._begun < self._spec.trials

    def next(self) -> tuple[int, int] | None:
        promotion = self._asha.next_promotion(exact=not self.open)
        if promotion is not None:
            self._asha.leave(promotion)
            trial = int(promotion)
            self._at[trial] += 1
            return trial, self._at[trial]
        if not self.open:
            return None
        self._begun += 1
        self._at[self._begun - 1] = 0
        return self._begun - 1, 0

    def reported(self, trial: int, rung: int, world: World) -> bool:
        if rung == self._rungs - 1:
            return False
        sparsity = float(self._sparsity[trial])
        return self._asha.enter(f"{trial:06d}", rung, (world.accuracy(trial, rung, sparsity), sparsity)) == "continue"


class Driver:
    """The real driver."""

    def __init__(self, spec: StudySpec, store: Any) -> None:
        self._spec, self._run = spec, StudyRun(spec, store)
        self._configs: dict[int, Any] = {}

    @property
    def open(self) -> bool:
        return len(self._configs) < self._spec.trials

    def next(self) -> tuple[int, int] | None:
        assignment = self._run.next_trial()
        if assignment is None:
            return None
        config = assignment.config
        self._run.started(config.trial_id)
        self._configs[int(config.trial_id)] = config
        done = self._run.reports.get(config.trial_id)
        return int(config.trial_id), 0 if done is None else done.rung + 1

    def reported(self, trial: int, rung: int, world: World) -> bool:
        config = self._configs[trial]
        sparsity = config.target_sparsity
        accuracy = world.accuracy(trial, rung, sparsity)
        report = Record(
            event="report",
            trial_id=config.trial_id,
            config=config.values_json(),
            seed=config.seed,
            rung=rung,
            split="validation",
            epoch=self._spec.rungs[rung],
            sparsity=sparsity,
            target_sparsity=sparsity,
            total_weights=WEIGHTS,
            nonzero_weights=round(WEIGHTS * (1 - sparsity)),
            natural_accuracy=accuracy,
            verified_accuracy=accuracy,
            verified_auc=accuracy,
            verified_ramp=accuracy,
            checkpoint=f"checkpoints/{config.trial_id}/rung-{rung}",
        )
        return self._run.reported(report) == "continue"


def case(name: str, workers: int, trials: int) -> None:
    kind, what = CASES[name]
    scheduler = {"kind": kind, "eta": 3, "first_rung": 3}
    content = load_spec("digits").to_dict()
    spec = StudySpec.from_dict(content | {"epochs": 81, "trials": trials, "sampler": "random", "scheduler": scheduler})
    world = World(trials, spec.rungs)
    with tempfile.TemporaryDirectory(prefix="sparsevlr-") as folder:
        if what == "scheduler":
            result = simulate(spec, SchedulerAlone(spec), world)
        elif what == "forgets":
            result = simulate(spec, Driver(spec, Nothing()), world)
        else:
            with Store.create(f"{folder}/study", spec.to_dict()) as store:
                result = simulate(spec, Driver(spec, store), world)
    result |= {"workers": workers, "trials": trials}
    (RAW / f"{name}.json").write_text(json.dumps(result) + "\n")
    print(name, {key: value for key, value in result.items() if key != "rates"}, flush=True)


def run() -> None:
    RAW.mkdir(parents=True, exist_ok=True)
    (RAW / "machine.json").write_text(json.dumps(machine(), indent=1) + "\n")
    for name in CASES:
        if not (RAW / f"{name}.json").exists():
            # A process each, so that peak memory is its own.
            process = get_context("spawn").Process(target=case, args=(name, WORKERS, TRIALS))
            process.start()
            process.join()


def report() -> None:
    figure = Figure(figsize=(7, 4.5), dpi=130, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    print("| case | decisions | a second | idle workers | idle while trials are left | peak memory |")
    print("|---|---|---|---|---|---|")
    for name, (kind, what) in CASES.items():
        if not (RAW / f"{name}.json").exists():
            print(f"| {name} | not run | | | | |")
            continue
        raw: Mapping[str, Any] = json.loads((RAW / f"{name}.json").read_text())
        label = f"{'rule alone' if what == 'scheduler' else 'driver, store ' + what}, {kind}"
        print(
            f"| {label} | {raw['decisions']:,} | {raw['decisions'] / raw['process_seconds']:,.0f} | "
            f"{raw['idle_fraction']:.2%} | {raw['idle_fraction_while_trials_are_left']:.3%} | "
            f"{raw['peak_memory_mb']:,.0f} MB |"
        )
        points = np.array(raw["rates"], dtype=float)
        step = max(1, len(points) // 30)
        points = points[::step]
        rate = np.diff(points[:, 0]) / np.maximum(np.diff(points[:, 1]), math.ulp(1.0))
        axes.plot(points[1:, 0], rate, lw=1.4, label=label)
    axes.axhline(1_000, color="0.5", lw=0.8, ls=":")
    axes.set_yscale("log")
    axes.set(xlabel="decisions so far", ylabel="decisions a second of processor time")
    axes.set_title(f"{WORKERS:,} workers, {TRIALS:,} trials, simulated", loc="left")
    axes.grid(color="0.92")
    axes.legend(fontsize=8)
    FIGURE.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(FIGURE)
    print(f"\nplot: {FIGURE.name}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=["run", "report"])
    {"run": run, "report": report}[parser.parse_args().command]()
