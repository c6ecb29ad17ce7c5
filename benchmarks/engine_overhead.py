"""What a study costs beyond its trials: wall time of `search` against the same trials in a bare loop.

    python benchmarks/engine_overhead.py run       # resumable; about half an hour on two idle cores
    python benchmarks/engine_overhead.py report    # tables and plot from the checked-in raw data
    python benchmarks/engine_overhead.py run --trials 12 --repeats 1    # a quick look, of which nothing is kept

200 trials of about 2 s of processor time on 2 workers, three times, each time first by `search`, then by a pool of two
processes that call `run_trial` on the very same configurations up to the same rungs and save the same checkpoints.
`plain` trains every trial to its end (no scheduler, random sampler); `default` has the default scheduler and sampler.
A clock runs from the call of `search` to its return: Ray's start and end and the store are included, the
measurement of the front on the test split, which the loop has not, is taken out and stated apart. The loop's clock
includes the start of its pool. Ray's workers run at nice 15, and so do those of the loop.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from machine import machine
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from sparsevlr.results import open_study
from sparsevlr.results.location import locate
from sparsevlr.search import search
from sparsevlr.spaces import StudySpec, TrialConfig, load_dataset
from sparsevlr.trainables import run_trial

RAW = Path(__file__).parent / "results" / "engine_overhead"
FIGURE = Path(__file__).parents[1] / "docs" / "figures" / "engine_overhead.png"
TRIALS, REPEATS, WORKERS = 200, 3, 2
BOUND = 0.10
SPEC = {
    "data": "digits",
    "epsilon": 0.05,
    "epochs": 30,
    "ramp": {"start": 0.0, "end": 0.6},
    "batch_size": 32,
    "space": {
        "architecture": "mlp",
        "architecture.hidden": [[64, 64]],
        "sparsity": {"low": 0.0, "high": 0.99, "scale": "log-complement"},
        "optimizer.learning_rate": {"low": 2e-3, "high": 1e-2, "scale": "log"},
    },
    "verification": {"samples": 120, "max_crown_samples": 20},
    "resources": {"workers": WORKERS},
}
VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {"sampler": "random", "scheduler": {"kind": "none"}},
    "default": {},
}
PARTS = {
    "start": "before the first trial, both workers",
    "deliver": "from the end of a trial's scoring to the driver's decision: checkpoint and report",
    "hand out": "from there to the start of the next trial",
    "launch and build": "from there on, all that is neither training nor scoring",
    "tail": "one worker without a trial while the other has its last",
    "end": "after the last trial, both workers, without the test split",
}
"""Where the worker-seconds of a study go that are not the trials' own."""


def run(folder: Path, trials: int, repeats: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "machine.json").write_text(json.dumps(machine(), indent=1) + "\n")
    for repeat in range(repeats):
        for variant, changes in VARIANTS.items():
            file = folder / f"{variant}-{repeat}.json"
            if not file.exists():
                file.write_text(json.dumps(pair(SPEC | changes | {"trials": trials}), indent=1) + "\n")
                print(f"{file.name}: written", flush=True)


def pair(spec: dict[str, Any]) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="svlr") as folder:
        (Path(folder) / "spec.json").write_text(json.dumps(spec))
        return {"spec": spec, "engine": measured("engine", folder), "loop": measured("loop", folder)}


def measured(side: str, folder: str) -> dict[str, Any]:
    """Each side in a process of its own, so that nothing is warm."""
    # Ray's sockets need a short path.
    environment = os.environ | {"OMP_NUM_THREADS": "1", "RAY_TMPDIR": folder, "TMPDIR": folder}
    started = time.monotonic()
    subprocess.run([sys.executable, __file__, side, "--folder", folder], env=environment, check=True)
    seconds = round(time.monotonic() - started, 3)
    return {"process_seconds": seconds, **json.loads((Path(folder) / f"{side}.json").read_text())}


def engine(folder: Path) -> dict[str, Any]:
    spec = StudySpec.from_dict(json.loads((folder / "spec.json").read_text()))
    began = time.time()
    study = search(spec, str(folder / "study"))
    return breakdown(study.events().to_pylist(), began, time.time())


