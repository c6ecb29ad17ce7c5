"""Every way to a sparse verified network beside the dense one, at equal epochs.

    python benchmarks/approaches.py run [SETTING ...] [--workers 2]    # resumable; hours, one line per training
    python benchmarks/approaches.py report [SETTING ...]               # tables and plots from the checked-in raw data

Settings are those of `SETTINGS`. Every approach, dense stages and rounds counted, has the same epochs. Each is tuned
equally where its setting says so: two trainings with one seed at the highest sparsity, of which the better one on the
validation split is trained again, at all sparsities, with the seeds that count. They differ in when the mask is
complete, or, where that is no choice (dense, at init, rounds), in the learning rate. Training is in bfloat16 but for
settings that say float32. Accuracies are those of the whole test split, by the whole cascade in float32; seconds are
processor time of training on one thread. What each needs by the schedule that its paper gives it is in
`published_schedules.py`.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from trainings import FIGURES, Line, in_process, interval, lines_of, spread, train_all, verified

RAW = Path(__file__).parent / "results" / "approaches"
TUNING_SEED, SEEDS = 100, (0, 1, 2, 3, 4)
MAGNITUDE = {"score": "magnitude", "distribution": "lamp"}
ONE_SHOT, GRADUAL = MAGNITUDE | {"schedule": "one-shot"}, MAGNITUDE | {"schedule": "gradual"}
BORN_SPARSE = {"score": "random", "initialisation": "ibp", "initialisation.masked_fan_in": True}
RIGL = BORN_SPARSE | {"distribution": "erk", "schedule": "drop-and-grow"}
SPARSE_VLR = RIGL | {"distribution": "lamp", "schedule.initial": 0.8}
NRS = {"regulariser": "nrs"}
DENSE: dict[str, dict[str, Any]] = {
    "dense": {"schedule": "gradual", **MAGNITUDE},
    "dense + NRS": {"schedule": "gradual", **MAGNITUDE, **NRS},
}
SPARSE: dict[str, dict[str, Any]] = {
    "magnitude, one-shot": ONE_SHOT,
    "magnitude, one-shot, raw": ONE_SHOT | {"distribution": "global"},
    "magnitude, one-shot, per layer": ONE_SHOT | {"distribution": "uniform"},
    "magnitude, gradual": GRADUAL,
    "magnitude, gradual, raw": GRADUAL | {"distribution": "global"},
    "magnitude, gradual + NRS": GRADUAL | NRS,
    "SNIP": BORN_SPARSE | {"score": "snip", "distribution": "lamp", "schedule": "at-init"},
    "Taylor": {"score": "taylor", "distribution": "global", "schedule": "one-shot"},
    "stability": {"score": "stability", "distribution": "global", "schedule": "one-shot"},
    "HYDRA": {"score": "hydra", "score.span": 0.2, "distribution": "lamp", "schedule": "one-shot"},
    "IMP": MAGNITUDE | {"schedule": "iterative", "schedule.rounds": 5},
    "random at init": BORN_SPARSE | {"distribution": "erk", "schedule": "at-init"},
    "SET": RIGL | {"schedule.grow": "random"},
    "RigL": RIGL,
    "SparseVLR": SPARSE_VLR,
    "SparseVLR, from half": SPARSE_VLR | {"schedule.initial": 0.5},
    "SparseVLR, random growth": SPARSE_VLR | {"schedule.grow": "random"},
    "SparseVLR, full fan-in": SPARSE_VLR | {"initialisation.masked_fan_in": False},
    "SparseVLR, filters": SPARSE_VLR | {"pattern": "filter"},
    "filters": GRADUAL | {"pattern": "filter"},
    "2 x 2 blocks": GRADUAL | {"pattern": "block", "pattern.size": 2},
    "1:8": GRADUAL | {"pattern": "n-m", "pattern.n": 1, "pattern.m": 8},
}
APPROACHES = DENSE | SPARSE
"""`raw` compares magnitudes of different layers as they are, the others relative to their layer (LAMP). SparseVLR
begins with 80 % of the sparsity that it is to reach, `from half` with 50 %."""

COMPLETE = {"one-shot": "schedule.at", "gradual": "schedule.end", "drop-and-grow": "schedule.end"}
"""The option that says when the mask is complete, a fraction of training."""


def choices(approach: str) -> tuple[dict[str, float], ...]:
    """The two settings of an approach that are tried; the first is used where nothing is tuned."""
    when = None if approach in DENSE else COMPLETE.get(APPROACHES[approach]["schedule"])
    if when is None:
        return {"optimizer.learning_rate": 3e-3}, {"optimizer.learning_rate": 5e-3}
    return {when: 0.6}, {when: 0.3}


@dataclass(frozen=True)
class Setting:
    """A data set, a budget, and the sparsities at which every approach is measured."""

    spec: Mapping[str, Any]
    sparsities: Sequence[float]
    seeds: Sequence[int] = SEEDS
    tuned: bool = False
    approaches: Sequence[str] = tuple(APPROACHES)


COMMON = {"ramp": {"start": 0.01, "end": 0.6}, "scheduler": {"kind": "none"}, "epsilon": 0.1, "precision": "bfloat16"}
MNIST = COMMON | {"data": "mnist-5k", "epochs": 40, "batch_size": 128}
FASHION = COMMON | {
    "data": "fashion-mnist",
    "epochs": 10,
    "batch_size": 256,
    "verification": {"max_crown_samples": 200},
}
ALL = (0.8, 0.9, 0.95, 0.99)
SETTINGS = {
    "mnist-5k": Setting(MNIST, (0.9, 0.99), tuned=True),
    "fashion-mnist": Setting(FASHION, (0.95,), (0, 1, 2)),
    "mnist-5k-float32": Setting(
        MNIST | {"precision": "float32"}, (0.99,), approaches=("dense", "magnitude, gradual", "SparseVLR")
    ),
    "mnist-5k-long": Setting(MNIST | {"epochs": 70}, ALL, (0, 1, 2)),
    "fashion-mnist-long": Setting(FASHION | {"epochs": 30}, ALL, (0, 1, 2)),
}
SMALL = {"architecture": "cnn-small"}
FIXED = {"loss": "ibp", "optimizer": "adam", "optimizer.learning_rate": 3e-3, "loss.kappa_end": 0.3}


@dataclass(frozen=True)
class Run:
    """One training."""

    setting: str
    approach: str
    sparsity: float
    seed: int
    chosen: tuple[tuple[str, float], ...]

    @property
    def key(self) -> str:
        return json.dumps([self.setting, self.approach, self.sparsity, self.seed, dict(self.chosen)])

    def line(self) -> Line:
        setting = SETTINGS[self.setting]
        values = FIXED | SMALL | {"sparsity": self.sparsity} | APPROACHES[self.approach]
        told = {"approach": self.approach, "sparsity": self.sparsity, "chosen": dict(self.chosen)}
        return {"key": self.key, **told, **in_process(setting.spec, values | dict(self.chosen), self.seed)}


def tuning(name: str) -> dict[str, list[Run]]:
    """By approach."""
    setting = SETTINGS[name]
    return {
        approach: [
            Run(name, approach, 0.0 if approach in DENSE else max(setting.sparsities), TUNING_SEED, tuple(each.items()))
            for each in choices(approach)
        ]
        for approach in (setting.approaches if setting.tuned else ())
    }


def counting(name: str, lines: Mapping[str, Line]) -> Iterator[Run]:
    """The runs that count, of the approaches whose tuning is complete."""
    tried = tuning(name)
    for approach, sparsity in _pairs(SETTINGS[name]):
        best = tuple(choices(approach)[0].items())
        if approach in tried:
            if not all(run.key in lines for run in tried[approach]):
                continue
            best = max(tried[approach], key=lambda run: verified(lines[run.key], "validation")).chosen
        for seed in SETTINGS[name].seeds:
            yield Run(name, approach, sparsity, seed, best)


def _pairs(setting: Setting) -> list[tuple[str, float]]:
    dense = [(name, 0.0) for name in setting.approaches if name in DENSE]
    return dense + [
        (name, sparsity) for sparsity in setting.sparsities for name in setting.approaches if name not in DENSE
    ]


def run(names: Sequence[str], workers: int) -> None:
    for name in names:
        file = RAW / f"{name}.jsonl"
        train_all([one for tried in tuning(name).values() for one in tried], file, workers)
        train_all(counting(name, lines_of(file)), file, workers)


def report(names: Sequence[str], workers: int) -> None:
    for name in names:
        lines = lines_of(RAW / f"{name}.jsonl")
        counted = [lines[one.key] for one in counting(name, lines) if one.key in lines]
        if not counted:
            print(f"{name}: nothing has been run yet")
            continue
        table(name, counted)
        draw(name, counted)


def table(name: str, counted: Sequence[Line]) -> None:
    dense = {line["seed"]: line for line in counted if line["approach"] == "dense"}
    print(f"\n{name}, test split, mean and standard deviation over seeds\n")
    print("| approach | sparsity | seeds | natural | adversarial | verified | less dense (paired 95 %) | seconds |")
    print("|---|---|---|---|---|---|---|---|")
    for approach, sparsity in _pairs(SETTINGS[name]):
        mine = [line for line in counted if (line["approach"], line["sparsity"]) == (approach, sparsity)]
        fine = [line for line in mine if "error" not in line]
        if not fine:
            print(f"| {approach} | {sparsity:.0%} | {len(mine)} | {mine[0]['error'] if mine else 'not run'} | | | | |")
            continue
        cells = [spread([line["test"][f"{kind}_accuracy"] for line in fine]) for kind in ACCURACIES]
        pairs = [
            verified(line, "test") - verified(dense[line["seed"]], "test") for line in fine if line["seed"] in dense
        ]
        measured = statistics.mean(line["measured_sparsity"] for line in fine)
        seconds = statistics.median(line["train_processor_seconds"] for line in fine)
        less = "" if approach == "dense" else interval(pairs)
        print(f"| {approach} | {measured:.1%} | {len(fine)} | {' | '.join(cells)} | {less} | {seconds:.0f} |")


ACCURACIES = ("natural", "adversarial", "verified")


def draw(name: str, counted: Sequence[Line]) -> None:
    sparsities = SETTINGS[name].sparsities
    figure = Figure(figsize=(5.5 * len(sparsities), 5), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, len(sparsities), squeeze=False)[0]
    for sparsity, axes in zip(sparsities, panels, strict=True):
        shown = [(approach, level) for approach, level in _pairs(SETTINGS[name]) if level in (0.0, sparsity)]
        for position, (approach, level) in enumerate(shown):
            mine = [line for line in counted if (line["approach"], line["sparsity"]) == (approach, level)]
            for colour, kind in zip(("C2", "C1", "C0"), ACCURACIES, strict=True):
                values = [line["test"][f"{kind}_accuracy"] for line in mine if "error" not in line]
                if values:
                    label = kind if not position else None
                    axes.plot(values, [position] * len(values), ".", color=colour, alpha=0.35, ms=5)
                    axes.plot(statistics.mean(values), position, "|", color=colour, ms=14, mew=2, label=label)
        axes.set_yticks(range(len(shown)), [approach for approach, _ in shown], fontsize=8)
        axes.invert_yaxis()
        axes.set_title(f"{name}, {sparsity:.0%} sparse", loc="left")
        axes.set_xlabel("accuracy on test (points: seeds, bars: means)")
        axes.grid(color="0.92")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=len(ACCURACIES), fontsize=8)
    FIGURES.mkdir(parents=True, exist_ok=True)
    file = FIGURES / f"approaches_{name}.png"
    figure.savefig(file)
    print(f"\nplot: {file.name}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=["run", "report"])
    parser.add_argument("settings", nargs="*", default=list(SETTINGS))
    parser.add_argument("--workers", type=int, default=2)
    asked = parser.parse_args()
    {"run": run, "report": report}[asked.command](asked.settings, asked.workers)
