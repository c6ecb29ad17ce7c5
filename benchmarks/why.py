"""Why sparse training from scratch falls behind pruning at high sparsity: what goes on inside, layer by layer.

    python benchmarks/why.py run [--sparsities 0.99 0.9] [--seeds 0 1 2]    # resumable, one thread
    python benchmarks/why.py report                                         # tables and plots from the checked-in data
    python benchmarks/why.py cost                                           # share of a trial that measuring takes

mnist-5k, cnn-small at half width, 20 epochs, epsilon 0.1 reached at epoch 12. Every approach has the same options of
loss and optimizer, untuned. With equal seeds all begin with the same weights and see the same data in the same order;
`masked fan-in` draws the weights again by the inputs that each unit keeps. `its mask` and `its densities` begin with
those weights and with the mask that one-shot magnitude pruning came to at that seed, or a random one of its densities
by layer. `raw` compares magnitudes of different layers as they are, the others by LAMP. Layers are measured by the
trials themselves, on validation; accuracies at the end are on test, by intervals, PGD and CROWN-IBP.
"""

from __future__ import annotations

import argparse
import base64
import json
import statistics
import tempfile
import time
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import torch
from machine import machine
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray

from sparsevlr.results import Record
from sparsevlr.results.location import Location, locate
from sparsevlr.results.masks import read_mask
from sparsevlr.results.overlap import Overlap, overlap, packed
from sparsevlr.results.paths import checkpoint_path
from sparsevlr.spaces import StudySpec, TrialConfig, load_dataset, load_spec
from sparsevlr.spaces.datasets import Dataset
from sparsevlr.trainables import Mask, Methods, Trial
from sparsevlr.trainables.bounds import input_box, relu_states, trace
from sparsevlr.trainables.certified_training import Batch, SmoothedRamp
from sparsevlr.trainables.checkpoint import Checkpoint
from sparsevlr.trainables.compaction import compact
from sparsevlr.trainables.layer_measures import LayerMeasures
from sparsevlr.trainables.mask import prunable_weights
from sparsevlr.trainables.pruning import Candidates
from sparsevlr.trainables.pruning.gradients import gradient_alone, mean_over_batches
from sparsevlr.trainables.seeds import derived_seed, generator
from sparsevlr.trainables.steps import Steps

RAW = Path(__file__).parent / "results" / "why"
FIGURES = Path(__file__).parents[1] / "docs" / "figures"
SPEC: dict[str, Any] = {
    "data": "mnist-5k",
    "epsilon": 0.1,
    "epochs": 20,
    "batch_size": 128,
    "ramp": {"start": 0.01, "end": 0.6},
    "scheduler": {"kind": "stopping", "eta": 2, "first_rung": 3},
    "verification": {"stages": ["ibp", "pgd", "crown-ibp"]},
}
FIXED = {
    "architecture": "cnn-small",
    "architecture.width": 0.5,
    "loss": "ibp",
    "loss.kappa_end": 0.3,
    "optimizer": "adam",
    "optimizer.learning_rate": 3e-3,
}
MAGNITUDE = {"score": "magnitude", "distribution": "lamp"}
RAW_MAGNITUDE = {"score": "magnitude", "distribution": "global"}
ERK = {"score": "random", "distribution": "erk"}
MASKED = {"initialisation": "ibp", "initialisation.masked_fan_in": True}
GROW = ERK | {"schedule": "drop-and-grow", "schedule.end": 0.6}
FREE = GROW | {"distribution": "lamp"}
DENSER = FREE | {"schedule.initial": 0.8}
GIVEN = MAGNITUDE | {"schedule": "at-init", "start": "parent-weights", "start.parent": "given"}
PRUNED = "magnitude, one-shot"
APPROACHES: dict[str, dict[str, Any]] = {
    "dense": MAGNITUDE | {"schedule": "gradual"},
    PRUNED: MAGNITUDE | {"schedule": "one-shot", "schedule.at": 0.3},
    "magnitude, one-shot, raw": RAW_MAGNITUDE | {"schedule": "one-shot", "schedule.at": 0.3},
    "magnitude, gradual": MAGNITUDE | {"schedule": "gradual", "schedule.end": 0.6},
    "magnitude, gradual, raw": RAW_MAGNITUDE | {"schedule": "gradual", "schedule.end": 0.6},
    "SNIP": {"score": "snip", "distribution": "global", "schedule": "at-init"},
    "random, ERK": ERK | {"schedule": "at-init"},
    "random, ERK, masked fan-in": ERK | {"schedule": "at-init"} | MASKED,
    "drop and grow in layers": GROW,
    "drop and grow in layers, masked fan-in": GROW | MASKED,
    "drop and grow": FREE,
    "drop and grow, masked fan-in": FREE | MASKED,
    "drop and grow from denser": DENSER,
    "drop and grow from denser, masked fan-in": DENSER | MASKED,
    "its mask": GIVEN,
    "its mask, masked fan-in": GIVEN,
    "its densities": GIVEN,
    "its densities, masked fan-in": GIVEN,
    "magnitude, gradual, 40 epochs": MAGNITUDE | {"schedule": "gradual", "schedule.end": 0.6},
    "drop and grow, masked fan-in, 40 epochs": FREE | MASKED,
    "drop and grow from denser, masked fan-in, 40 epochs": DENSER | MASKED,
}
DRAWN = (
    "dense",
    PRUNED,
    "magnitude, one-shot, raw",
    "magnitude, gradual",
    "random, ERK, masked fan-in",
    "drop and grow, masked fan-in",
    "drop and grow from denser, masked fan-in",
    "its densities, masked fan-in",
    "its mask, masked fan-in",
)
ACCURACIES = ("natural", "verified")
SHOWN = {
    "verified_ramp": "verified at the epsilon of the moment",
    "density": "density",
    "live_units": "units left by compaction",
    "dead_relu_fraction": "ReLUs that nothing switches on",
    "unstable_relu_fraction": "unstable ReLUs",
    "bound_tightness": "tightness of interval bounds",
    "gradient_norm": "gradient norm, kept weights",
    "pruned_gradient_norm": "gradient norm, pruned weights",
}
LOGARITHMIC = ("density", "gradient_norm", "pruned_gradient_norm")


