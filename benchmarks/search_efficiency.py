"""How much compute each search policy needs to find the front: replays on recorded learning curves.

    python benchmarks/search_efficiency.py run [PRESET ...]      # about an hour on one core; resumable
    python benchmarks/search_efficiency.py live [PRESET ...]     # one search per policy with real training; resumable
    python benchmarks/search_efficiency.py report [PRESET ...]   # table and plots from the checked-in raw data

Every policy searches the same pool of recorded configurations (`learning_curves.py`) with the same starting points, on
`WORKERS` workers, once per seed. Sampler, scheduler and driver are the real ones; only training is replayed: what a
sampler proposes becomes the nearest recorded configuration that this search has not had yet, and its seconds pass on a
simulated clock. Compute is processor seconds of training and verification, of everything that was begun.

The front lies between -log10(density), capped at 99.5 % sparsity, and verified accuracy; the reference point is density
1 and 15 points below the dense network. Members are always chosen on the validation split and measured on the test
split; so is the reference front, the one of all that any policy has completed.
"""

from __future__ import annotations

import argparse
import heapq
import json
import math
import statistics
import time
from abc import ABC, abstractmethod
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from copy import copy
from dataclasses import dataclass, replace
from functools import cache, cached_property
from itertools import count
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from learning_curves import RAW as CURVES
from machine import machine
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from ray.tune.schedulers.async_hyperband import AsyncHyperBandScheduler, _Bracket

from sparsevlr.results import Record
from sparsevlr.results.pareto import front_mask, hypervolume, order_by_rank_and_spread
from sparsevlr.search.asha import ParetoASHA, PromotionASHA, StoppingASHA
from sparsevlr.search.bands import BANDS
from sparsevlr.search.sampler import Sampler
from sparsevlr.search.study_run import StudyRun
from sparsevlr.spaces import Categorical, Constant, Float, Int, StudySpec, TrialConfig, load_dataset
from sparsevlr.trainables import Trial
from sparsevlr.trainables.errors import TrialError

RAW = Path(__file__).parent / "results" / "search_efficiency"
FIGURES = Path(__file__).parents[1] / "docs" / "figures"
PRESETS = ("digits", "mnist-5k")
SEEDS = range(20)
LIVE_TRIALS, LIVE_SEED = 60, 100
WORKERS = 4
SHARE = 0.95
BELOW_DENSE = 0.15
MOST_SPARSE = 0.995


class Pool:
    """Recorded configurations with their curves."""

    def __init__(self, preset: str) -> None:
        content = json.loads((CURVES / f"{preset}.spec.json").read_text())
        lines = [json.loads(line) for line in (CURVES / f"{preset}.jsonl").read_text().splitlines()]
        lines.sort(key=lambda line: str(line["trial_id"]))
        self.lines = [line for line in lines if not line["trial_id"].startswith("dense")]
        self.dense = [line for line in lines if line["trial_id"].startswith("dense")]
        self._by_id = {line["trial_id"]: line for line in self.lines}
        self.spec = StudySpec.from_dict(content | {"trials": len(self.lines)})
        self.units = np.array([unit_point(self.spec, line["config"]) for line in self.lines])

    @cached_property
    def reference(self) -> tuple[float, float]:
        """Density 1, and 15 points below the mean test accuracy of the dense starting point."""
        dense = statistics.mean(line["test"]["verified_accuracy"] for line in [self.lines[0], *self.dense])
        return 0.0, dense - BELOW_DENSE

    @cached_property
    def reference_volume(self) -> float:
        return volume([self.ends(line["trial_id"]) for line in self.lines if "error" not in line], self.reference)

    def line(self, trial_id: str) -> dict[str, Any]:
        return self._by_id[trial_id]

    def ends(self, trial_id: str) -> Ends:
        line = self._by_id[trial_id]
        return Ends.of(line["curve"][-1]["sparsity"], line["validation"], line["test"])

    def with_spec(self, spec: StudySpec) -> Pool:
        other = copy(self)
        other.spec = spec
        return other


class Ends(NamedTuple):
    """Where a configuration ends up on either split: -log10(density) and verified accuracy."""

    validation: tuple[float, float]
    test: tuple[float, float]

    @classmethod
    def of(cls, sparsity: float, validation: Mapping[str, Any], test: Mapping[str, Any]) -> Ends:
        x = -math.log10(1.0 - min(sparsity, MOST_SPARSE))
        return cls((x, validation["verified_accuracy"]), (x, test["verified_accuracy"]))


