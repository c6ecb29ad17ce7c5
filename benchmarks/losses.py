"""What networks trained with each loss come to, dense and at 95 % sparsity, each epsilon with published loss options.

    python benchmarks/losses.py run [SETTING ...] [--workers 2]    # resumable; hours, one line per training
    python benchmarks/losses.py report [SETTING ...]               # tables from the checked-in raw data

Epochs, ramp, optimizer and pruning (gradual, LAMP) are the same for all losses of a setting; nothing is tuned.
Accuracies are on the test split by the whole cascade, intervals to alpha-CROWN, since intervals certify little of what
expressive losses train; alpha-CROWN takes 300 samples at most, those closest to a proof. All is in float32;
seconds are processor time of training on one thread.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from approaches import MAGNITUDE
from trainings import Line, in_process, lines_of, spread, train_all

RAW = Path(__file__).parent / "results" / "losses"
SPARSITIES = (0.0, 0.95)
ONE_STEP = {"loss.attack_steps": 1, "loss.attack_step_size": 2.0}
IBP = {"loss.kappa_end": 0.3}
Options = Mapping[str, Any]
AT_0_1: Mapping[str, Options] = {
    "cross-entropy": {},
    "pgd": {},
    "ibp": IBP,
    "crown-ibp": IBP,
    "sabr": {"loss.subselection": 0.4},
    "mtl-ibp": {"loss.alpha": 0.01, "loss.epsilon_factor": 2.0, **ONE_STEP},
    "cc-ibp": {"loss.alpha": 0.1, "loss.epsilon_factor": 2.0, **ONE_STEP},
    "exp-ibp": {"loss.alpha": 0.5, "loss.epsilon_factor": 2.0, **ONE_STEP},
    "taps": {"loss.latent_from": 1.0},
    "staps": {"loss.latent_from": 1.0, "loss.subselection": 0.4},
}
AT_0_3: Mapping[str, Options] = AT_0_1 | {
    "sabr": {"loss.subselection": 0.8},
    "mtl-ibp": {"loss.alpha": 0.08, "loss.epsilon_factor": 4 / 3, **ONE_STEP},
    "cc-ibp": {"loss.alpha": 0.3, "loss.epsilon_factor": 4 / 3, **ONE_STEP},
    "exp-ibp": {"loss.alpha": 0.5, "loss.epsilon_factor": 4 / 3, **ONE_STEP},
    "staps": {"loss.latent_from": 1.0, "loss.subselection": 0.8},
}
"""Published values (see the guide); for Exp-IBP none is on MNIST, so it has its alpha for CIFAR-10 at 8/255."""

COMMON = {
    "ramp": {"start": 0.01, "end": 0.6},
    "scheduler": {"kind": "none"},
    "verification": {
        "stages": ["ibp", "pgd", "crown-ibp", "alpha-crown"],
        "max_alpha_crown_samples": 300,
        # Nothing is chosen by validation here.
        "samples": 5,
    },
}
MNIST = COMMON | {"data": "mnist-5k", "epochs": 40, "batch_size": 128}


@dataclass(frozen=True)
class Setting:
    """A data set, an epsilon and a budget.

    Attributes:
        seeds: of all trainings.
        dense_again: losses whose dense networks are trained with seeds 1 and 2 as well.
    """

    spec: Options
    losses: Mapping[str, Options]
    fixed: Options
    seeds: Sequence[int] = (0, 1, 2)
    dense_again: Sequence[str] = ()


HALF = {"architecture": "cnn-small", "architecture.width": 0.5, "optimizer.learning_rate": 3e-3}
SETTINGS = {
    "mnist-5k-0.1": Setting(MNIST | {"epsilon": 0.1}, AT_0_1, HALF),
    "mnist-5k-0.3": Setting(MNIST | {"epsilon": 0.3}, AT_0_3, HALF),
    "fashion-mnist-0.1": Setting(
        COMMON | {"data": "fashion-mnist", "epsilon": 0.1, "epochs": 10, "batch_size": 256},
        AT_0_1,
        HALF | {"architecture.width": 1.0},
        (0,),
        ("ibp", "crown-ibp", "sabr", "mtl-ibp", "cc-ibp", "exp-ibp"),
    ),
}


@dataclass(frozen=True)
class Run:
    """One training."""

    setting: str
    loss: str
    sparsity: float
    seed: int

    @property
    def key(self) -> str:
        return json.dumps([self.setting, self.loss, self.sparsity, self.seed])

    def line(self) -> Line:
        setting = SETTINGS[self.setting]
        pruned = MAGNITUDE | {"schedule": "gradual", "schedule.end": 0.6, "sparsity": self.sparsity}
        values = {"optimizer": "adam", **setting.fixed, **pruned, "loss": self.loss, **setting.losses[self.loss]}
        told = {"loss": self.loss, "sparsity": self.sparsity}
        return {"key": self.key, **told, **in_process(setting.spec, values, self.seed)}


def planned(name: str) -> list[Run]:
    setting = SETTINGS[name]
    again = [Run(name, loss, 0.0, seed) for seed in (1, 2) for loss in setting.dense_again]
    return [
        Run(name, loss, sparsity, seed) for seed in setting.seeds for sparsity in SPARSITIES for loss in setting.losses
    ] + again


def run(names: Sequence[str], workers: int) -> None:
    for name in names:
        train_all(planned(name), RAW / f"{name}.jsonl", workers)


def report(names: Sequence[str], workers: int) -> None:
    for name in names:
        lines = list(lines_of(RAW / f"{name}.jsonl").values())
        if not lines:
            print(f"{name}: nothing has been run yet")
            continue
        print(f"\n{name}, test split, mean and standard deviation over seeds\n")
        print("| loss | sparsity | seeds | natural | adversarial | verified | undecided | unstable | seconds |")
        print("|---|---|---|---|---|---|---|---|---|")
        for sparsity in SPARSITIES:
            for loss in SETTINGS[name].losses:
                mine = [line for line in lines if (line["loss"], line["sparsity"]) == (loss, sparsity)]
                print(row(loss, sparsity, mine))


def row(loss: str, sparsity: float, lines: Sequence[Line]) -> str:
    fine = [line["test"] for line in lines if "error" not in line]
    if not fine:
        reason = lines[0]["error"] if lines else "not run"
        return f"| {loss} | {sparsity:.0%} | {len(lines)} | {reason} | | | | | |"
    cells = [spread([test[f"{kind}_accuracy"] for test in fine]) for kind in ("natural", "adversarial", "verified")]
    undecided = spread([test["adversarial_accuracy"] - test["verified_accuracy"] for test in fine])
    unstable = spread([test["unstable_relu_fraction"] for test in fine])
    seconds = statistics.median(line["train_processor_seconds"] for line in lines if "error" not in line)
    return f"| {loss} | {sparsity:.0%} | {len(fine)} | {' | '.join(cells)} | {undecided} | {unstable} | {seconds:.0f} |"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=["run", "report"])
    parser.add_argument("settings", nargs="*", default=list(SETTINGS))
    parser.add_argument("--workers", type=int, default=2)
    asked = parser.parse_args()
    {"run": run, "report": report}[asked.command](asked.settings, asked.workers)