@dataclass(frozen=True)
class Run:
    """One training."""

    approach: str
    sparsity: float
    seed: int

    @property
    def key(self) -> str:
        return json.dumps([self.approach, self.sparsity, self.seed])

    @property
    def spec(self) -> StudySpec:
        longer = 2 if self.approach.endswith("40 epochs") else 1
        scheduler = SPEC["scheduler"] | {"first_rung": 3 * longer}
        return StudySpec.from_dict(
            SPEC | {"seed": self.seed, "epochs": longer * SPEC["epochs"], "scheduler": scheduler}
        )

    @property
    def config(self) -> TrialConfig:
        values = FIXED | APPROACHES[self.approach] | {"sparsity": self.sparsity}
        # The seed of dense stages, so that these begin with the same weights as all the others.
        return TrialConfig(trial_id="one", seed=derived_seed(self.seed, "dense"), values=values)

    @property
    def needs(self) -> Run | None:
        """Whose mask it begins with."""
        return Run(PRUNED, self.sparsity, self.seed) if self.approach.startswith("its ") else None

    def line(self, found: Mapping[str, NDArray[np.bool_]] | None) -> dict[str, Any]:
        """Train; `found` is the mask that `needs` came to."""
        started = time.process_time()
        config, spec, data = self.config, self.spec, mnist()
        with tempfile.TemporaryDirectory() as folder:
            location = locate(folder)
            if found is not None:
                self._give(found, location)
            trial = Trial(config, spec, data, location=location)
            rungs = [{"epoch": 0, "layers": before_training(Trial(config, spec, data, location=location))}]
            while not trial.finished:
                record = trial.advance()
                rungs.append(self._rung(record, location))
            test = trial.score_on_test()
            masks = read_mask(location, str(record.checkpoint))
        return {
            "key": self.key,
            "approach": self.approach,
            "sparsity": self.sparsity,
            "seed": self.seed,
            "measured_sparsity": record.sparsity,
            "test": {name: getattr(test, f"{name}_accuracy") for name in ACCURACIES} | {"samples": test.samples},
            "rungs": rungs,
            "processor_seconds": round(time.process_time() - started, 2),
            "mask": {layer: [list(mask.shape), _text(mask)] for layer, mask in masks.items()},
        }

    def _rung(self, record: Record, location: Location) -> dict[str, Any]:
        names = ("epoch", "natural_accuracy", "verified_accuracy", "verified_ramp", "unstable_relu_fraction")
        layers: dict[str, dict[str, float]] = json.loads(str(record.layer_measures))
        for layer, density in json.loads(str(record.layer_densities)).items():
            layers[layer] = {"density": density} | layers[layer]
        told = {name: getattr(record, name) for name in names} | {"layers": layers}
        if self.config.values["schedule"] == "drop-and-grow":
            told["growth"] = growth(self.config, self.spec, Checkpoint.load(location, str(record.checkpoint)))
        return told

    def _give(self, found: Mapping[str, NDArray[np.bool_]], location: Location) -> None:
        """Leave a parent with the mask, or a random one of its densities, and with the initial weights of this seed."""
        kept = {f"{layer}.weight": torch.from_numpy(mask) for layer, mask in found.items()}
        drawn = generator(self.seed, "permute")
        if self.approach.startswith("its densities"):
            kept = {
                name: mask.flatten()[torch.randperm(mask.numel(), generator=drawn)].view(mask.shape)
                for name, mask in kept.items()
            }
        methods, data = Methods.of(self.config), mnist()
        network, mask = methods.build_network(data.shape, data.classes), Mask(kept)
        by = mask if self.approach.endswith("masked fan-in") else Mask.dense(network)
        methods.initialisation.initialise_(network, by, generator(self.config.seed, "initialise"))
        mask.apply_(network)
        checkpoint = Checkpoint(0, dict(network.state_dict()), mask, {}, 0.0, 0.0, 0.0, "given")
        checkpoint.save(location, checkpoint_path("given", f"rung-{len(self.spec.rungs) - 1}"))