def volume(ends: Sequence[Ends], reference: tuple[float, float]) -> float:
    """Hypervolume on the test split of the front on the validation split."""
    front = front_mask([end.validation for end in ends])
    return hypervolume([end.test for end, member in zip(ends, front, strict=True) if member], reference)


def unit_point(spec: StudySpec, values: Mapping[str, Any]) -> list[float]:
    """Coordinates in which configurations are near: numbers in units of their scale, choices one apart."""
    point: list[float] = []
    for name, parameter in spec.space.parameters.items():
        value = values.get(name)
        if isinstance(parameter, Float):
            point.append(-1.0 if value is None else parameter.to_unit(value))
        elif isinstance(parameter, Int):
            point.append(-1.0 if value is None else (value - parameter.low) / (parameter.high - parameter.low))
        elif isinstance(parameter, Categorical):
            chosen = tuple(value) if isinstance(value, list) else value
            point += [math.sqrt(0.5) * (choice == chosen) for choice in parameter.choices]
        else:
            assert isinstance(parameter, Constant)
    return point


class PoolSampler(Sampler):
    """Asks as the real sampler does, and takes the nearest configuration of the pool that is left."""

    def __init__(self, pool: Pool) -> None:
        super().__init__(pool.spec)
        self._pool, self._left = pool, dict.fromkeys(range(len(pool.lines)))

    def ask(self, number: int) -> TrialConfig:
        if number < len(self._pool.spec.starting_points):
            nearest = number
        else:
            proposed = self._draw(number, "proposed", {})
            self.tell("proposed", None)
            left = np.array(list(self._left))
            distances = np.square(self._pool.units[left] - unit_point(self._pool.spec, proposed)).sum(axis=1)
            nearest = int(left[distances.argmin()])
        del self._left[nearest]
        line = self._pool.lines[nearest]
        config = TrialConfig(trial_id=line["trial_id"], seed=line["seed"], values=line["config"])
        self.ask_again(number, config)
        return config


class PlainSampler(Sampler):
    """Lets the sampler choose the sparsity too, as one would without this package."""

    def _fixed(self, number: int, starting_point: Mapping[str, Any]) -> dict[str, Any]:
        return dict(starting_point)


class PlainPoolSampler(PoolSampler, PlainSampler):
    """The same on the pool."""


class RayASHA(ParetoASHA):
    """Ray's own asynchronous successive halving on verified accuracy alone: its class decides."""

    def __init__(self, rungs: int, eta: float, epochs: Sequence[int]) -> None:
        super().__init__(rungs, eta)
        self._epochs = epochs
        self._bracket = _Bracket(epochs[0], epochs[-1], eta, 0)

    def enter(self, trial: str, rung: int, values: Sequence[float]) -> str:
        action = self._bracket.on_result(_Named(trial), self._epochs[rung], values[0])
        return "stop" if action == AsyncHyperBandScheduler.STOP else "continue"

    def leave(self, trial: str) -> None:
        raise NotImplementedError

    def next_promotion(self, *, exact: bool = False) -> str | None:
        return None


@dataclass(frozen=True)
class _Named:
    trial_id: str


class SyneTuneRule(RayASHA):
    """The rule of Syne Tune's MOASHA: the order of the items by priority is taken for a rank per item."""

    def enter(self, trial: str, rung: int, values: Sequence[float]) -> str:
        points = np.array([*self._entries[rung].values(), tuple(values)], dtype=float)
        self._entries[rung][trial] = tuple(values)
        if len(points) == 1:
            return "continue"
        mistaken = int(order_by_rank_and_spread(points)[-1])
        return "stop" if mistaken / len(points) > 1 / self._eta else "continue"


def by_crowding(kind: type[ParetoASHA]) -> Callable[[int, float, Sequence[int]], ParetoASHA]:
    return lambda rungs, eta, epochs: kind(rungs, eta, "crowding")


class Nothing:
    """A store that forgets."""

    def append(self, records: object) -> None: ...

    def discard_checkpoint(self, path: str) -> None: ...


