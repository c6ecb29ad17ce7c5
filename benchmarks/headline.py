"""The largest networks here: cnn-medium on all of Fashion-MNIST at epsilon 0.1, all 10,000 test images.

    python benchmarks/headline.py tune [--workers 1]                              # at 95 %; resumable; two hours
    python benchmarks/headline.py run [--epochs 40] [--sparsities 0.95 0.99 0]    # resumable; hours each
    python benchmarks/headline.py run --precision bfloat16                        # where `sparsevlr check` says so
    python benchmarks/headline.py pack                                            # the state of what was cut
    python benchmarks/headline.py report                                          # table from the checked-in raw data

IBP with the regularisers of Shi et al., kappa to 0, Adam with two drops of the learning rate, gradual magnitude
pruning by LAMP over the ramp, one seed. `tune` compares settings at 95 %, on cnn-small where they do not say
otherwise; only the validation split tells which is best. All test images are attacked and verified in float32. A
training that is cut goes on after its last epoch, from build/ or, on another machine, from what `pack` has put beside
the raw data.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tarfile
import tempfile
import time
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import torch
from machine import machine
from trainings import Line, in_process, lines_of, train_all, verified

from sparsevlr.results.location import locate
from sparsevlr.results.paths import STATE
from sparsevlr.spaces import StudySpec, TrialConfig, load_dataset
from sparsevlr.spaces.datasets import Dataset
from sparsevlr.trainables import Trial
from sparsevlr.trainables.bounds import input_region, relu_states, trace
from sparsevlr.trainables.checkpoint import Checkpoint
from sparsevlr.trainables.errors import CheckpointError, Left
from sparsevlr.trainables.methods import Methods

RAW = Path(__file__).parent / "results" / "headline"
SCRATCH = Path(__file__).parents[1] / "build" / "headline"
PACKED = RAW / "unfinished"
SPEC: dict[str, Any] = {
    "data": "fashion-mnist",
    "epsilon": 0.1,
    "batch_size": 256,
    "ramp": {"start": 0.01, "end": 0.6},
    # Rungs are where checkpoints are kept; nothing is ever stopped here.
    "scheduler": {"kind": "stopping", "eta": 2, "first_rung": 1},
    "verification": {
        "stages": ["ibp", "pgd", "crown-ibp"],
        "rung_stages": ["ibp"],
        "samples": 1000,
        "test_samples": None,
    },
}
VALUES: dict[str, Any] = {
    "architecture": "cnn-medium",
    "score": "magnitude",
    "distribution": "lamp",
    "schedule": "gradual",
    "schedule.end": 0.6,
    "loss": "ibp",
    "regulariser": "shi",
    "optimizer": "adam",
}

RATE = {"optimizer.learning_rate": 3e-3}
TO_IBP = RATE | {"loss.kappa_end": 0.0}
ONE_STEP = {"loss.attack_steps": 1, "loss.attack_step_size": 2.0, "loss.epsilon_factor": 1.5}
BY_128, BY_64 = {"batch_size": 128}, {"batch_size": 64}
EARLY_RAMP = {"ramp": {"start": 0.01, "end": 0.4}}
EARLY_PRUNED = {"schedule.end": 0.4}
LATE_DROPS = {"optimizer.first_drop": 0.8, "optimizer.second_drop": 0.92}
MEDIUM = TO_IBP | EARLY_PRUNED | LATE_DROPS | {"architecture": "cnn-medium", "optimizer.learning_rate": 1e-3}
FIRST = "3e-3, batches of 128"
CHOSEN = "cnn-medium, 1e-3, batches of 64, ramp to 0.4, late drops"
TUNED: dict[str, tuple[int, dict[str, Any], dict[str, Any]]] = {
    FIRST: (10, BY_128, TO_IBP),
    f"{FIRST}, averaged": (10, BY_128, TO_IBP | {"optimizer.average": 0.999}),
    f"{FIRST}, cosine": (10, BY_128, TO_IBP | {"optimizer.schedule": "cosine"}),
    f"{FIRST}, epsilon times 1.1": (10, BY_128, TO_IBP | {"loss.epsilon_factor": 1.1}),
    f"{FIRST}, cc-ibp": (10, BY_128, RATE | {"loss": "cc-ibp", "loss.alpha": 0.3, **ONE_STEP}),
    f"{FIRST}, exp-ibp": (10, BY_128, RATE | {"loss": "exp-ibp", "loss.alpha": 0.5, **ONE_STEP}),
    "3e-3, batches of 64": (10, BY_64, TO_IBP),
    "3e-3, batches of 64, longer": (20, BY_64, TO_IBP),
    "3e-3, batches of 64, ramp to 0.4, late drops": (20, BY_64 | EARLY_RAMP, TO_IBP | EARLY_PRUNED | LATE_DROPS),
    CHOSEN: (10, BY_64 | EARLY_RAMP, MEDIUM),
    f"{CHOSEN}, no regulariser": (10, BY_64 | EARLY_RAMP, MEDIUM | {"regulariser": "none"}),
    "cnn-medium, 5e-4, batches of 64, ramp to 0.4, late drops": (
        10,
        BY_64 | EARLY_RAMP,
        MEDIUM | {"optimizer.learning_rate": 5e-4},
    ),
    "cnn-medium, 1e-3, batches of 64, ramp to 0.25, late drops": (
        10,
        BY_64 | {"ramp": {"start": 0.01, "end": 0.25}},
        MEDIUM | {"schedule.end": 0.25},
    ),
}
"""What was tried: epochs, and changes to the study and to the trial."""

TOLD = (
    "epoch",
    "natural_accuracy",
    "adversarial_accuracy",
    "verified_accuracy",
    "verified_low",
    "verified_high",
    "n_unknown",
    "samples",
    "sparsity",
    "nonzero_weights",
    "total_weights",
    "unstable_relu_fraction",
    "train_seconds",
)


@dataclass(frozen=True)
class Tuning:
    """One training that compares settings."""

    name: str
    seed: int = 0

    @property
    def key(self) -> str:
        return json.dumps([self.name, self.seed])

    def line(self) -> Line:
        epochs, spec, values = TUNED[self.name]
        small = VALUES | {"architecture": "cnn-small", "sparsity": 0.95}
        judged = {"verification": SPEC["verification"] | {"samples": None}}
        spec = SPEC | judged | {"epochs": epochs} | spec
        return {"key": self.key, "epochs": epochs, **in_process(spec, small | values, self.seed)}


@dataclass(frozen=True)
class Run:
    """One training."""

    settings: str
    sparsity: float
    epochs: int
    precision: str
    seed: int = 0

    @property
    def name(self) -> str:
        settings = self.settings.replace(",", "").replace(" ", "-")
        return f"{settings}-{self.epochs}-epochs-{self.precision}-{round(1000 * self.sparsity)}-{self.seed}"

    def line(self) -> Line:
        torch.set_num_threads(1)
        folder = SCRATCH / self.name
        if (packed := PACKED / f"{self.name}.tar.xz").exists() and not folder.exists():
            shutil.unpack_archive(packed, folder)
        folder.mkdir(parents=True, exist_ok=True)
        _, study, chosen = TUNED[self.settings]
        own = {"epochs": self.epochs, "precision": self.precision, "seed": self.seed}
        spec = StudySpec.from_dict(SPEC | study | own)
        config = TrialConfig(trial_id="one", seed=self.seed, values=VALUES | chosen | {"sparsity": self.sparsity})
        location = locate(folder)
        trial = Trial(config, spec, load_dataset(spec.data), location=location)
        if last := last_checkpoint(folder):
            trial.restore(last[1])
        history = folder / "validation.jsonl"
        while not trial.finished:
            asked = count()
            try:
                # Before each epoch: it saves itself after one.
                record = trial.advance(lambda asked=asked: next(asked) > 0)
            except Left:
                print(self.name, time.strftime("%H:%M:%S"), flush=True)
                continue
            with history.open("a") as lines:
                lines.write(json.dumps({name: getattr(record, name) for name in TOLD}) + "\n")
            print(self.name, record.epoch, f"{record.verified_accuracy:.1%} verified on validation", flush=True)
        started = time.process_time()
        test = trial.score_on_test()
        return {
            "key": self.name,
            "settings": self.settings,
            "epochs": self.epochs,
            "precision": self.precision,
            "sparsity": self.sparsity,
            "seed": self.seed,
            "validation": [json.loads(line) for line in history.read_text().splitlines()],
            "test": {name: getattr(test, name) for name in TOLD},
            "layer_densities": json.loads(str(test.layer_densities)),
            "dead_relus": dead_relus(folder, config, load_dataset(spec.data)),
            "test_processor_seconds": round(time.process_time() - started, 1),
        }


def tune(workers: int) -> None:
    train_all([Tuning(name) for name in TUNED], RAW / "tuning.jsonl", workers)


def run(settings: str, epochs: int, precision: str, sparsities: list[float]) -> None:
    RAW.mkdir(parents=True, exist_ok=True)
    (RAW / "machine.json").write_text(json.dumps(machine(), indent=1) + "\n")
    for one in (Run(settings, sparsity, epochs, precision) for sparsity in sparsities):
        if one.name in lines_of(RAW / "fashion-mnist.jsonl"):
            continue
        line = one.line()
        with (RAW / "fashion-mnist.jsonl").open("a") as lines:
            lines.write(json.dumps(line) + "\n")
        print(one.name, f"{line['test']['verified_accuracy']:.2%} verified on test", flush=True)


def last_checkpoint(folder: Path) -> tuple[int, str] | None:
    """Epoch and path of the last checkpoint in the folder of a training that no kill has torn, if there is one."""
    found = folder.rglob(STATE)
    kept = [(json.loads(path.read_text())["epoch"], path.parent.relative_to(folder).as_posix()) for path in found]
    for epoch, path in sorted(kept, reverse=True):
        try:
            Checkpoint.load(locate(folder), path)
        except CheckpointError:
            continue
        return epoch, path
    return None


def dead_relus(folder: Path, config: TrialConfig, data: Dataset) -> dict[int, float]:
    """Share of the neurons of each ReLU that no validation sample switches on, anywhere in its box."""
    last = last_checkpoint(folder)
    assert last, f"{folder} has no checkpoint"
    network = Methods.of(config).build_network(data.shape, data.classes)
    network.load_state_dict(Checkpoint.load(locate(folder), last[1]).weights)
    boxes = input_region(torch.from_numpy(data.validation.x), SPEC["epsilon"], data.low, data.high)
    states = relu_states(trace(network, data.shape), boxes)
    return {index: round(state.dead / state.neurons, 4) for index, state in states.items()}


def pack() -> None:
    """The last checkpoint of every training that has not come to its end, and what it was worth so far."""
    PACKED.mkdir(parents=True, exist_ok=True)
    for folder in SCRATCH.glob("*"):
        name = folder.name
        if name in lines_of(RAW / "fashion-mnist.jsonl"):
            (PACKED / f"{name}.tar.xz").unlink(missing_ok=True)
            continue
        if (last := last_checkpoint(folder)) is None:
            print(f"{name}: no whole checkpoint, not packed")
            continue
        epoch, path = last
        with tempfile.TemporaryDirectory() as copied:
            shutil.copytree(folder / path, Path(copied) / path)
            if (history := folder / "validation.jsonl").exists():
                shutil.copy(history, copied)
            packed = Path(shutil.make_archive(str(PACKED / name), "xztar", copied))
        print(f"{packed.name}: epoch {epoch}, {packed.stat().st_size / 1e6:.1f} MB")


def history_of(packed: Path) -> list[Line]:
    """What a training that has been cut was worth at its rungs, by intervals."""
    with tarfile.open(packed) as archive:
        member = next((one for one in archive.getmembers() if one.name.endswith("validation.jsonl")), None)
        file = archive.extractfile(member) if member else None
        return [json.loads(line) for line in file] if file else []


def report() -> None:
    if tuned := lines_of(RAW / "tuning.jsonl"):
        print("| 95 %, cnn-small where not said | epochs | verified on validation | training, processor seconds |")
        print("|---|---|---|---|")
        for (name, _), line in ((json.loads(key), line) for key, line in tuned.items()):
            seconds = line.get("train_processor_seconds", 0)
            print(f"| {name} | {line['epochs']} | {verified(line, 'validation'):.1%} | {seconds:.0f} |")
        print()
    lines = lines_of(RAW / "fashion-mnist.jsonl")
    for path in sorted(PACKED.glob("*.tar.xz")):
        if (name := path.name.removesuffix(".tar.xz")) in lines:
            continue
        print(f"{name} is not at its end yet; so far, on validation:")
        for line in history_of(path):
            verified_yet = f"{line['verified_accuracy']:.1%} of {line['samples']:,} samples verified"
            print(f"    epoch {line['epoch']}: {line['sparsity']:.1%} sparse, {verified_yet}")
    if not lines:
        print("no training of cnn-medium has come to its end yet")
        return
    print("| settings | epochs | sparsity | weights | natural | adversarial | verified | 95 % | dead, % | hours |")
    print("|---|---|---|---|---|---|---|---|---|---|")
    for line in lines.values():
        test = line["test"]
        shares = " | ".join(f"{test[f'{kind}_accuracy']:.2%}" for kind in ("natural", "adversarial", "verified"))
        interval = f"{100 * test['verified_low']:.2f} to {100 * test['verified_high']:.2f}"
        weights, hours = test["nonzero_weights"], test["train_seconds"] / 3600
        recipe = f"{line['settings']} | {line['epochs']} | {test['sparsity']:.2%}"
        dead = ", ".join(f"{share:.0%}".rstrip("%") for share in line["dead_relus"].values())
        print(f"| {recipe} | {weights:,} | {shares} | {interval} | {dead} | {hours:.1f} |")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    tuning = commands.add_parser("tune")
    tuning.add_argument("--workers", type=int, default=1)
    running = commands.add_parser("run")
    running.add_argument("--settings", choices=TUNED, default=CHOSEN, metavar="NAME", help="of those that are tuned")
    running.add_argument("--epochs", type=int, default=40)
    running.add_argument("--precision", choices=["float32", "bfloat16"], default="float32")
    running.add_argument("--sparsities", type=float, nargs="+", default=[0.95, 0.99, 0.0])
    commands.add_parser("pack")
    commands.add_parser("report")
    asked = parser.parse_args()
    if asked.command == "tune":
        tune(asked.workers)
    elif asked.command == "run":
        run(asked.settings, asked.epochs, asked.precision, asked.sparsities)
    else:
        {"pack": pack, "report": report}[asked.command]()