def breakdown(events: list[dict[str, Any]], began: float, ended: float) -> dict[str, Any]:
    """Worker-seconds by part. A report bears the time at which its worker had scored, other events the driver's."""
    last = {row["trial_id"]: row for row in events if row["event"] == "report" and row["split"] == "validation"}
    starts = {row["trial_id"]: row["time"] for row in events if row["decision"] == "start"}
    ends = {row["trial_id"]: row["time"] for row in events if row["decision"] in ("complete", "stop")}
    busy = {trial: row["train_seconds"] + row["verify_seconds"] for trial, row in last.items()}
    # With both workers busy, a trial starts for each that ends; the last ones to end have no successor.
    *_, before_last, end = sorted(ends.values())
    tested = [row["time"] for row in events if row["split"] == "test"]
    test_seconds = max(tested, default=end) - end
    parts = {
        "start": sum(sorted(starts.values())[:WORKERS]) - WORKERS * began,
        "deliver": sum(ends[trial] - last[trial]["time"] for trial in ends),
        "hand out": sum(sorted(starts.values())[WORKERS:]) - sum(sorted(ends.values())[:-WORKERS]),
        "launch and build": sum(last[trial]["time"] - starts[trial] - busy[trial] for trial in ends),
        "tail": end - before_last,
        "end": WORKERS * (ended - end - test_seconds),
    }
    return {
        "seconds": round(ended - began - test_seconds, 3),
        "test_seconds": round(test_seconds, 3),
        "trials": len(ends),
        "busy_seconds": round(sum(busy.values()), 3),
        "parts": {name: round(seconds, 3) for name, seconds in parts.items()},
    }


def loop(folder: Path) -> dict[str, Any]:
    """The trials of the study beside it, as far as each got there."""
    study = open_study(folder / "study")
    trials = [(row["trial_id"], row["seed"], row["config"], row["rung"]) for row in study.trials().to_pylist()]
    content = study.spec
    (folder / "loop").mkdir()
    began = time.time()
    with ProcessPoolExecutor(WORKERS, get_context("spawn"), prepare, (content, str(folder / "loop"))) as pool:
        rows = list(pool.map(bare_trial, trials))
    seconds = time.time() - began
    return {
        "seconds": round(seconds, 3),
        "trials": len(rows),
        "busy_seconds": round(sum(row["busy"] for row in rows), 3),
        "processor_seconds_per_trial": round(statistics.median(row["processor"] for row in rows), 3),
        "parts": {
            "start": round(sum(sorted(row["began"] for row in rows)[:WORKERS]) - WORKERS * began, 3),
            "launch and build": round(sum(row["ended"] - row["began"] - row["busy"] for row in rows), 3),
        },
    }


def prepare(content: dict[str, Any], folder: str) -> None:
    """What a worker of the pool does once, as Ray's do."""
    os.nice(15)
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    spec = StudySpec.from_dict(content)
    shared.update(spec=spec, data=load_dataset(spec.data), location=locate(folder))


shared: dict[str, Any] = {}


def bare_trial(trial: tuple[str, int, str, int]) -> dict[str, float]:
    trial_id, seed, values, last = trial
    began, processor = time.time(), time.process_time()
    config = TrialConfig(trial_id=trial_id, seed=seed, values=json.loads(values))
    rows = run_trial(config, **shared, on_report=lambda row: row.rung < last)
    return {
        "began": began,
        "ended": time.time(),
        "processor": time.process_time() - processor,
        "busy": rows[-1].train_seconds + rows[-1].verify_seconds,
    }


