"""How much compute each search policy needs to find the front: replays on recorded learning curves.

    python benchmarks/search_efficiency.py run [PRESET ...]      # minutes; needs results/learning_curves/
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
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
from learning_curves import RAW as CURVES
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from optuna.samplers import BaseSampler
from ray.tune.schedulers.async_hyperband import AsyncHyperBandScheduler, _Bracket

from sparsevlr.results import Record
from sparsevlr.results.pareto import front_mask, hypervolume, order_by_rank_and_spread
from sparsevlr.search.asha import ParetoASHA, PromotionASHA, StoppingASHA
from sparsevlr.search.sampler import Sampler
from sparsevlr.search.study_run import StudyRun
from sparsevlr.spaces import Categorical, Constant, Float, Int, StudySpec, TrialConfig

RAW = Path(__file__).parent / "results" / "search_efficiency"
FIGURES = Path(__file__).parents[1] / "docs" / "figures"
PRESETS = ("digits", "mnist-5k")
SEEDS = range(20)
WORKERS = 4
SHARE = 0.95
BELOW_DENSE = 0.15
MOST_SPARSE = 0.995


class Pool:
    """Recorded configurations with their curves."""

    def __init__(self, preset: str) -> None:
        content = json.loads((CURVES / f"{preset}.spec.json").read_text())
        lines = [json.loads(line) for line in (CURVES / f"{preset}.jsonl").read_text().splitlines()]
        self.lines = sorted((line for line in lines if not line["trial_id"].startswith("dense")), key=_trial_id)
        self.dense = [line for line in lines if line["trial_id"].startswith("dense")]
        self.spec = StudySpec.from_dict(content | {"trials": len(self.lines)})
        self.units = np.array([unit_point(self.spec, line["config"]) for line in self.lines])
        self.failed = [index for index, line in enumerate(self.lines) if "error" in line]

    @property
    def reference(self) -> tuple[float, float]:
        """Density 1, and 15 points below the mean test accuracy of the dense starting point."""
        dense = statistics.mean(line["test"]["verified_accuracy"] for line in [self.lines[0], *self.dense])
        return 0.0, dense - BELOW_DENSE

    def end(self, index: int, split: str) -> tuple[float, float]:
        """Where a configuration ends up: -log10(density) and verified accuracy."""
        line = self.lines[index]
        sparsity = min(line["curve"][-1]["sparsity"], MOST_SPARSE)
        return -math.log10(1.0 - sparsity), line[split]["verified_accuracy"]

    def front_volume(self, completed: Sequence[int]) -> float:
        """Hypervolume on the test split of the front on the validation split."""
        if not completed:
            return 0.0
        front = front_mask([self.end(index, "validation") for index in completed])
        chosen = [self.end(index, "test") for index, member in zip(completed, front, strict=True) if member]
        return hypervolume(chosen, self.reference)


def _trial_id(line: Mapping[str, Any]) -> str:
    return str(line["trial_id"])


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
            proposed = self._ask(number, "proposed", {}, self._pool.spec.sampler)
            self.tell("proposed", None)
            left = np.array(list(self._left))
            distances = np.square(self._pool.units[left] - unit_point(self._pool.spec, proposed)).sum(axis=1)
            nearest = int(left[distances.argmin()])
        del self._left[nearest]
        line = self._pool.lines[nearest]
        config = TrialConfig(trial_id=line["trial_id"], seed=line["seed"], values=line["config"])
        self.ask_again(number, config)
        return config


class PlainPoolSampler(PoolSampler):
    """Lets Optuna's sampler choose the sparsity too, as one would without this package."""

    def _sampler(self, number: int, starting_point: Mapping[str, Any], kind: str) -> BaseSampler:
        parameters = self._spec.space.parameters
        full = len(starting_point) > 0
        sampler = super()._sampler(number, starting_point, kind)
        if full or "sparsity" not in parameters:
            return sampler
        return sampler._base_sampler if hasattr(sampler, "_base_sampler") else sampler


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


class Nothing:
    """A store that forgets."""

    def append(self, records: object) -> None: ...

    def discard_checkpoint(self, path: str) -> None: ...


@dataclass(frozen=True)
class Policy:
    label: str
    sampler: str
    kind: str = "none"
    sampler_class: type[PoolSampler] = PoolSampler
    asha: Callable[[int, float, Sequence[int]], ParetoASHA] | None = None
    spec: Mapping[str, Any] = field(default_factory=dict)

    def start(self, pool: Pool, seed: int) -> StudyRun:
        scheduler = pool.spec.to_dict()["scheduler"] | {"kind": self.kind} | self.spec.get("scheduler", {})
        changes = {"sampler": self.sampler, "seed": seed, "scheduler": scheduler}
        spec = StudySpec.from_dict(pool.spec.to_dict() | changes)
        return _Replayed(spec, pool, self)


