"""How much of a trial is verification, in the presets whose data is here: the first trials that a search begins with.

    python benchmarks/verification_share.py run [PRESET ...] [--trials 6]    # resumable; minutes a trial for images
    python benchmarks/verification_share.py report                           # table from the checked-in raw data

Training and verifying are timed by the trial itself, one thread, and told in its records. A trial that is stopped at
its first rung has trained the least for what its scoring took, one that runs to the end is scored at every rung and by
the whole cascade.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from machine import machine
from trainings import Line, lines_of

from sparsevlr.search.sampler import Sampler
from sparsevlr.spaces import StudySpec, TrialConfig, load_dataset, load_spec
from sparsevlr.spaces.datasets import Dataset
from sparsevlr.trainables import Trial

RAW = Path(__file__).parent / "results" / "verification_share"
PRESETS = ("digits", "breast-cancer", "basic-motions", "mnist-5k", "fashion-mnist", "fashion-mnist-crown-ibp")


def run(presets: Sequence[str], trials: int) -> None:
    torch.set_num_threads(1)
    RAW.mkdir(parents=True, exist_ok=True)
    (RAW / "machine.json").write_text(json.dumps(machine(), indent=1) + "\n")
    file = RAW / "trials.jsonl"
    for preset in presets:
        spec = load_spec(preset)
        sampler, data = Sampler(spec), load_dataset(str(spec.data))
        for config in (sampler.ask(number) for number in range(trials)):
            key, sparsity = json.dumps([preset, config.trial_id]), config.values["sparsity"]
            if key in lines_of(file):
                continue
            line = {"key": key, "preset": preset, "values": dict(config.values), "rungs": rungs(config, spec, data)}
            with file.open("a") as lines:
                lines.write(json.dumps(line, default=list) + "\n")
            print(preset, f"{sparsity:.0%}", *(f"{share(rung):.1%}" for rung in line["rungs"]), flush=True)


def rungs(config: TrialConfig, spec: StudySpec, data: Dataset) -> list[dict[str, Any]]:
    """Epoch, and seconds of training and of verifying until then, rung by rung."""
    trial = Trial(config, spec, data)
    found = []
    while not trial.finished:
        record = trial.advance()
        found.append({name: getattr(record, name) for name in ("epoch", "train_seconds", "verify_seconds")})
    return found


def share(rung: Mapping[str, float]) -> float:
    return rung["verify_seconds"] / (rung["train_seconds"] + rung["verify_seconds"])


def report(presets: Sequence[str], trials: int) -> None:
    print(
        "| preset | trials | share at the first rung | share of whole trials | of all together | seconds of a trial |"
    )
    print("|---|---|---|---|---|---|")
    lines = list(lines_of(RAW / "trials.jsonl").values())
    for preset in presets:
        mine: list[Line] = [line for line in lines if line["preset"] == preset]
        if not mine:
            print(f"| {preset} | not run | | | | |")
            continue
        first, last = ([line["rungs"][at] for line in mine] for at in (0, -1))
        seconds = [rung["train_seconds"] + rung["verify_seconds"] for rung in last]
        together = sum(rung["verify_seconds"] for rung in last) / sum(seconds)
        print(
            f"| {preset} | {len(mine)} | {between([share(rung) for rung in first])} "
            f"| {between([share(rung) for rung in last])} | {together:.1%} "
            f"| {min(seconds):.0f} to {max(seconds):.0f} |"
        )


def between(shares: Sequence[float]) -> str:
    return f"{min(shares):.1%} to {max(shares):.1%}"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=["run", "report"])
    parser.add_argument("presets", nargs="*", default=PRESETS)
    parser.add_argument("--trials", type=int, default=6)
    asked = parser.parse_args()
    {"run": run, "report": report}[asked.command](asked.presets, asked.trials)
