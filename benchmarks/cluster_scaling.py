"""Trials per minute on simulated clusters, and what the driver costs with many trials at once.

    python benchmarks/cluster_scaling.py run       # resumable; about half an hour on two idle cores
    python benchmarks/cluster_scaling.py report    # tables from the checked-in raw data
    python benchmarks/cluster_scaling.py run --trials-per-slot 2 --most 8    # a quick look, of which nothing is kept

The nodes are Ray nodes of their own on this machine, and the driver's node runs no trials. The driver is the real one
with its real store; trials sleep for 5 s (see sleeping.py), report three times and write a checkpoint of 1 MB each
time. `nodes`: 1, 2 and 4 nodes with 4 slots each. `many`: more and more trials at once on one node, until the memory
that is left would not carry twice as many, or 1,000 run.

All figures are of the time in which every slot was in use: from when the last one was first taken until the last trial
began. A trial counts when it ends in it.
"""

from __future__ import annotations

import argparse
import json
import os
import secrets
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from machine import machine

RAW = Path(__file__).parent / "results" / "cluster_scaling"
SECONDS, TRIALS_PER_SLOT, SLOTS, MOST = 5.0, 12, 4, 1_000
NODES = (1, 2, 4)
BOUND = 0.90
SPARE_GB = 3.0
"""Memory that has to be left to the machine."""
SPEC = {
    "data": "digits",
    "epsilon": 0.05,
    "epochs": 4,
    "sampler": "random",
    "scheduler": {"kind": "stopping", "eta": 2, "first_rung": 1},
    "space": {"architecture": "mlp", "architecture.hidden": [[16]], "sparsity": {"low": 0.5, "high": 0.9}},
}


def run(folder: Path, trials_per_slot: int, most: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "machine.json").write_text(json.dumps(machine(), indent=1) + "\n")
    for nodes in NODES:
        case(folder / f"nodes-{nodes}.json", nodes, SLOTS, trials_per_slot)
    slots = 16
    while slots <= most:
        measured = case(folder / f"many-{slots}.json", 1, slots, trials_per_slot)
        needed = measured["memory_gb"] * (min(2 * slots, most) / slots)
        if slots == most or needed > measured["memory_free_before_gb"] - SPARE_GB:
            break
        slots = min(2 * slots, most)


def case(file: Path, nodes: int, slots: int, trials_per_slot: int) -> dict[str, Any]:
    """One study in a process of its own, unless it has been measured."""
    if not file.exists():
        with tempfile.TemporaryDirectory(prefix="svlr") as folder:
            # Ray's sockets need a short path; workers find sleeping.py beside this file.
            environment = os.environ | {
                "OMP_NUM_THREADS": "1",
                "RAY_TMPDIR": folder,
                "TMPDIR": folder,
                "PYTHONPATH": str(Path(__file__).parent),
                "SLEEP_SECONDS": str(SECONDS),
                "RAY_AUTH_MODE": "token",
                "RAY_AUTH_TOKEN": secrets.token_hex(32),
            }
            asked = {"nodes": nodes, "slots": slots, "trials": nodes * slots * trials_per_slot}
            subprocess.run(
                [sys.executable, __file__, "one", json.dumps(asked)], env=environment, check=True, cwd=folder
            )
            file.write_text((Path(folder) / "measured.json").read_text())
        print(f"{file.name}: written", flush=True)
    return dict(json.loads(file.read_text()))


