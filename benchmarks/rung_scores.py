"""Which early score predicts the end: Kendall's tau with the final verified accuracy, epoch by epoch.

    python benchmarks/rung_scores.py [PRESET ...]      # seconds; from results/learning_curves/

Scores on the validation split: verified accuracy at the target epsilon, at the epsilon that training is at, the mean
over a fixed grid of epsilons, and natural accuracy. The random configurations are three independent draws (of 66, or
33 with another loss); tau (tau-b) is their mean, with the standard deviation over draws. Once over all pairs, and once
over pairs of like sparsity (thirds of the pool): among all pairs, sparsity alone predicts a good part of the order.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from learning_curves import RAW as CURVES
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from scipy.stats import kendalltau

PRESETS = ("digits", "mnist-5k", "digits-sabr", "digits-mtl-ibp")
FIGURE = Path(__file__).parents[1] / "docs" / "figures" / "rung_scores.png"
DRAWS = 3
SCORES = {
    "verified_accuracy": "verified, target epsilon",
    "verified_current": "verified, current epsilon",
    "verified_auc": "verified, mean over the grid",
    "natural_accuracy": "natural",
}
BY_INTERVALS = {"verified_current_ibp": "verified by intervals alone, current epsilon"}
"""Where the scores above are by CROWN-IBP too."""

Line = Mapping[str, Any]


def draws(preset: str) -> list[list[Line]]:
    lines = [json.loads(line) for line in (CURVES / f"{preset}.jsonl").read_text().splitlines()]
    spec = json.loads((CURVES / f"{preset}.spec.json").read_text())
    drawn = sorted((line for line in lines if line["trial_id"].isdigit()), key=lambda line: str(line["trial_id"]))
    trained = [line for line in drawn[len(spec["starting_points"]) :] if "error" not in line]
    size = len(trained) // DRAWS
    return [trained[number * size : (number + 1) * size] for number in range(DRAWS)]


def tau(lines: Sequence[Line], epoch: int, score: str) -> float:
    early = [next(row for row in line["curve"] if row["epoch"] == epoch)[score] for line in lines]
    found = float(kendalltau(early, [line["validation"]["verified_accuracy"] for line in lines]).statistic)
    # A score that is the same for all (none verified yet) says nothing.
    return 0.0 if math.isnan(found) else found


def tau_of_like_sparsity(lines: Sequence[Line], epoch: int, score: str) -> float:
    ordered = sorted(lines, key=lambda line: float(line["target_sparsity"]))
    third = len(ordered) // 3
    return statistics.mean(tau(ordered[k * third : (k + 1) * third], epoch, score) for k in range(3))


def report(presets: Sequence[str]) -> None:
    presets = [preset for preset in presets if (CURVES / f"{preset}.jsonl").exists()]
    figure = Figure(figsize=(11, 4 * len(presets)), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(len(presets), 2, squeeze=False)
    for preset, row in zip(presets, panels, strict=True):
        groups = draws(preset)
        curve = groups[0][0]["curve"]
        epochs = [point["epoch"] for point in curve][:-1]
        scores = {score: label for score, label in (SCORES | BY_INTERVALS).items() if score in curve[0]}
        for axes, measure, which in (
            (row[0], tau, "all pairs"),
            (row[1], tau_of_like_sparsity, "pairs of like sparsity"),
        ):
            sizes = "+".join(str(len(group)) for group in groups)
            print(f"\n{preset}, {which}: tau with the final verified accuracy, {sizes} trials\n")
            print("| epoch |" + "".join(f" {label} |" for label in scores.values()))
            print("|---" * (len(scores) + 1) + "|")
            table = {
                score: [[measure(group, epoch, score) for group in groups] for epoch in epochs] for score in scores
            }
            for index, epoch in enumerate(epochs):
                cells = [
                    f" {statistics.mean(table[score][index]):.2f} ± {statistics.stdev(table[score][index]):.2f} |"
                    for score in scores
                ]
                print(f"| {epoch} |" + "".join(cells))
            for score, label in scores.items():
                means = [statistics.mean(values) for values in table[score]]
                spread = [statistics.stdev(values) for values in table[score]]
                axes.errorbar(epochs, means, spread, marker="o", ms=4, lw=1.4, capsize=2, label=label)
            axes.set_xscale("log")
            axes.set_xticks(epochs, [str(epoch) for epoch in epochs])
            axes.minorticks_off()
            axes.set(xlabel="epoch", ylabel="Kendall's tau with the end")
            axes.set_title(f"{preset}: {which}", loc="left")
            axes.grid(color="0.92")
        row[0].legend(fontsize=8)
    FIGURE.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(FIGURE)
    print(f"\nplot: {FIGURE.name}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("presets", nargs="*", default=PRESETS)
    report(parser.parse_args().presets)