@dataclass(frozen=True)
class Policy:
    """How configurations are chosen and stopped; `plain` is without our hand in the choice of sparsity."""

    label: str
    sampler: str
    kind: str = "none"
    asha: Callable[[int, float, Sequence[int]], ParetoASHA] | None = None
    plain: bool = False

    def spec(self, spec: StudySpec, **changes: Any) -> StudySpec:
        scheduler = spec.to_dict()["scheduler"] | {"kind": self.kind}
        return StudySpec.from_dict(spec.to_dict() | {"sampler": self.sampler, "scheduler": scheduler} | changes)


POLICIES = {
    "promotion": Policy("Pareto ASHA, promotion; TPE", "tpe", "promotion"),
    "stopping": Policy("Pareto ASHA, stopping; TPE", "tpe", "stopping"),
    "promotion-crowding": Policy(
        "Pareto ASHA, promotion, ties by crowding; TPE", "tpe", "promotion", asha=by_crowding(PromotionASHA)
    ),
    "stopping-crowding": Policy(
        "Pareto ASHA, stopping, ties by crowding; TPE", "tpe", "stopping", asha=by_crowding(StoppingASHA)
    ),
    "promotion-random": Policy("Pareto ASHA, promotion; random", "random", "promotion"),
    "stopping-random": Policy("Pareto ASHA, stopping; random", "random", "stopping"),
    "ray-asha": Policy("Ray's ASHA on verified accuracy; TPE", "tpe", "stopping", asha=RayASHA),
    "syne-tune-rule": Policy("Syne Tune's MOASHA rule; TPE", "tpe", "stopping", asha=SyneTuneRule),
    "nsga2": Policy("Optuna's NSGA-II, none stopped", "nsga2", plain=True),
    "random": Policy("random, none stopped", "random", plain=True),
}


LIVE = ("stopping", "promotion", "ray-asha", "syne-tune-rule", "random", "nsga2")
"""What is confirmed by a live search; the others vary ours."""


class Driven(StudyRun):
    """A study with a policy's sampler and scheduler."""

    def __init__(self, spec: StudySpec, policy: Policy, sampler: Sampler) -> None:
        super().__init__(spec, Nothing())  # type: ignore[arg-type]
        self._sampler = sampler
        if policy.asha is not None:
            self._asha = policy.asha(len(spec.rungs), spec.scheduler.eta, spec.rungs)


class Search(ABC):
    """A search on simulated workers; what trials do is up to the subclass."""

    def __init__(self, pool: Pool, policy: Policy, spec: StudySpec, sampler: Sampler) -> None:
        self.pool, self.policy = pool, policy
        self.run = Driven(spec, policy, sampler)

    @abstractmethod
    def advance(self, config: TrialConfig, rung: int) -> tuple[float, Record]:
        """Processor seconds from the rung before to this one, and the report; or a record of failure."""

    @abstractmethod
    def ended(self, config: TrialConfig) -> Any:
        """What to note of a completed trial."""

    def search(self) -> dict[str, Any]:
        """Run to the end; `completed` lists trials with the compute that all trials had used by then."""
        run, clock, compute, ticket = self.run, 0.0, 0.0, count()
        working: list[tuple[float, int, TrialConfig, float, Record]] = []
        completed: list[tuple[Any, float]] = []

        def begin(config: TrialConfig, rung: int) -> None:
            seconds, record = self.advance(config, rung)
            heapq.heappush(working, (clock + seconds, next(ticket), config, seconds, record))

        while True:
            while len(working) < WORKERS and (assignment := run.next_trial()) is not None:
                config = assignment.config
                run.started(config.trial_id)
                done = run.reports.get(config.trial_id)
                begin(config, 0 if done is None else done.rung + 1)
            if not working:
                break
            clock, _, config, seconds, record = heapq.heappop(working)
            compute += seconds
            if record.event == "failed":
                run.failed(config.trial_id, record.error)
                continue
            decision = run.reported(record)
            if decision == "continue":
                begin(config, record.rung + 1)
            elif decision == "complete":
                completed.append((self.ended(config), round(compute, 1)))
        return {
            "completed": completed,
            "begun": len(run.states),
            "total_compute": round(compute, 1),
            "clock": round(clock, 1),
        }


