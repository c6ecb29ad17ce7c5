"""Kills at random moments over studies of 40 trials, and whether anything is lost, doubled or different afterwards.

    python benchmarks/chaos.py run       # resumable; about half an hour on two cores; exit code 1 if a check fails
    python benchmarks/chaos.py report    # table and plot from the checked-in raw data; the same exit code

Four studies, with one and with two workers, under either scheduler, each struck 13 times: 52 kills. The real command
runs them, `sparsevlr search` and then `sparsevlr resume`. Moments and kinds are drawn from a seed: SIGKILL to the
driver alone, to its process group or to one of Ray's workers, SIGTERM, and Ctrl-C. Moments are counted in events of
the study plus a fraction of a second; a strike that is overtaken by the one before it falls into the start of the next
driver, which waits for the lock, starts Ray and replays. With one worker the study must equal an uninterrupted one,
event by event; with two, each row must equal that of a bare `run_trial`.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import yaml
from killing import INSTALLED, KINDS, check, plan, told, torment
from machine import machine
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from sparsevlr.results import Study, open_study
from sparsevlr.results.record import OVER

RAW = Path(__file__).parent / "results" / "chaos"
FIGURE = Path(__file__).parents[1] / "docs" / "figures" / "chaos.png"
KILLS = 13
SCHEDULERS = ("stopping", "promotion")
STUDIES = {f"{workers}-{kind}": (workers, kind) for workers in (1, 2) for kind in SCHEDULERS}
SPEC = {
    "data": "digits",
    "epsilon": 0.05,
    "epochs": 16,
    "ramp": {"start": 0.0, "end": 0.6},
    "batch_size": 32,
    "trials": 40,
    "space": {
        "architecture": "mlp",
        "architecture.hidden": [[32], [48, 48]],
        "sparsity": {"low": 0.0, "high": 0.99, "scale": "log-complement"},
        "schedule": ["one-shot", "gradual"],
        "schedule.at": {"low": 0.0, "high": 0.1, "when": {"schedule": "one-shot"}},
        "schedule.end": {"low": 0.02, "high": 0.12, "when": {"schedule": "gradual"}},
        "optimizer.learning_rate": {"low": 1e-3, "high": 1e-2, "scale": "log"},
    },
    "verification": {"samples": 120, "test_samples": 120, "pgd_steps": 5, "max_crown_samples": 20},
}


def run(asked: str | None) -> None:
    RAW.mkdir(parents=True, exist_ok=True)
    (RAW / "machine.json").write_text(json.dumps(machine(), indent=1) + "\n")
    for seed, (name, (workers, kind)) in enumerate(STUDIES.items()):
        file = RAW / f"{name}.json"
        if asked in (None, name) and not file.exists():
            file.write_text(json.dumps(study(workers, kind, seed), indent=1) + "\n")
            print(f"{file.name}: written", flush=True)


def study(workers: int, kind: str, seed: int) -> dict[str, Any]:
    spec = SPEC | {
        "seed": seed,
        "scheduler": {"kind": kind, "eta": 2, "first_rung": 2},
        "resources": {"workers": workers},
    }
    with tempfile.TemporaryDirectory(prefix="svlr") as name:
        folder = Path(name)
        # What killed processes leave behind goes away with the folder; Ray's sockets need a short path.
        os.environ |= {"RAY_TMPDIR": name, "TMPDIR": name}
        file = folder / "study.yaml"
        file.write_text(yaml.safe_dump(spec))
        started = time.monotonic()
        command = [*INSTALLED, "search", str(file), "--storage", name, "--name", "whole"]
        subprocess.run(command, check=True, capture_output=True)
        whole, seconds = open_study(folder / "whole"), time.monotonic() - started
        strikes = plan(KILLS, len(whole.events()), seed)
        began = time.time()
        hits = torment(file, folder / "killed", strikes, seed=seed, tell=lambda hit: print(hit, flush=True))
        killed = open_study(folder / "killed")
        found = check(killed, whole if workers == 1 else None)
        return {
            "workers": workers,
            "scheduler": kind,
            "seed": seed,
            "spec": spec,
            "kills": told(hits),
            "kills_too_late": len(strikes) - len(hits),
            "checks": {name: {"passed": not against, "found": against} for name, against in found.items()},
            "states": dict(Counter(killed.trials()["state"].to_pylist())),
            "rows": len(killed.reports()),
            "uninterrupted_seconds": round(seconds, 1),
            "trials_over_at": [round(when - began, 2) for when in ends(killed)],
        }


def ends(study: Study) -> list[float]:
    """When each trial was over, in unix seconds."""
    return [row["time"] for row in study.events().to_pylist() if row["event"] != "report" and row["state"] in OVER]


def report() -> bool:
    files = [RAW / f"{name}.json" for name in STUDIES]
    raws = [json.loads(file.read_text()) for file in files if file.exists()]
    if len(raws) < len(files):
        print(f"{len(files) - len(raws)} studies have not been run yet")
    print("| workers | scheduler | kills | trials | rows | checks passed |")
    print("|---|---|---|---|---|---|")
    for raw in raws:
        states = ", ".join(f"{count} {state}" for state, count in sorted(raw["states"].items()))
        passed = sum(verdict["passed"] for verdict in raw["checks"].values())
        checks = f"{passed} of {len(raw['checks'])}"
        print(f"| {raw['workers']} | {raw['scheduler']} | {len(raw['kills'])} | {states} | {raw['rows']} | {checks} |")
    kills = [kill for raw in raws for kill in raw["kills"]]
    phases = ("starting", "running", "ending")
    print(f"\n| kill | {' | '.join(phases)} | driver's exit codes |")
    print("|---|---|---|---|---|")
    for kind in KINDS:
        of_kind = [kill for kill in kills if kill["kind"] == kind]
        counts = Counter(kill["phase"] for kill in of_kind)
        codes = Counter("went on" if kill["exit_code"] is None else str(kill["exit_code"]) for kill in of_kind)
        ended = ", ".join(f"{code} ({count})" for code, count in codes.most_common())
        print(f"| {kind} | {' | '.join(str(counts[phase]) for phase in phases)} | {ended} |")
    print(f"\nkills: {len(kills)}")
    failed = [(raw, name, verdict) for raw in raws for name, verdict in raw["checks"].items() if not verdict["passed"]]
    for raw, name, verdict in failed:
        print(f"FAILED with {raw['workers']} workers, {raw['scheduler']}: {name}: {verdict['found'][:3]}")
    draw(raws)
    return not failed and len(raws) == len(files)


def draw(raws: list[dict[str, Any]]) -> None:
    figure = Figure(figsize=(9, 6), dpi=130, layout="constrained")
    FigureCanvasAgg(figure)
    marks = dict(zip(KINDS, "Xsov^", strict=True))
    grid = figure.subplots(2, 2, sharex=True, sharey=True)
    for raw, axes in zip(raws, grid.flat, strict=False):
        times = raw["trials_over_at"]
        axes.step([0, *times], range(len(times) + 1), where="post", color="0.6", lw=1)
        for kind, mark in marks.items():
            at = [kill["seconds"] for kill in raw["kills"] if kill["kind"] == kind]
            over = [sum(time <= moment for time in times) for moment in at]
            axes.plot(at, over, mark, ms=6, alpha=0.8, label=kind)
        workers = f"{raw['workers']} worker{'s' * (raw['workers'] > 1)}"
        axes.set_title(f"{workers}, {raw['scheduler']}", loc="left", fontsize=10)
        axes.grid(color="0.92")
    for axes in grid[1]:
        axes.set_xlabel("seconds since the study began")
    for axes in grid[:, 0]:
        axes.set_ylabel("trials that are over")
    grid[0, 0].legend(fontsize=8)
    FIGURE.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(FIGURE)
    print(f"plot: {FIGURE.name}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=["run", "report"])
    parser.add_argument("--only", choices=STUDIES, help="run this study and no other")
    asked = parser.parse_args()
    if asked.command == "run":
        run(asked.only)
    sys.exit(0 if report() else 1)