class _Replayed(StudyRun):
    def __init__(self, spec: StudySpec, pool: Pool, policy: Policy) -> None:
        super().__init__(spec, Nothing())  # type: ignore[arg-type]
        pool_of_this = Pool.__new__(Pool)
        pool_of_this.__dict__ = pool.__dict__ | {"spec": spec}
        self._sampler = policy.sampler_class(pool_of_this)
        if policy.asha is not None:
            self._asha = policy.asha(len(spec.rungs), spec.scheduler.eta, spec.rungs)


POLICIES = {
    "promotion": Policy("Pareto ASHA, promotion (TPE)", "tpe", "promotion"),
    "stopping": Policy("Pareto ASHA, stopping (TPE)", "tpe", "stopping"),
    "promotion-random": Policy("Pareto ASHA, promotion (random)", "random", "promotion"),
    "stopping-random": Policy("Pareto ASHA, stopping (random)", "random", "stopping"),
    "ray-asha": Policy(
        "Ray ASHA on verified accuracy (TPE)", "tpe", "stopping", asha=lambda rungs, eta, epochs: RayASHA(rungs, eta, epochs)
    ),
    "syne-tune-rule": Policy(
        "Syne Tune's MOASHA rule (TPE)", "tpe", "stopping", asha=lambda rungs, eta, epochs: SyneTuneRule(rungs, eta, epochs)
    ),
    "nsga2": Policy("Optuna NSGA-II, no early stopping", "nsga2", sampler_class=PlainPoolSampler),
    "random": Policy("random, no early stopping", "random", sampler_class=PlainPoolSampler),
}


def replay(pool: Pool, policy: Policy, seed: int) -> dict[str, Any]:
    """One search on simulated workers.

    Returns:
        `trials`: what was completed, in order, and `compute` when; `begun` and `total_compute` of the whole search.
    """
    run = policy.start(pool, seed)
    rungs = run.spec.rungs
    by_id = {line["trial_id"]: index for index, line in enumerate(pool.lines)}
    clock, compute, ticket = 0.0, 0.0, count()
    working: list[tuple[float, int, str, int, float]] = []
    idle = WORKERS
    completed: list[tuple[str, float]] = []

    def begin(trial_id: str, rung: int) -> None:
        seconds = stretch(pool.lines[by_id[trial_id]], rungs, rung)
        heapq.heappush(working, (clock + seconds, next(ticket), trial_id, rung, seconds))

    while True:
        while idle and (assignment := run.next_trial()) is not None:
            trial_id = assignment.config.trial_id
            run.started(trial_id)
            done = run.reports.get(trial_id)
            begin(trial_id, 0 if done is None else done.rung + 1)
            idle -= 1
        if not working:
            break
        clock, _, trial_id, rung, seconds = heapq.heappop(working)
        compute += seconds
        line = pool.lines[by_id[trial_id]]
        if "error" in line:
            run.failed(trial_id, line["error"])
            idle += 1
            continue
        decision = run.reported(report_of(line, run.spec, rung))
        if decision == "continue":
            begin(trial_id, rung + 1)
            continue
        idle += 1
        if decision == "complete":
            completed.append((trial_id, round(compute, 1)))
    return {
        "seed": seed,
        "completed": completed,
        "begun": len(run.states),
        "total_compute": round(compute, 1),
        "clock": round(clock, 1),
    }


def stretch(line: Mapping[str, Any], rungs: Sequence[int], rung: int) -> float:
    """Seconds from the rung before to this one: training, and scoring there."""
    if "error" in line:
        return float(line["seconds"])
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
        checkpoint=f"checkpoints/{line['trial_id']}/rung-{rung}",
    )


def run(presets: Sequence[str]) -> None:
    RAW.mkdir(parents=True, exist_ok=True)
    for preset in presets:
        pool = Pool(preset)
        for name, policy in POLICIES.items():
            results = [replay(pool, policy, seed) for seed in SEEDS]
            (RAW / f"{preset}-{name}.json").write_text(json.dumps(results) + "\n")
            print(preset, name, summary(pool, results), flush=True)


def summary(pool: Pool, results: Sequence[Mapping[str, Any]]) -> str:
    index = {line["trial_id"]: number for number, line in enumerate(pool.lines)}
    reference = pool.front_volume([number for number in range(len(pool.lines)) if number not in pool.failed])
    found, final = [], []
    for result in results:
        done: list[int] = []
        at = math.inf
        for trial_id, compute in result["completed"]:
            done.append(index[trial_id])
            if at == math.inf and pool.front_volume(done) >= SHARE * reference:
                at = compute
        found.append(at)
        final.append(pool.front_volume(done) / reference)
    return (
        f"median {statistics.median(found):.0f} s, reached {sum(map(math.isfinite, found))}/{len(found)}, "
        f"final {statistics.median(final):.3f}, total {statistics.median(r['total_compute'] for r in results):.0f}"
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=["run", "report"])
    parser.add_argument("presets", nargs="*", default=PRESETS)
    asked = parser.parse_args()
    {"run": run}[asked.command](asked.presets)