class Replay(Search):
    """Trials are those of the pool."""

    def __init__(self, pool: Pool, policy: Policy, seed: int) -> None:
        spec = policy.spec(pool.spec, seed=seed, trials=len(pool.lines))
        super().__init__(pool, policy, spec, (PlainPoolSampler if policy.plain else PoolSampler)(pool.with_spec(spec)))

    def advance(self, config: TrialConfig, rung: int) -> tuple[float, Record]:
        line = self.pool.line(config.trial_id)
        if "error" in line:
            return line["seconds"], Record(event="failed", trial_id=config.trial_id, error=line["error"])
        return stretch(line, self.run.spec.rungs, rung), report_of(line, self.run.spec, rung)

    def ended(self, config: TrialConfig) -> str:
        return config.trial_id


class Live(Search):
    """Trials are trained, one after the other in this process."""

    def __init__(self, pool: Pool, policy: Policy, seed: int) -> None:
        spec = policy.spec(pool.spec, seed=seed, trials=LIVE_TRIALS)
        super().__init__(pool, policy, spec, (PlainSampler if policy.plain else Sampler)(spec))
        self._data = load_dataset(spec.data)
        self._trials: dict[str, Trial] = {}

    def advance(self, config: TrialConfig, rung: int) -> tuple[float, Record]:
        started = time.process_time()
        try:
            trial = self._trials.get(config.trial_id)
            if trial is None:
                trial = self._trials[config.trial_id] = Trial(config, self.run.spec, self._data)
            record = trial.advance()
        except TrialError as error:
            record = Record(event="failed", trial_id=config.trial_id, error=str(error))
        return time.process_time() - started, replace(record, checkpoint=f"checkpoints/{config.trial_id}/rung-{rung}")

    def ended(self, config: TrialConfig) -> Ends:
        test = self._trials.pop(config.trial_id).score_on_test().to_dict()
        report = self.run.reports[config.trial_id].to_dict()
        return Ends.of(report["sparsity"], report, test)


def stretch(line: Mapping[str, Any], rungs: Sequence[int], rung: int) -> float:
    """Seconds from the rung before to this one: training, and scoring there."""
    rows = {row["epoch"]: row for row in line["curve"]}
    before = rows[rungs[rung - 1]]["train_seconds"] if rung else 0.0
    scored = line["validation"] if rung == len(rungs) - 1 else rows[rungs[rung]]
    return float(rows[rungs[rung]]["train_seconds"] - before + scored["verify_seconds"])


def report_of(line: Mapping[str, Any], spec: StudySpec, rung: int) -> Record:
    row = next(row for row in line["curve"] if row["epoch"] == spec.rungs[rung])
    scored = line["validation"] if rung == len(spec.rungs) - 1 else row
    return Record(
        event="report",
        trial_id=line["trial_id"],
        rung=rung,
        split="validation",
        epoch=row["epoch"],
        sparsity=row["sparsity"],
        target_sparsity=line["target_sparsity"],
        total_weights=row["total_weights"],
        nonzero_weights=row["nonzero_weights"],
        natural_accuracy=scored["natural_accuracy"],
        verified_accuracy=scored["verified_accuracy"],
        verified_auc=scored["verified_auc"],
        verified_ramp=scored["verified_current"],
        checkpoint=f"checkpoints/{line['trial_id']}/rung-{rung}",
    )


def task(preset: str, name: str, seed: int) -> tuple[str, str, dict[str, Any]]:
    return preset, name, {"seed": seed} | Replay(_pool(preset), POLICIES[name], seed).search()


@cache
def _pool(preset: str) -> Pool:
    return Pool(preset)


def run(presets: Sequence[str], workers: int) -> None:
    RAW.mkdir(parents=True, exist_ok=True)
    (RAW / "machine.json").write_text(json.dumps(machine(), indent=1) + "\n")
    for preset in presets:
        missing = [name for name in POLICIES if not (RAW / f"{preset}-{name}.json").exists()]
        results: dict[str, list[dict[str, Any]]] = {name: [] for name in missing}
        with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
            tasks = [pool.submit(task, preset, name, seed) for name in missing for seed in SEEDS]
            for future in as_completed(tasks):
                _, name, result = future.result()
                results[name].append(result)
                if len(results[name]) == len(SEEDS):
                    results[name].sort(key=lambda one: int(one["seed"]))
                    (RAW / f"{preset}-{name}.json").write_text(json.dumps(results[name]) + "\n")
                    print(f"{preset} {name}: written", flush=True)