def one(nodes: int, slots: int, trials: int) -> dict[str, Any]:
    """A study on `nodes` nodes of `slots` slots each."""
    from ray.cluster_utils import Cluster
    from sleeping import SleepingTrial

    from sparsevlr.search import engine
    from sparsevlr.spaces import StudySpec

    free = memory_free_gb()
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    for _ in range(nodes):
        cluster.add_node(num_cpus=slots)
    engine.RayTrial = SleepingTrial  # type: ignore[misc,assignment]
    # Networks that nobody has trained cannot be scored on test.
    engine._untested = lambda store: []
    marks: list[tuple[float, float, float]] = []

    def observe(run: object) -> None:
        marks.append((time.time(), time.process_time(), memory_free_gb() if len(marks) % 50 == 0 else free))

    spec = StudySpec.from_dict(SPEC | {"trials": trials})
    began = time.time()
    try:
        study = engine.search(spec, "study", address=cluster.address, ship=False, observe=observe)
    finally:
        cluster.shutdown()
    events = study.events().to_pylist()
    starts = sorted(row["time"] for row in events if row["decision"] == "start")
    first, last = starts[nodes * slots - 1], starts[-1]
    within = [row for row in events if first < row["time"] <= last]
    inside = [mark for mark in marks if first < mark[0] <= last]
    seconds = inside[-1][0] - inside[0][0]
    return {
        "nodes": nodes,
        "slots": slots,
        "trials": trials,
        "trial_seconds": SECONDS,
        "seconds_in_all": round(time.time() - began, 2),
        "seconds_until_full": round(first - began, 2),
        "seconds_full": round(last - first, 2),
        "trials_per_minute": round(60 * sum(row["decision"] == "complete" for row in within) / (last - first), 2),
        "results_per_second": round(sum(row["event"] == "report" for row in within) / (last - first), 2),
        "driver_processor_share": round((inside[-1][1] - inside[0][1]) / seconds, 4),
        "memory_free_before_gb": round(free, 2),
        "memory_gb": round(free - min(mark[2] for mark in marks), 2),
        "machine": machine(),
        "states": {state: study.trials()["state"].to_pylist().count(state) for state in ("completed", "failed")},
    }


def memory_free_gb() -> float:
    """Memory that could be had, in units of 10^9 bytes."""
    lines = Path("/proc/meminfo").read_text().splitlines()
    return next(float(line.split()[1]) * 1024 / 1e9 for line in lines if line.startswith("MemAvailable"))


def report(folder: Path) -> None:
    raws = [json.loads((folder / f"nodes-{nodes}.json").read_text()) for nodes in NODES]
    print("| nodes | slots | trials | trials per minute | ideal | of linear | driver, share of a core |")
    print("|---|---|---|---|---|---|---|")
    shares = [raw["trials_per_minute"] / raw["nodes"] / raws[0]["trials_per_minute"] for raw in raws]
    for raw, share in zip(raws, shares, strict=True):
        slots = raw["nodes"] * raw["slots"]
        print(
            f"| {raw['nodes']} | {slots} | {raw['states']['completed']} of {raw['trials']} | "
            f"{raw['trials_per_minute']:.1f} | {60 * slots / raw['trial_seconds']:.0f} | {share:.1%} | "
            f"{raw['driver_processor_share']:.1%} |"
        )
    print(f"\nat least {BOUND:.0%} of linear: {'met' if min(shares) >= BOUND else 'MISSED'}")
    print("whole studies, Ray's start included: " + ", ".join(f"{raw['seconds_in_all']:.0f} s" for raw in raws) + "\n")
    print("| trials at once | trials | trials per minute | ideal | results per second | driver, of a core | memory |")
    print("|---|---|---|---|---|---|---|")
    many = [json.loads(file.read_text()) for file in folder.glob("many-*.json")]
    for raw in sorted(many, key=lambda raw: raw["slots"]):
        print(
            f"| {raw['slots']} | {raw['states']['completed']} of {raw['trials']} | {raw['trials_per_minute']:.1f} | "
            f"{60 * raw['slots'] / raw['trial_seconds']:.0f} | {raw['results_per_second']:.1f} | "
            f"{raw['driver_processor_share']:.1%} | {raw['memory_gb']:.1f} GB |"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=["run", "report", "one"], metavar="run | report")
    parser.add_argument("case", nargs="?", help=argparse.SUPPRESS)
    parser.add_argument("--trials-per-slot", type=int, default=TRIALS_PER_SLOT)
    parser.add_argument("--most", type=int, default=MOST)
    asked = parser.parse_args()
    if asked.command == "one":
        Path("measured.json").write_text(json.dumps(one(**json.loads(asked.case)), indent=1) + "\n")
    elif asked.command == "report":
        report(RAW)
    elif (asked.trials_per_slot, asked.most) != (TRIALS_PER_SLOT, MOST):
        with tempfile.TemporaryDirectory() as folder:
            run(Path(folder), asked.trials_per_slot, asked.most)
            report(Path(folder))
    else:
        run(RAW, TRIALS_PER_SLOT, MOST)


if __name__ == "__main__":
    main()
