"""A study of a million trials: what questions about it cost, beside DuckDB and pandas on the same files.

    python benchmarks/large_store.py run       # half an hour on two idle cores, and 8 GB of disk
    python benchmarks/large_store.py report    # tables from the checked-in raw data
    python benchmarks/large_store.py run --trials 20000    # a quick look, of which nothing is kept

The study: trials of 10 rungs, 1,000 at once, each with the events that a driver writes (proposed, start, and at each
rung a report and a decision), a tenth of them completed, sealed into parts of 5,000 events. It is merged once, as a
driver does in the background while it grows. Then each question is asked three times by each side, in a process of its
own; the files are in the system's cache. `seconds` count from after the imports to the answer, `processor` is the
processor time in that, `peak` the largest memory of the process, imports included. DuckDB and pandas read the merged
parts, and once more the digests that our own answers come from; they are given the columns that a question needs.

They need `pip install -e .[bench]`.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from machine import machine

from sparsevlr.results import Record, Store, open_study, paths
from sparsevlr.results.location import locate
from sparsevlr.results.merging import Merger
from sparsevlr.results.parts import to_bytes
from sparsevlr.results.pieces import EVENT_SCHEMA
from sparsevlr.results.writers import SEAL_EVENTS

RAW = Path(__file__).parent / "results" / "large_store"
TRIALS, RUNGS, AT_ONCE, REPEATS = 1_000_000, 10, 1_000, 3
EVENTS_PER_TRIAL = 2 + 2 * RUNGS
BLOCK = 20_000
SPEC = {"name": "large", "objectives": ["sparsity", "verified_accuracy"], "trials": TRIALS}
NUMBERS = "state = 'completed' and sparsity >= 0.9 and verified_accuracy >= 0.66"
CONFIG = "config.score = 'snip' and sparsity >= 0.9 and verified_accuracy >= 0.66"
SECONDS, BYTES = 2.0, 2e9
SCORES = np.array(["magnitude", "snip", "taylor", "random"], dtype=object)


def blocks(trials: int) -> Iterator[pa.Table]:
    """Events in the order of arrival, some at a time."""
    rng = np.random.default_rng(0)
    texts = layer_texts(rng)
    waiting: dict[str, np.ndarray[Any, Any]] = {name: np.empty(0, dtype=np.int64) for name in ("trial", "step", "key")}
    for start in range(0, trials, BLOCK):
        numbers = np.arange(start, min(start + BLOCK, trials))
        trial = np.repeat(numbers, EVENTS_PER_TRIAL)
        step = np.tile(np.arange(EVENTS_PER_TRIAL), len(numbers))
        # A rung takes a tenth of the time in which as many trials begin as run at once, more or less.
        rung_time = np.cumsum(rng.uniform(0.5, 1.5, (len(numbers), RUNGS)), axis=1) * AT_ONCE / RUNGS
        offset = np.concatenate([np.zeros((len(numbers), 2)), np.repeat(rung_time, 2, axis=1)], axis=1).ravel()
        key = ((trial + offset) * 1000).astype(np.int64) * 32 + step
        waiting = {
            name: np.concatenate([waiting[name], new])
            for name, new in zip(("trial", "step", "key"), (trial, step, key), strict=True)
        }
        order = np.argsort(waiting["key"], kind="stable")
        waiting = {name: column[order] for name, column in waiting.items()}
        last = start + BLOCK >= trials
        ready = len(waiting["key"]) if last else int(np.searchsorted(waiting["key"], (start + BLOCK) * 1000 * 32))
        yield events_table(*(column[:ready] for column in waiting.values()), rng, texts)
        waiting = {name: column[ready:] for name, column in waiting.items()}


def layer_texts(rng: np.random.Generator) -> np.ndarray[Any, Any]:
    """What reports say of layers."""
    names = ("live_units", "gradient_norm", "pruned_gradient_norm")
    return np.array(
        [
            json.dumps({str(layer): dict(zip(names, rng.random(3).tolist(), strict=True)) for layer in (1, 3, 5)})
            for _ in range(20_000)
        ],
        dtype=object,
    )


def events_table(trial: Any, step: Any, key: Any, rng: np.random.Generator, texts: Any) -> pa.Table:
    rows = len(trial)
    proposed, report = step == 0, (step >= 2) & (step % 2 == 0)
    decision = ~proposed & ~report
    rung = np.where(step >= 2, (step - 2) // 2, 0)
    of_trial = np.random.default_rng(1).random((TRIALS + 1, 2))[trial]
    sparsity = 1 - (1 - of_trial[:, 0]) ** 2 * 0.999
    verified = np.clip((0.95 - 0.6 * sparsity**8) * (0.5 + 0.5 * of_trial[:, 1]) * (0.6 + 0.04 * (rung + 1)), 0, 1)
    verified = np.clip(verified + rng.normal(0, 0.01, rows), 0, 1)
    ended = decision & (step == EVENTS_PER_TRIAL - 1)
    completed = ended & (trial % 10 == 0)
    state = np.select([proposed, completed, ended], ["pending", "completed", "stopped"], default="running")
    said = np.select(
        [decision & (step == 1), completed, ended, decision], ["start", "complete", "stop", "continue"], ""
    )
    ids = np.char.zfill(trial.astype(str), 5)
    weights = ((1 - sparsity) * 84_480).astype(np.int64)

    def only(values: Any, where: Any, kind: pa.DataType) -> pa.Array:
        return pa.array(values, kind, mask=~where)

    def config() -> pa.Array:
        texts = [None] * rows
        for place in np.flatnonzero(proposed).tolist():
            texts[place] = (
                '{"architecture":"mlp","distribution":"erk","initialisation":"ibp","initialisation.masked_fan_in":true,'
                f'"loss":"ibp","optimizer":"adam","optimizer.learning_rate":{of_trial[place, 1] / 100},'
                '"pattern":"unstructured","regulariser":"none","schedule":"at-init",'
                f'"score":"{SCORES[trial[place] % 4]}","sparsity":{sparsity[place]},"start":"fresh"}}'
            )
        return pa.array(texts, pa.string())

    checkpoint = np.char.add(np.char.add("checkpoints/", ids), np.char.add("/rung-", rung.astype(str)))
    real, whole, text = pa.float64(), pa.int64(), pa.string()
    columns = {
        "trial_id": pa.array(ids, text),
        "state": pa.array(state, text),
        "config": config(),
        "fingerprint": only(np.char.add("80a076d2", ids), proposed, text),
        "seed": only(trial, proposed, whole),
        "epoch": only(rung + 1, report, whole),
        "budget": only(rung + 1.0, report, real),
        "natural_accuracy": only(np.minimum(1, verified + 0.1), report, real),
        "verified_accuracy": only(verified, report, real),
        "verified_low": only(verified * 0.9, report, real),
        "verified_high": only(verified * 1.1, report, real),
        "verified_auc": only(verified * 1.01, report, real),
        "epsilon": only(np.full(rows, 0.05), report, real),
        "split": only(np.full(rows, "validation"), report, text),
        "samples": only(np.full(rows, 359), report, whole),
        "n_verified": only((verified * 359).astype(np.int64), report, whole),
        "n_falsified": only(((1 - verified) * 200).astype(np.int64), report, whole),
        "n_unknown": only(((1 - verified) * 159).astype(np.int64), report, whole),
        "sparsity": only(sparsity, report, real),
        "nonzero_weights": only(weights, report, whole),
        "total_weights": only(np.full(rows, 84_480), report, whole),
        "macs": only(weights, report, whole),
        "size_bytes": only(weights * 4, report, whole),
        "unstable_relu_fraction": only(rng.random(rows), report, real),
        "train_seconds": only((rung + 1) * 3 + rng.random(rows), report, real),
        "verify_seconds": only((rung + 1) * 1 + rng.random(rows), report, real),
        "checkpoint": only(checkpoint, report, text),
        "rung": only(rung, (report | decision) & (step >= 2), whole),
        "target_sparsity": only(sparsity, report | proposed, real),
        "schema_version": pa.array(np.ones(rows, dtype=np.int64)),
        "event": pa.array(np.select([proposed, report], ["proposed", "report"], "decision"), text),
        "time": pa.array(1.79e9 + key / 32 / 1000 + rng.random(rows) / 1000),
        "data": only(np.full(rows, "digits"), proposed | report, text),
        "decision": only(said, decision, text),
        "shared_seconds": only(np.zeros(rows), report, real),
        "verified_ramp": only(verified * 1.05, report, real),
        "layer_measures": only(texts[rng.integers(0, len(texts), rows)], report, text),
        "other_parameters": only(np.full(rows, 522), report, whole),
        "dense_bytes": only(np.full(rows, 340_008), report, whole),
        "bitmask_bytes": only(weights * 4 + 100, report, whole),
        "csr_bytes": only(weights * 8 + 100, report, whole),
    }
    return pa.table(
        {field.name: columns.get(field.name, pa.nulls(rows, field.type)) for field in EVENT_SCHEMA}, schema=EVENT_SCHEMA
    )


def make(folder: Path, trials: int) -> None:
    """The parts of the study, as a driver seals them."""
    Store.create(folder, SPEC | {"trials": trials})
    session, first, waiting = paths.session_name(1, "0" * 8), 0, EVENT_SCHEMA.empty_table()

    def seal(table: pa.Table) -> None:
        positions = pa.array(np.arange(first, first + len(table)))
        name = paths.part_file(session, first, first + len(table) - 1)
        (folder / paths.PARTS / name).write_bytes(
            to_bytes(table.set_column(len(EVENT_SCHEMA) - 1, "sequence", positions))
        )

    for table in blocks(trials):
        waiting = pa.concat_tables([waiting, table])
        while len(waiting) >= SEAL_EVENTS:
            seal(waiting.slice(0, SEAL_EVENTS))
            first, waiting = first + SEAL_EVENTS, waiting.slice(SEAL_EVENTS)
        waiting = waiting.combine_chunks()
    if len(waiting):
        seal(waiting)


def own_front(folder: Path, trials: int) -> int:
    return len(open_study(folder).pareto_front())


def own_numbers(folder: Path, trials: int) -> int:
    return len(open_study(folder).trials(NUMBERS))


def own_config(folder: Path, trials: int) -> int:
    return len(open_study(folder).trials(CONFIG))


def own_status(folder: Path, trials: int) -> int:
    from sparsevlr.search.status import status_of

    return int(status_of(open_study(folder))["over"])


LAST_REPORTS = """
    with reports as (
        select trial_id, arg_max(sparsity, rung) sparsity, arg_max(verified_accuracy, rung) verified_accuracy
        from '{files}' where {report} and split = 'validation' group by trial_id
    ), states as (
        select trial_id, arg_max(state, sequence) state
        from '{files}' where event in ('decision', 'failed') group by trial_id
    )"""


def duckdb_rows(files: str, query: str) -> list[tuple[Any, ...]]:
    import duckdb

    connection = duckdb.connect()
    connection.execute("set threads = 2")
    parts = {"files": files} | {kind: f"(event = '{kind}'{_or_summary(files)})" for kind in ("report", "proposed")}
    rows: list[tuple[Any, ...]] = connection.execute((LAST_REPORTS + query).format_map(parts)).fetchall()
    return rows


def _or_summary(files: str) -> str:
    """Summaries are decisions that stand for a report and a proposal as well."""
    return " or summary = 1" if paths.DIGESTS in files else ""


def duckdb_front(files: str) -> int:
    # Two objectives: on the front is who beats all that are at least as sparse.
    query = """, done as (select sparsity s, verified_accuracy v from reports join states using (trial_id)
            where state = 'completed'),
        ahead as (select s, v, max(v) over (order by s desc, v desc rows between unbounded preceding and 1 preceding) m
            from done)
        select count(*) from ahead where m is null or v > m"""
    return int(duckdb_rows(files, query)[0][0])


def duckdb_numbers(files: str) -> int:
    query = f"select trial_id from reports join states using (trial_id) where {NUMBERS}"
    wanted = [row[0] for row in duckdb_rows(files, query)]
    return len(wanted)


def duckdb_config(files: str) -> int:
    query = """, configs as (select trial_id, config from '{files}' where {proposed})
        select trial_id from reports join configs using (trial_id)
        where json_extract_string(config, '$."score"') = 'snip' and sparsity >= 0.9 and verified_accuracy >= 0.66"""
    return len(duckdb_rows(files, query))


def duckdb_status(files: str) -> int:
    query = "select state, count(*) from reports left join states using (trial_id) group by state"
    return int(sum(count for state, count in duckdb_rows(files, query) if state in ("completed", "stopped", "failed")))


def pandas_trials(files: str, *columns: str) -> Any:
    import pandas as pd

    names = ["trial_id", "event", "split", "rung", "state", "sequence", "sparsity", "verified_accuracy", *columns]
    digested = paths.DIGESTS in files
    names += ["summary"] if digested else []
    events = pd.read_parquet(str(Path(files).parent), columns=names, dtype_backend="pyarrow")
    of_report, of_proposal = events["event"] == "report", events["event"] == "proposed"
    if digested:
        of_report, of_proposal = of_report | (events["summary"] == 1), of_proposal | (events["summary"] == 1)
    reports = events[of_report & (events["split"] == "validation")].sort_values("rung")
    last = reports.drop_duplicates("trial_id", keep="last").set_index("trial_id")
    decided = events[events["event"].isin(["decision", "failed"])].sort_values("sequence")
    states = decided.drop_duplicates("trial_id", keep="last").set_index("trial_id")["state"]
    rows = last[["sparsity", "verified_accuracy"]].join(states)
    if columns:
        configs = events[of_proposal].set_index("trial_id")
        rows = rows.join(configs[list(columns)])
    return rows


def pandas_front(files: str) -> int:
    rows = pandas_trials(files)
    done = rows[rows["state"] == "completed"].sort_values(["sparsity", "verified_accuracy"], ascending=False)
    before = done["verified_accuracy"].astype("float64").cummax().shift()
    return int((before.isna() | (done["verified_accuracy"].astype("float64") > before)).sum())


def pandas_numbers(files: str) -> int:
    rows = pandas_trials(files)
    return len(rows[(rows["state"] == "completed") & (rows["sparsity"] >= 0.9) & (rows["verified_accuracy"] >= 0.66)])


def pandas_config(files: str) -> int:
    rows = pandas_trials(files, "config")
    rows = rows[(rows["sparsity"] >= 0.9) & (rows["verified_accuracy"] >= 0.66)]
    return sum(json.loads(text)["score"] == "snip" for text in rows["config"])


def pandas_status(files: str) -> int:
    return int(pandas_trials(files)["state"].isin(["completed", "stopped", "failed"]).sum())


QUESTIONS = ("front", "numbers", "config", "status")
OWN: dict[str, Callable[[Path, int], int]] = {
    "front": own_front,
    "numbers": own_numbers,
    "config": own_config,
    "status": own_status,
}
OTHERS: dict[str, dict[str, Callable[[str], int]]] = {
    "DuckDB": {"front": duckdb_front, "numbers": duckdb_numbers, "config": duckdb_config, "status": duckdb_status},
    "pandas": {"front": pandas_front, "numbers": pandas_numbers, "config": pandas_config, "status": pandas_status},
}


def ask(side: str, question: str, folder: Path, trials: int) -> dict[str, Any]:
    """One question, in this process."""
    if side == "sparsevlr":
        # Imports do not count: pyarrow brings pandas in, where that is installed.
        import pandas  # noqa: F401

        import sparsevlr.search.status  # noqa: F401

        def answer() -> int:
            return OWN[question](folder, trials)
    else:
        name, _, kind = side.partition(" on ")
        __import__(name.lower())

        def answer() -> int:
            return OTHERS[name][question](f"{folder}/{kind}/*.parquet")

    began, processor = time.perf_counter(), time.process_time()
    found = answer()
    return {
        "answer": found,
        "seconds": round(time.perf_counter() - began, 3),
        "processor_seconds": round(time.process_time() - processor, 3),
        "peak_bytes": peak_bytes(),
    }


def peak_bytes() -> int:
    """Of this process; what `getrusage` tells is at least that of the parent."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM:")).split()[1]) * 1024