def live(presets: Sequence[str], workers: int) -> None:
    """One search per policy of `LIVE` with real training in place of the replay, its configurations drawn freely."""
    RAW.mkdir(parents=True, exist_ok=True)
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        missing = [
            (preset, name) for preset in presets for name in LIVE if not (RAW / f"{preset}-{name}-live.json").exists()
        ]
        tasks = [pool.submit(live_search, preset, name) for preset, name in missing]
        for future in as_completed(tasks):
            preset, name, result = future.result()
            (RAW / f"{preset}-{name}-live.json").write_text(json.dumps(result) + "\n")
            print(f"{preset} {name} live: written", flush=True)


def live_search(preset: str, name: str) -> tuple[str, str, dict[str, Any]]:
    torch.set_num_threads(1)
    return preset, name, Live(_pool(preset), POLICIES[name], LIVE_SEED).search()


def curve_of(pool: Pool, result: Mapping[str, Any]) -> list[tuple[float, float]]:
    """Compute and share of the reference hypervolume, after each completed trial."""
    done: list[Ends] = []
    points = []
    for trial, compute in result["completed"]:
        done.append(pool.ends(trial) if isinstance(trial, str) else Ends(*map(tuple, trial)))
        points.append((compute, volume(done, pool.reference) / pool.reference_volume))
    return points


def compute_to(curve: Sequence[tuple[float, float]], share: float) -> float:
    return next((compute for compute, reached in curve if reached >= share), math.inf)


def report(presets: Sequence[str], workers: int) -> None:
    for preset in presets:
        pool = Pool(preset)
        curves = {
            name: [curve_of(pool, result) for result in json.loads((RAW / f"{preset}-{name}.json").read_text())]
            for name in POLICIES
        }
        needed = {name: [compute_to(curve, SHARE) for curve in of_seeds] for name, of_seeds in curves.items()}
        print(f"\n{preset}: compute to {SHARE:.0%} of the reference hypervolume, {len(SEEDS)} seeds\n")
        print("| policy | median s | quartiles | seeds that reach it | of random's (95 %) | hypervolume at the end |")
        print("|---|---|---|---|---|---|")
        for name, policy in POLICIES.items():
            low, high = np.quantile(needed[name], [0.25, 0.75], method="nearest")
            ratio, least, most = ratio_of_medians(needed[name], needed["random"])
            ends = statistics.median(curve[-1][1] for curve in curves[name])
            reached = sum(map(math.isfinite, needed[name]))
            print(
                f"| {policy.label} | {seconds(statistics.median(needed[name]))} | {seconds(low)} to {seconds(high)} | "
                f"{reached} of {len(SEEDS)} | {ratio:.2f} ({least:.2f} to {most:.2f}) | {ends:.1%} |"
            )
        sparse_end(pool, preset)
        confirmed(pool, preset)
        draw(preset, pool, curves)


def sparse_end(pool: Pool, preset: str) -> None:
    """What of the sparse end is left: the best test accuracy among completed trials in each band of sparsity."""
    print(f"\n{preset}: verified accuracy on the test split of the best by validation, mean over seeds, at the end\n")
    print("| policy |" + "".join(f" sparsity {band.name} |" for band in BANDS) + " completed |")
    print("|---" * (len(BANDS) + 2) + "|")
    for name, policy in POLICIES.items():
        results = json.loads((RAW / f"{preset}-{name}.json").read_text())
        cells = []
        for band in BANDS:
            found = []
            for result in results:
                rows = [pool.line(trial_id) for trial_id, _ in result["completed"]]
                inside = [row for row in rows if band.low <= row["curve"][-1]["sparsity"] < band.high]
                if inside:
                    best = max(inside, key=lambda row: float(row["validation"]["verified_accuracy"]))
                    found.append(best["test"]["verified_accuracy"])
            missing = f" ({len(results) - len(found)} without)" if len(found) < len(results) else ""
            cells.append(f" {statistics.mean(found):.1%}{missing} |" if found else " none |")
        completed = statistics.mean(len(result["completed"]) for result in results)
        print(f"| {policy.label} |" + "".join(cells) + f" {completed:.0f} |")