@cache
def mnist() -> Dataset:
    return load_dataset(SPEC["data"])


def before_training(trial: Trial) -> LayerMeasures:
    """The layers of a trial that has not begun, once what falls due before its first step is pruned."""
    trial._train_until(0)
    data, training = mnist(), trial._training
    x = torch.from_numpy(data.validation.x)
    states = relu_states(training.graph, input_box(x, SPEC["epsilon"], data.low, data.high))
    return trial._measure_layers(x, states, compact(training.network.eval(), data.shape))


def growth(config: TrialConfig, spec: StudySpec, checkpoint: Checkpoint) -> dict[str, list[int]]:
    """By layer, how far two estimates of what to grow agree: each the mean gradient over four batches that the other
    does not see, at the epsilon of the moment, and as many of the pruned weights as 15 % of the kept ones.

    Returns:
        pruned weights that have a gradient at all in either, how many one would grow, the other, both.
    """
    methods, data = Methods.of(config), mnist()
    network = methods.build_network(data.shape, data.classes)
    network.load_state_dict(dict(checkpoint.weights))
    steps = Steps.of(spec, len(data.train.y))
    ramp = SmoothedRamp(spec.ramp.start * steps.total, spec.ramp.end * steps.total)
    order = torch.randperm(len(data.train.y), generator=generator("growth")).split(steps.batch_size)
    promise: list[dict[str, torch.Tensor]] = []
    for part in (order[:4], order[4:8]):

        def batches(count: int, at: float, part: Sequence[torch.Tensor] = part) -> Iterator[Batch]:
            for rows in part[:count]:
                x, y = (torch.from_numpy(values[rows.numpy()]) for values in (data.train.x, data.train.y))
                yield Batch(x, y, input_box(x, at * spec.epsilon, data.low, data.high), at)

        candidates = Candidates(trace(network, data.shape), torch.Generator(), methods.loss, batches)
        at = ramp.value(checkpoint.epoch * steps.per_epoch)
        gradients = mean_over_batches(candidates, methods.loss.loss, batches=4, ramp=at, of=gradient_alone)
        promise.append({name: gradient.abs()[~checkpoint.mask[name]] for name, gradient in gradients.items()})
    found = {}
    for name in prunable_weights(network):
        count = round(0.15 * int(checkpoint.mask[name].sum()))
        one, other = (_largest(estimate[name], count) for estimate in promise)
        reachable = (promise[0][name] > 0) | (promise[1][name] > 0)
        found[name.removesuffix(".weight")] = [int(each.sum()) for each in (reachable, one, other, one & other)]
    return found


def _largest(values: torch.Tensor, count: int) -> torch.Tensor:
    """Which are the `count` largest; what is 0 is none of them."""
    chosen = torch.zeros_like(values, dtype=torch.bool)
    chosen[torch.topk(values, min(count, len(values))).indices] = True
    return chosen & (values > 0)


