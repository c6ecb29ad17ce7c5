"""A kill in the middle of a write leaves a journal cut at any byte: every such cut is tried."""

import os
import signal
import subprocess
import sys

import pytest

from sparsevlr.results import Store, open_study


def reports(store):
    study = open_study(store.uri)
    table = study.reports()
    return list(zip(table["trial_id"].to_pylist(), table["rung"].to_pylist(), strict=True)), study.problems


def test_cut_at_every_byte_of_the_last_lines(store, make_report):
    for rung in range(4):
        store.append(make_report("t1", rung, verified_accuracy=0.1 * rung, error="x\ny"))
    store.append([make_report("t2", 0), make_report("t2", 1)])
    (file,) = (store.location.local / "journal").iterdir()
    whole = file.read_bytes()
    ends = [place + 1 for place, byte in enumerate(whole) if byte == ord("\n")]
    keys = [("t1", 0), ("t1", 1), ("t1", 2), ("t1", 3), ("t2", 0), ("t2", 1)]
    for cut in range(ends[3], len(whole) + 1):
        file.write_bytes(whole[:cut])
        rows, problems = reports(store)
        # A line whose newline alone is missing is whole, and counts.
        assert rows == keys[: sum(end - 1 <= cut for end in ends)]
        assert problems == ()
    again = Store.open(store.uri, readonly=False)
    for cut in range(ends[3], len(whole), 41):
        file.write_bytes(whole[:cut])
        again.append(make_report("t3", cut))
        rows, problems = reports(store)
        assert rows[:4] == keys[:4]
        assert rows[-1] == ("t3", cut)
        assert problems == ()


def test_zeros_after_a_power_cut_are_a_torn_tail(store, make_report):
    store.append(make_report("t1"))
    (file,) = (store.location.local / "journal").iterdir()
    file.write_bytes(file.read_bytes() + b"\0" * 4096)
    assert reports(store) == ([("t1", 0)], ())


WRITER = """
import sys
from sparsevlr.results import Record, Store, writers
writers.SEAL_EVENTS = 5
store = Store.open(sys.argv[1], readonly=False)
for number in range(100_000):
    store.append(Record(event="report", trial_id="t", rung=int(sys.argv[2]) + number, split="validation"))
    print(int(sys.argv[2]) + number, flush=True)
"""


@pytest.mark.parametrize("reported", [8, 21])
def test_killed_for_real_no_reported_row_is_lost_or_doubled(store, reported):
    first = 0
    for _ in range(2):
        command = [sys.executable, "-c", WRITER, store.uri, str(first)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            told = [int(process.stdout.readline()) for _ in range(reported)]
            os.kill(process.pid, signal.SIGKILL)
            told += [int(line) for line in process.stdout.read().splitlines(keepends=True) if line.endswith("\n")]
        rows, problems = reports(store)
        assert problems == ()
        assert [rung for _, rung in rows] == list(range(len(rows)))
        assert len(rows) in (told[-1] + 1, told[-1] + 2)
        first = len(rows)
    with Store.open(store.uri, readonly=False) as again:
        again.seal_abandoned()
    assert reports(store) == (rows, ())
    assert store.location.files("journal") == []