def confirmed(pool: Pool, preset: str) -> None:
    files = {name: RAW / f"{preset}-{name}-live.json" for name in LIVE}
    if not any(file.exists() for file in files.values()):
        return
    print(f"\n{preset}: one live search per policy, of the same reference\n")
    print("| policy | trials | completed | s to 95 % | s in all | hypervolume at the end |")
    print("|---|---|---|---|---|---|")
    for name, file in files.items():
        if file.exists():
            result = json.loads(file.read_text())
            curve = curve_of(pool, result)
            print(
                f"| {POLICIES[name].label} | {result['begun']} | {len(curve)} | {seconds(compute_to(curve, SHARE))} | "
                f"{result['total_compute']:.0f} | {curve[-1][1]:.1%} |"
            )


def seconds(value: float) -> str:
    return f"{value:.0f}" if math.isfinite(value) else "never"


def ratio_of_medians(ours: Sequence[float], others: Sequence[float]) -> tuple[float, float, float]:
    """With its 95 % interval, by resampling seeds."""
    rng = np.random.default_rng(0)
    drawn = rng.integers(len(ours), size=(2, 4000, len(ours)))
    with np.errstate(invalid="ignore"):
        ratios = np.median(np.array(ours)[drawn[0]], axis=1) / np.median(np.array(others)[drawn[1]], axis=1)
    low, high = np.nanquantile(ratios, [0.025, 0.975], method="nearest")
    return statistics.median(ours) / statistics.median(others), float(low), float(high)


def draw(preset: str, pool: Pool, curves: Mapping[str, Sequence[Sequence[tuple[float, float]]]]) -> None:
    figure = Figure(figsize=(11, 5), dpi=130, layout="constrained")
    FigureCanvasAgg(figure)
    axes, front = figure.subplots(1, 2, width_ratios=[3, 2])
    most = max(curve[-1][0] for of_seeds in curves.values() for curve in of_seeds)
    grid = np.geomspace(most / 300, most, 400)
    for number, (name, of_seeds) in enumerate(curves.items()):
        steps = np.array([_steps(curve, grid) for curve in of_seeds])
        middle, low, high = (np.quantile(steps, q, axis=0) for q in (0.5, 0.25, 0.75))
        style = "-" if "ASHA" in POLICIES[name].label else "--"
        axes.plot(grid, middle, style, color=f"C{number}", lw=1.6, label=POLICIES[name].label)
        axes.fill_between(grid, low, high, color=f"C{number}", alpha=0.08, lw=0)
    axes.axhline(SHARE, color="0.5", lw=0.8, ls=":")
    axes.set_xscale("log")
    axes.set_ylim(0.6, 1.01)
    axes.set(xlabel="training and verification, processor seconds", ylabel="share of the reference hypervolume (test)")
    axes.set_title(f"{preset}: median and quartiles over {len(SEEDS)} seeds", loc="left")
    axes.grid(color="0.92")
    axes.legend(fontsize=7.5, loc="lower right")
    ends = [pool.ends(line["trial_id"]) for line in pool.lines if "error" not in line]
    member = front_mask([end.validation for end in ends])
    front.plot(*zip(*(end.test for end in ends), strict=True), ".", color="0.75", ms=4, label="all recorded")
    chosen = sorted(end.test for end, inside in zip(ends, member, strict=True) if inside)
    front.plot(*zip(*chosen, strict=True), "o-", color="C3", ms=4, lw=1, label="front by validation")
    front.axhline(pool.reference[1], color="0.5", lw=0.8, ls=":", label="reference point")
    ticks = [0.0, 0.5, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995]
    front.set_xticks([-math.log10(1 - tick) for tick in ticks], [f"{100 * tick:g}" for tick in ticks], fontsize=8)
    front.set(xlabel="sparsity (% of weights removed)", ylabel="verified accuracy on the test split")
    front.legend(fontsize=7.5, loc="lower left")
    front.grid(color="0.92")
    FIGURES.mkdir(parents=True, exist_ok=True)
    file = FIGURES / f"search_efficiency_{preset}.png"
    figure.savefig(file)
    print(f"\nplot: {file.name}")


def _steps(curve: Sequence[tuple[float, float]], grid: Sequence[float]) -> list[float]:
    times = [compute for compute, _ in curve]
    return [curve[index - 1][1] if (index := bisect_right(times, at)) else 0.0 for at in grid]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=["run", "live", "report"])
    parser.add_argument("presets", nargs="*", default=PRESETS)
    parser.add_argument("--workers", type=int, default=2)
    asked = parser.parse_args()
    {"run": run, "live": live, "report": report}[asked.command](asked.presets, asked.workers)