def _text(mask: NDArray[np.bool_]) -> str:
    return base64.b64encode(zlib.compress(np.packbits(mask).tobytes(), 9)).decode()


def mask_of(line: Mapping[str, Any]) -> dict[str, NDArray[np.bool_]]:
    """The mask that a run came to."""
    found = {}
    for layer, (shape, text) in line["mask"].items():
        bits = np.frombuffer(zlib.decompress(base64.b64decode(text)), np.uint8)
        found[layer] = np.unpackbits(bits, count=int(np.prod(shape))).astype(bool).reshape(shape)
    return found


def planned(sparsities: Sequence[float], seeds: Sequence[int]) -> list[Run]:
    """Seed by seed over all approaches: whenever the runs are cut, all have been treated alike."""
    runs = []
    for sparsity in sparsities:
        for seed in seeds:
            runs += [Run(name, sparsity if name != "dense" else 0.0, seed) for name in APPROACHES]
    return list(dict.fromkeys(runs))


def read() -> dict[str, dict[str, Any]]:
    file = RAW / "mnist-5k.jsonl"
    lines = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
    return {line["key"]: line for line in lines}


def run(sparsities: Sequence[float], seeds: Sequence[int]) -> None:
    torch.set_num_threads(1)
    RAW.mkdir(parents=True, exist_ok=True)
    (RAW / "machine.json").write_text(json.dumps(machine(), indent=1) + "\n")
    for one in planned(sparsities, seeds):
        done = read()
        if one.key in done:
            continue
        line = one.line(mask_of(done[one.needs.key]) if one.needs else None)
        with (RAW / "mnist-5k.jsonl").open("a") as lines:
            lines.write(json.dumps(line) + "\n")
        print(one.key, f"{line['test']['verified']:.1%} verified, {line['processor_seconds']} s", flush=True)


COSTS: dict[str, dict[str, Any]] = {
    "digits": {"architecture": "mlp", "architecture.hidden": [64, 64]},
    "mnist-5k": {"architecture": "cnn-small"},
}


class Timed(Trial):
    """A trial that knows how long it has measured layers (processor seconds)."""

    seconds = 0.0

    def _measure_layers(self, *arguments: Any) -> LayerMeasures:
        started = time.process_time()
        measures = super()._measure_layers(*arguments)
        self.seconds += time.process_time() - started
        return measures


def cost() -> None:
    """Trials of presets, dense and gradually pruned to 95 %, as a search runs them."""
    torch.set_num_threads(1)
    RAW.mkdir(parents=True, exist_ok=True)
    rows = []
    for preset, architecture in COSTS.items():
        spec = load_spec(preset)
        for sparsity in (0.0, 0.95):
            values = FIXED | APPROACHES["magnitude, gradual"] | {"sparsity": sparsity}
            values = {name: value for name, value in values.items() if not name.startswith("architecture")}
            started = time.process_time()
            trial = Timed(TrialConfig(trial_id="one", seed=0, values=values | architecture), spec, load_dataset(preset))
            while not trial.finished:
                trial.advance()
            seconds = time.process_time() - started
            told = {"preset": preset, "architecture": architecture["architecture"], "sparsity": sparsity}
            rows.append(told | {"rungs": len(spec.rungs), "trial_seconds": seconds, "layer_seconds": trial.seconds})
    (RAW / "cost.json").write_text(json.dumps(rows, indent=1) + "\n")


def report() -> None:
    lines = list(read().values())
    for sparsity in sorted({line["sparsity"] for line in lines} - {0.0}, reverse=True):
        shown = complete([line for line in lines if line["sparsity"] in (0.0, sparsity)])
        if not shown:
            print(f"\n## {sparsity:.0%}: no seed is complete yet")
            continue
        print(f"\n## {sparsity:.0%}, seeds {', '.join(str(line['seed']) for line in of(shown, PRUNED))}")
        ends(shown)
        by_layer(shown)
        growths(shown)
        agreement(shown)
        draw(shown, sparsity)
    if (RAW / "cost.json").exists():
        print("\n| preset | architecture | sparsity | rungs | trial s | measuring layers s | share |")
        print("|---|---|---|---|---|---|---|")
        for row in json.loads((RAW / "cost.json").read_text()):
            share = row["layer_seconds"] / row["trial_seconds"]
            print(
                f"| {row['preset']} | {row['architecture']} | {row['sparsity']:.0%} | {row['rungs']} "
                f"| {row['trial_seconds']:.1f} | {row['layer_seconds']:.2f} | {share:.1%} |"
            )