SIDES = ("sparsevlr", "DuckDB on digests", "DuckDB on parts", "pandas on digests", "pandas on parts")


def questions(folder: Path, trials: int, found: list[dict[str, Any]], keep: Callable[[], None]) -> None:
    """Each in a process of its own; the sides take turns. What is found already is not asked again."""
    for repeat in range(REPEATS):
        for side in SIDES:
            for question in QUESTIONS:
                asked = {"side": side, "question": question, "repeat": repeat}
                if any(asked.items() <= row.items() for row in found):
                    continue
                command = [sys.executable, __file__, "ask", side, question, str(folder), str(trials)]
                done = subprocess.run(command, capture_output=True, text=True)
                answer = json.loads(done.stdout) if done.returncode == 0 else {"failed": done.returncode}
                found.append(asked | answer)
                print(found[-1], flush=True)
                keep()


def size(folder: Path) -> dict[str, int]:
    files = [file for file in folder.glob("*") if file.is_file()]
    return {"files": len(files), "bytes": sum(file.stat().st_size for file in files)}


def appending(folder: Path) -> dict[str, Any]:
    """Milliseconds of appends of one report each to a study that is there; it is opened before."""
    milliseconds = []
    with Store.open(folder, readonly=False) as store:
        began = time.perf_counter()
        store.append(Record(event="proposed", trial_id="new"))
        first = time.perf_counter() - began
        for number in range(2 * SEAL_EVENTS + 100):
            record = Record(event="report", trial_id="new", rung=number, split="validation", verified_accuracy=0.5)
            began = time.perf_counter()
            store.append(record)
            milliseconds.append(1000 * (time.perf_counter() - began))
    return {
        "first": round(1000 * first, 3),
        "median": round(statistics.median(milliseconds), 3),
        "99th percentile": round(sorted(milliseconds)[len(milliseconds) * 99 // 100], 3),
        "mean, sealing included": round(statistics.mean(milliseconds), 3),
    }


def run(raw: Path, folder: Path, trials: int) -> None:
    """What is there already of the raw data is not measured again."""
    raw.mkdir(parents=True, exist_ok=True)
    file = raw / "large_store.json"
    found: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {}

    def save() -> None:
        file.write_text(json.dumps(found, indent=1) + "\n")

    def keep(name: str, measure: Callable[[], Any]) -> None:
        if name not in found:
            found[name] = measure()
            save()

    if not folder.exists():
        make(folder, trials)
    versions = {name: metadata.version(name) for name in ("duckdb", "pandas", "pyarrow")}
    keep("machine", lambda: machine() | versions)
    keep("trials", lambda: trials)
    keep("events", lambda: trials * EVENTS_PER_TRIAL)
    keep("parts_before", lambda: size(folder / paths.PARTS))
    keep("merging", lambda: merging(folder))
    keep("parts", lambda: size(folder / paths.PARTS))
    keep("digests", lambda: size(folder / paths.DIGESTS))
    questions(folder, trials, found.setdefault("questions", []), save)
    small = folder.with_name("small")
    Store.create(small, SPEC)
    keep("appending_milliseconds", lambda: {"to an empty study": appending(small), "to this study": appending(folder)})


def merging(folder: Path) -> dict[str, Any]:
    began, processor = time.perf_counter(), time.process_time()
    Merger(locate(folder), threading.Event()).run()
    return {
        "seconds": round(time.perf_counter() - began, 1),
        "processor_seconds": round(time.process_time() - processor, 1),
        "peak_bytes": peak_bytes(),
    }


def report(raw: Path) -> None:
    found = json.loads((raw / "large_store.json").read_text())
    print(f"{found['trials']:,} trials, {found['events']:,} events; merged in {found['merging']['seconds']:.0f} s")
    for name in ("parts_before", "parts", "digests"):
        print(f"{name}: {found[name]['files']:,} files, {found[name]['bytes'] / 1e9:.2f} GB")
    print("\n| question | side | answer | seconds | processor | peak GB |")
    print("|---|---|---|---|---|---|")
    kept = True
    for question in QUESTIONS:
        for side in SIDES:
            rows = [row for row in found["questions"] if (row["side"], row["question"]) == (side, question)]
            if any("failed" in row for row in rows):
                print(f"| {question} | {side} | failed | | | |")
                continue
            seconds, processor = ([row[name] for row in rows] for name in ("seconds", "processor_seconds"))
            peak = max(row["peak_bytes"] for row in rows)
            print(
                f"| {question} | {side} | {rows[0]['answer']:,} | {statistics.median(seconds):.2f} "
                f"({min(seconds):.2f} to {max(seconds):.2f}) | {statistics.median(processor):.2f} | {peak / 1e9:.2f} |"
            )
            if side == "sparsevlr":
                kept = kept and statistics.median(seconds) < SECONDS and peak < BYTES
    met = "met" if kept else "MISSED"
    print(f"\nevery answer of ours under {SECONDS:.0f} s, in the median, and {BYTES / 1e9:.0f} GB: {met}")
    print("\n| one append, ms | " + " | ".join(found["appending_milliseconds"]["to this study"]) + " |")
    print("|---|" + "---|" * len(found["appending_milliseconds"]["to this study"]))
    for where, times in found["appending_milliseconds"].items():
        print(f"| {where} | " + " | ".join(f"{value:.2f}" for value in times.values()) + " |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=["run", "report", "ask"], metavar="run | report")
    parser.add_argument("asked", nargs="*", help=argparse.SUPPRESS)
    parser.add_argument("--trials", type=int, default=TRIALS)
    parser.add_argument("--keep", type=Path, help="where the study is left, or is already, made and not merged")
    given = parser.parse_args()
    if given.command == "ask":
        side, question, folder, trials = given.asked
        print(json.dumps(ask(side, question, Path(folder), int(trials))))
    elif given.command == "report":
        report(RAW)
    else:
        home = given.keep or Path(tempfile.mkdtemp(prefix="sparsevlr-"))
        raw = RAW if given.trials == TRIALS else home
        try:
            run(raw, home / "large", given.trials)
            report(raw)
        finally:
            if not given.keep:
                shutil.rmtree(home)


if __name__ == "__main__":
    main()
