"""The front on `digits` over five seeds, beside dense networks that were tuned with the same number of trials.

    python benchmarks/digits_front.py run       # resumable; about 40 minutes on two cores
    python benchmarks/digits_front.py report    # table and plot from the checked-in raw data

Per seed there are two studies: the preset `digits`, and the same with the sparsity fixed at 0 and verified accuracy as
its only objective. In each, networks are chosen on the validation split (the best of each sparsity band), and measured
on the test split. A third part trains the preset's dense starting point with three seeds, which shows that the
preset's epsilon is neither trivial nor hopeless.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from machine import machine
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from scipy import stats

from sparsevlr.search import search
from sparsevlr.search.bands import BANDS
from sparsevlr.spaces import TrialConfig, load_dataset, load_spec
from sparsevlr.trainables import Trial

RAW = Path(__file__).parent / "results" / "digits_front"
FIGURE = Path(__file__).parents[1] / "docs" / "figures" / "digits_front.png"
SEEDS = range(5)
DENSE_SEEDS = range(3)
KINDS = {"sparse": [], "dense": ["space.sparsity=0.0", "objectives=[verified_accuracy]"]}


def run() -> None:
    RAW.mkdir(parents=True, exist_ok=True)
    (RAW / "machine.json").write_text(json.dumps(machine(), indent=1) + "\n")
    for seed in SEEDS:
        for kind, overrides in KINDS.items():
            file = RAW / f"{kind}-{seed}.json"
            if not file.exists():
                file.write_text(json.dumps(study(seed, overrides), indent=1) + "\n")
                print(f"{file.name}: written", flush=True)
    file = RAW / "dense-seeds.json"
    if not file.exists():
        file.write_text(json.dumps([dense_seed(seed) for seed in DENSE_SEEDS], indent=1) + "\n")


def study(seed: int, overrides: list[str]) -> dict[str, Any]:
    spec = load_spec("digits", [f"seed={seed}", *overrides])
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="sparsevlr-") as folder:
        finished = search(spec, f"{folder}/study")
        keep = ("trial_id", "state", "epoch", "config", "sparsity", "nonzero_weights", "natural_accuracy",
                "adversarial_accuracy", "verified_accuracy", "verified_low", "verified_high", "samples")  # fmt: skip
        return {
            "seed": seed,
            "epsilon": spec.epsilon,
            "seconds": round(time.monotonic() - started, 1),
            "trials": finished.trials().select(keep).to_pylist(),
            "test_of_front": finished.pareto_front(split="test").select(keep).to_pylist(),
        }


def dense_seed(seed: int) -> dict[str, Any]:
    # A dense network's seed is the study's.
    spec = load_spec("digits", [f"seed={seed}"])
    point = dict(spec.starting_points[0])
    values = spec.space.sample(lambda name, parameter: point[name])
    trial = Trial(TrialConfig(trial_id="dense", seed=seed, values=values), spec, load_dataset("digits"))
    while not trial.finished:
        validation = trial.advance()
    test = trial.score_on_test()
    return {"seed": seed, "validation": validation.verified_accuracy, "test": test.verified_accuracy}


def chosen(raw: dict[str, Any], low: float, high: float) -> dict[str, Any] | None:
    """The test row of the trial of the front that verifies best on validation within a band of sparsity."""
    tested = {row["trial_id"]: row for row in raw["test_of_front"]}
    inside = [row for row in raw["trials"] if row["trial_id"] in tested and low <= row["sparsity"] < high]
    return tested[max(inside, key=lambda row: row["verified_accuracy"])["trial_id"]] if inside else None


def paired(differences: list[float]) -> tuple[float, float]:
    """Mean and half-width of the 95 % t interval of paired differences."""
    spread = statistics.stdev(differences) / math.sqrt(len(differences))
    return statistics.mean(differences), float(stats.t.ppf(0.975, len(differences) - 1)) * spread


def report() -> None:
    raws = {kind: [json.loads((RAW / f"{kind}-{seed}.json").read_text()) for seed in SEEDS] for kind in KINDS}
    dense = [chosen(raw, 0.0, 0.01) for raw in raws["dense"]]
    print("| sparsity band | seeds | sparsity | natural | verified | verified, less dense (paired 95 %) |")
    print("|---|---|---|---|---|---|")
    print(f"| dense | {len(dense)} | 0 % | {figures(dense)} | |")
    for band in BANDS:
        rows = [chosen(raw, band.low, band.high) for raw in raws["sparse"]]
        pairs = [(row, other) for row, other in zip(rows, dense, strict=True) if row is not None]
        found = [row for row, _ in pairs]
        line = f"| {band.name} | {len(found)} |"
        if found:
            sparsity = statistics.mean(row["sparsity"] for row in found)
            line += f" {sparsity:.1%} | {figures(found)} |"
        if len(pairs) > 1:
            mean, half = paired([row["verified_accuracy"] - other["verified_accuracy"] for row, other in pairs])
            line += f" {100 * mean:+.1f} ± {100 * half:.1f} |"
        print(line)
    states = [[row["state"] for row in raw["trials"]] for raw in raws["sparse"]]
    stopped = [sum(state == "stopped" for state in study) / len(study) for study in states]
    print(f"\nstopped early, share of trials per seed: {', '.join(f'{share:.0%}' for share in stopped)}")
    for band in BANDS:
        inside = [
            sum(row["state"] == "completed" and band.low <= row["sparsity"] < band.high for row in raw["trials"])
            for raw in raws["sparse"]
        ]
        print(f"completed at sparsity {band.name}, per seed: {', '.join(map(str, inside))}")
    print(f"seconds per study: {', '.join(str(raw['seconds']) for raw in raws['sparse'])}")
    seeds = json.loads((RAW / "dense-seeds.json").read_text())
    print("dense starting point, three seeds, verified on test:", ", ".join(f"{row['test']:.1%}" for row in seeds))
    draw(raws)


def figures(rows: list[Any]) -> str:
    """Natural and verified accuracy, mean and standard deviation over seeds, as two cells of a table."""
    return " | ".join(spread([100 * row[name] for row in rows]) for name in ("natural_accuracy", "verified_accuracy"))


def spread(values: list[float]) -> str:
    deviation = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.1f}{deviation} %"


def draw(raws: dict[str, list[dict[str, Any]]]) -> None:
    figure = Figure(figsize=(8, 5), dpi=130, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    for raw in raws["sparse"]:
        rows = sorted(raw["test_of_front"], key=lambda row: row["sparsity"])
        x = [-math.log10(1 - row["sparsity"]) for row in rows]
        axes.plot(
            x, [100 * row["verified_accuracy"] for row in rows], "o-", lw=1, ms=4, label=f"front, seed {raw['seed']}"
        )
    dense = [100 * chosen(raw, 0.0, 0.01)["verified_accuracy"] for raw in raws["dense"]]
    axes.axhspan(min(dense), max(dense), color="0.85", zorder=0, label="dense, range over seeds")
    ticks = [0.0, 0.5, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995]
    axes.set_xticks([-math.log10(1 - tick) for tick in ticks], [f"{100 * tick:g}" for tick in ticks])
    axes.set(xlabel="sparsity (% of weights removed)", ylabel="verified accuracy on the test split (%)")
    axes.set_title(
        f"digits, epsilon {raws['sparse'][0]['epsilon']:g}: chosen on validation, measured on test", loc="left"
    )
    axes.grid(color="0.92")
    axes.legend(fontsize=8)
    FIGURE.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(FIGURE)
    print(f"plot: {FIGURE.name}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=["run", "report"])
    {"run": run, "report": report}[parser.parse_args().command]()