def complete(lines: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Those of the seeds that every approach has been run with, the ones with more epochs than the others aside."""
    needed = [approach for approach in APPROACHES if not approach.endswith("40 epochs")]
    seeds = [{line["seed"] for line in of(lines, approach)} for approach in needed]
    return [line for line in lines if line["seed"] in set.intersection(*seeds)]


def of(lines: Sequence[Mapping[str, Any]], approach: str) -> list[Mapping[str, Any]]:
    return sorted((line for line in lines if line["approach"] == approach), key=lambda line: line["seed"])


def named(lines: Sequence[Mapping[str, Any]]) -> list[str]:
    return [approach for approach in APPROACHES if of(lines, approach)]


def spread(values: Sequence[float], digits: int = 1) -> str:
    deviation = f" ± {100 * statistics.stdev(values):.{digits}f}" if len(values) > 1 else ""
    return f"{100 * statistics.mean(values):.{digits}f}{deviation}"


def ends(lines: Sequence[Mapping[str, Any]]) -> None:
    epochs = [rung["epoch"] / SPEC["epochs"] for rung in of(lines, "dense")[0]["rungs"][1:]]
    print(
        "\nTest split at the end; beside it, on validation at the epsilon of the moment, verified along training (%)\n"
    )
    print(f"| approach | natural | verified | by seed | {' | '.join(f'at {share:.0%}' for share in epochs)} |")
    print("|---" * (4 + len(epochs)) + "|")
    for approach in named(lines):
        mine = of(lines, approach)
        accuracies = [spread([line["test"][name] for line in mine]) for name in ACCURACIES]
        along = [spread([line["rungs"][1 + rung]["verified_ramp"] for line in mine]) for rung in range(len(epochs))]
        each = ", ".join(f"{100 * line['test']['verified']:.1f}" for line in mine)
        print(f"| {approach} | {' | '.join(accuracies)} | {each} | {' | '.join(along)} |")


def value(rung: Mapping[str, Any], layer: str, measure: str) -> float | None:
    found = rung.get(measure) if measure == "verified_ramp" else rung["layers"][layer].get(measure)
    return None if found is None else float(found)


def mean(values: Sequence[float | None]) -> float | None:
    known = [one for one in values if one is not None]
    return statistics.mean(known) if known else None


def layers_with(lines: Sequence[Mapping[str, Any]], measure: str) -> list[str]:
    return [layer for layer, measures in lines[0]["rungs"][-1]["layers"].items() if measure in measures]


def by_layer(lines: Sequence[Mapping[str, Any]]) -> None:
    for measure, title in SHOWN.items():
        layers = layers_with(lines, measure)
        if not layers:
            continue
        share = not measure.endswith("norm")
        unit = " (%)" if share else ""
        print(f"\n{title}{unit}, by layer, mean over seeds: before training -> at 15 % of it -> at the end\n")
        print(f"| approach | {' | '.join(layers)} |")
        print("|---" * (1 + len(layers)) + "|")
        for approach in named(lines):
            cells = []
            for layer in layers:
                mine = of(lines, approach)
                along = [mean([value(line["rungs"][at], layer, measure) for line in mine]) for at in (0, 1, -1)]
                shown = ("-" if one is None else f"{100 * one:.3g}" if share else f"{one:.2g}" for one in along)
                cells.append(" -> ".join(shown))
            print(f"| {approach} | {' | '.join(cells)} |")


def growths(lines: Sequence[Mapping[str, Any]]) -> None:
    growing = [approach for approach in named(lines) if "growth" in of(lines, approach)[0]["rungs"][1]]
    if not growing:
        return
    layers = list(of(lines, growing[0])[0]["rungs"][1]["growth"])
    print("\nAgreement of two estimates of what to grow, four batches each (0 chance, 1 the same), mean over seeds\n")
    print(f"| approach | epoch | {' | '.join(layers)} |")
    print("|---" * (2 + len(layers)) + "|")
    for approach in growing:
        for at, rung in enumerate(of(lines, approach)[0]["rungs"]):
            if "growth" not in rung:
                continue
            cells = []
            for layer in layers:
                found = []
                for line in of(lines, approach):
                    reachable, one, other, both = line["rungs"][at]["growth"][layer]
                    found.append(Overlap.counted(reachable, one, other, both).agreement if reachable else None)
                agreed = mean(found)
                cells.append("-" if agreed is None else f"{agreed:.2f}")
            print(f"| {approach} | {rung['epoch']} | {' | '.join(cells)} |")


def compared(one: Mapping[str, Any], other: Mapping[str, Any]) -> Overlap:
    a, b = mask_of(one), mask_of(other)
    first, *others = (overlap(packed(a[layer]), packed(b[layer]), a[layer].size) for layer in a)
    return sum(others, start=first)


def agreement(lines: Sequence[Mapping[str, Any]]) -> None:
    sparse = [approach for approach in named(lines) if approach != "dense"]
    print("\nMasks of two seeds of one approach, mean over pairs of seeds\n")
    print("| approach | overlap (%) | by chance (%) | agreement | deviations from chance |")
    print("|---|---|---|---|---|")
    for approach in sparse:
        _print_overlaps(approach, [compared(*pair) for pair in combinations(of(lines, approach), 2)])
    print("\nMasks of two approaches with equal seeds, agreement (0 chance, 1 the most that densities allow)\n")
    print(f"| | {' | '.join(sparse)} |")
    print("|---" * (1 + len(sparse)) + "|")
    for a in sparse:
        cells = []
        for b in sparse:
            pairs = [(x, y) for x in of(lines, a) for y in of(lines, b) if x["seed"] == y["seed"]]
            agreed = None if a == b else mean([compared(*pair).agreement for pair in pairs])
            cells.append("" if agreed is None else f"{agreed:.2f}")
        print(f"| {a} | {' | '.join(cells)} |")


def _print_overlaps(approach: str, found: Sequence[Overlap]) -> None:
    if found:
        shared, chance, agreed, deviations = (
            mean([getattr(one, name) for one in found])
            for name in ("overlap", "overlap_by_chance", "agreement", "deviations")
        )
        print(f"| {approach} | {100 * shared:.2f} | {100 * chance:.2f} | {agreed:.3f} | {deviations:.1f} |")


def draw(lines: Sequence[Mapping[str, Any]], sparsity: float) -> None:
    rows = {measure: layers_with(lines, measure) or [""] for measure in SHOWN}
    width = max(map(len, rows.values()))
    figure = Figure(figsize=(4 * width, 2.6 * len(rows)), dpi=90, layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(len(rows), width, squeeze=False)
    shown = [approach for approach in DRAWN if of(lines, approach)]
    for row, (measure, layers) in enumerate(rows.items()):
        for column in range(width):
            axes = panels[row][column]
            if column >= len(layers):
                axes.axis("off")
                continue
            for number, approach in enumerate(shown):
                mine = of(lines, approach)
                epochs = [rung["epoch"] for rung in mine[0]["rungs"]]
                values = [
                    mean([value(line["rungs"][at], layers[column], measure) for line in mine])
                    for at in range(len(epochs))
                ]
                # A gradient of exactly 0 has no place on a logarithmic axis.
                least = 0.0 if measure in LOGARITHMIC else -1.0
                pairs = zip(epochs, values, strict=True)
                known = [(epoch, one) for epoch, one in pairs if one is not None and one > least]
                if known:
                    axes.plot(*zip(*known, strict=True), marker=".", color=f"C{number}", label=approach)
            axes.set_title(f"{SHOWN[measure]}{', layer ' + layers[column] if layers[column] else ''}", fontsize=8)
            axes.set_xlabel("epoch", fontsize=7)
            if measure in LOGARITHMIC:
                axes.set_yscale("log")
            axes.grid(color="0.92")
            axes.tick_params(labelsize=7)
    figure.legend(*panels[0][0].get_legend_handles_labels(), loc="outside lower center", ncols=3, fontsize=8)
    FIGURES.mkdir(parents=True, exist_ok=True)
    file = FIGURES / f"why_{100 * sparsity:.0f}.png"
    figure.savefig(file)
    print(f"\nplot: {file.name}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=["run", "report", "cost"])
    parser.add_argument("--sparsities", type=float, nargs="+", default=[0.99, 0.9])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    asked = parser.parse_args()
    if asked.command == "run":
        run(asked.sparsities, asked.seeds)
    else:
        {"report": report, "cost": cost}[asked.command]()