def report(folder: Path) -> None:
    raws = {
        variant: [json.loads(file.read_text()) for file in sorted(folder.glob(f"{variant}-*.json"))]
        for variant in VARIANTS
    }
    print("| study | trials | processor time of a trial | loop | engine | engine over loop | + test split |")
    print("|---|---|---|---|---|---|---|")
    for variant, pairs in raws.items():
        ratios = [pair["engine"]["seconds"] / pair["loop"]["seconds"] - 1 for pair in pairs]
        seconds = {side: statistics.median(pair[side]["seconds"] for pair in pairs) for side in ("loop", "engine")}
        processor = statistics.median(pair["loop"]["processor_seconds_per_trial"] for pair in pairs)
        test = statistics.median(pair["engine"]["test_seconds"] for pair in pairs)
        print(
            f"| {variant} | {pairs[0]['engine']['trials']} | {processor:.2f} s | {seconds['loop']:.0f} s "
            f"| {seconds['engine']:.0f} s | {statistics.median(ratios):+.1%} "
            f"({min(ratios):+.1%} to {max(ratios):+.1%}, {len(ratios)} repeats) | {test:.1f} s |"
        )
    print("\n| engine's worker-seconds | " + " | ".join(VARIANTS) + " | |")
    print("|---|" + "---|" * (len(VARIANTS) + 1))
    for part, meaning in PARTS.items():
        print(f"| {part} | {' | '.join(f'{median(pairs, part):.1f}' for pairs in raws.values())} | {meaning} |")
    print("\nper trial, engine: " + ", ".join(f"{name} {per_trial(pairs)}" for name, pairs in raws.items()))
    bare = median(raws["plain"], "launch and build", "loop") / raws["plain"][0]["loop"]["trials"]
    print(f"per trial, loop: {1000 * bare:.0f} ms to build the trial and save its checkpoints")
    slowest = statistics.median(pair["engine"]["seconds"] / pair["loop"]["seconds"] - 1 for pair in raws["plain"])
    print(f"\nat most {BOUND:.0%} over the loop: {'met' if slowest <= BOUND else 'MISSED'}")
    if folder == RAW:
        draw(raws)


def median(pairs: list[dict[str, Any]], part: str, side: str = "engine") -> float:
    return statistics.median(pair[side]["parts"][part] for pair in pairs)


def per_trial(pairs: list[dict[str, Any]]) -> str:
    """Milliseconds of a worker between the work of two trials."""
    names = ("deliver", "hand out", "launch and build")
    return " + ".join(f"{1000 * median(pairs, name) / pairs[0]['engine']['trials']:.0f} ms {name}" for name in names)


def draw(raws: dict[str, list[dict[str, Any]]]) -> None:
    figure = Figure(figsize=(8, 3), dpi=130, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    bars = [(f"{variant}, {side}", pairs, side) for variant, pairs in raws.items() for side in ("loop", "engine")]
    for position, (_, pairs, side) in enumerate(bars):
        busy = statistics.median(pair[side]["busy_seconds"] for pair in pairs) / WORKERS
        whole = statistics.median(pair[side]["seconds"] for pair in pairs)
        axes.barh(position, busy, color="C0", label="training and scoring" if not position else None)
        axes.barh(position, whole - busy, left=busy, color="C1", label="everything else" if not position else None)
        axes.plot([pair[side]["seconds"] for pair in pairs], [position] * len(pairs), "k|", ms=10)
    axes.set_yticks(range(len(bars)), [label for label, _, _ in bars])
    axes.invert_yaxis()
    axes.set(xlabel="seconds of wall time, median (marks: repeats)")
    axes.legend(fontsize=8)
    FIGURE.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(FIGURE)
    print(f"plot: {FIGURE.name}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=["run", "report", "engine", "loop"], metavar="run | report")
    parser.add_argument("--trials", type=int, default=TRIALS)
    parser.add_argument("--repeats", type=int, default=REPEATS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.command in ("engine", "loop"):
        measure = {"engine": engine, "loop": loop}[asked.command]
        (asked.folder / f"{asked.command}.json").write_text(json.dumps(measure(asked.folder)))
    elif (asked.trials, asked.repeats) != (TRIALS, REPEATS):
        with tempfile.TemporaryDirectory() as folder:
            run(Path(folder), asked.trials, asked.repeats)
            report(Path(folder))
    elif asked.command == "run":
        run(RAW, TRIALS, REPEATS)
    else:
        report(RAW)


if __name__ == "__main__":
    main()
