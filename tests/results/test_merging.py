import contextlib
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from itertools import pairwise
from types import SimpleNamespace

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import fs

from sparsevlr.results import Record, StorageError, Store, coverage, merging, open_study, paths, writers
from sparsevlr.results.course import course_of
from sparsevlr.results.digests import DigestFile, digest
from sparsevlr.results.fold import Fold
from sparsevlr.results.paths import PartName
from sparsevlr.results.pieces import Events, Loaded
from sparsevlr.results.record import to_table

SESSION = "000001-00000000"


@pytest.fixture
def small(monkeypatch):
    """Files are merged and digests made after a few events."""
    monkeypatch.setattr(coverage, "FANOUT", 3)
    monkeypatch.setattr(writers, "FANOUT", 3)
    monkeypatch.setattr(writers, "SEAL_EVENTS", 4)
    monkeypatch.setattr(merging, "DIGEST_EVENTS", 24)
    monkeypatch.setattr(merging, "LARGEST_PART", 81)


def names(*ranges):
    return [PartName(SESSION, first, last) for first, last in ranges]


def files(store, folder):
    return [entry.name for entry in store.location.files(folder)]


def fill(store, make_trial, count, begin=0):
    for number in range(begin, begin + count):
        state = ("completed", "stopped", "paused")[number % 3]
        store.append(make_trial(f"t{number}", number / (count + begin), 1 - number / 200, state, macs=number))


def answers(study):
    return [
        study.events().to_pylist(),
        study.reports().to_pylist(),
        study.trials().to_pylist(),
        study.pareto_front().to_pylist(),
        study.pareto_front(split="test").to_pylist(),
        study.hypervolume("macs,verified_accuracy"),
        study.sessions,
        study.problems,
    ]


def test_names_say_what_covers_what():
    assert coverage.outermost(names((0, 9), (0, 4), (5, 9), (10, 12), (8, 12))) == names((0, 9), (8, 12))
    assert coverage.chains(names((0, 4), (5, 9), (11, 12))) == [names((0, 4), (5, 9)), names((11, 12))]


def test_neighbours_of_like_size_are_merged_smallest_first(monkeypatch):
    monkeypatch.setattr(coverage, "FANOUT", 3)
    ones = [(number, number) for number in range(27, 30)]
    assert coverage.next_group(names((0, 26), *ones), 81) == names(*ones)
    assert coverage.next_group(names((0, 26), (27, 27), (28, 28)), 81) == []
    thirds = [(0, 26), (27, 53), (54, 80), (81, 107)]
    assert coverage.next_group(names(*thirds), 81) == names(*thirds[:3])
    assert coverage.next_group(names(*thirds), 60) == names(*thirds[:2])
    # More than half of what a file may hold is enough.
    assert coverage.next_group(names(*thirds), 40) == []


def test_every_event_is_written_few_times_and_few_files_are_left(monkeypatch):
    monkeypatch.setattr(coverage, "FANOUT", 4)
    chain, written = [], 0
    for number in range(3_000):
        chain.append(PartName(SESSION, number, number))
        while group := coverage.next_group(chain, 1_024):
            written += coverage.events_in(coverage.joined(group))
            place = chain.index(group[0])
            chain[place : place + len(group)] = [coverage.joined(group)]
    assert written / 3_000 <= 6
    assert len(chain) <= 3_000 / 512 + 4 * 6


EVENT = st.one_of(
    st.builds(lambda trial: Record(event="proposed", trial_id=trial, seed=1), st.sampled_from("abc")),
    st.builds(
        lambda trial, rung, split, macs, time: Record(
            event="report", trial_id=trial, rung=rung, split=split, macs=macs, train_seconds=macs, time=time
        ),
        st.sampled_from("abc"),
        st.integers(0, 3),
        st.sampled_from(["validation", "validation", "test"]),
        st.integers(0, 9),
        st.floats(0, 9),
    ),
    st.builds(
        lambda trial, state, time: Record(event="decision", trial_id=trial, state=state, decision="stop", time=time),
        st.sampled_from("abc"),
        st.sampled_from(["running", "stopped", "completed"]),
        st.floats(0, 9),
    ),
    st.builds(lambda trial: Record(event="failed", trial_id=trial, error="x", time=5.0), st.sampled_from("abc")),
)


def of(records, first=0):
    table = to_table(records)
    return Loaded(table.append_column("sequence", pa.array(range(first, first + len(table)), pa.int64())))


@settings(max_examples=10, deadline=None)
@given(st.lists(EVENT, max_size=30), st.lists(st.integers(0, 30), max_size=4))
def test_digests_of_any_stretches_and_of_digests_say_what_all_events_say(records, cuts):
    edges = sorted({0, len(records), *(cut for cut in cuts if cut < len(records))})
    stretches = [of(records[low:high], low) for low, high in pairwise(edges)]
    digests = [DigestFile(pa.BufferReader(digest(Events([stretch])))) for stretch in stretches]
    again = [DigestFile(pa.BufferReader(digest(Events(digests[:2])))), *digests[2:]]
    whole = Fold(Events([of(records)]))
    for pieces in (digests, again, [*digests[:1], *stretches[1:]]):
        fold = Fold(Events(pieces))
        assert fold.trials.table().to_pylist() == whole.trials.table().to_pylist()
        assert fold.trials.table(split="test").to_pylist() == whole.trials.table(split="test").to_pylist()
        for folded, expected in zip(
            vars(course_of(fold, ["macs"], 9.5)).values(), vars(course_of(whole, ["macs"], 9.5)).values(), strict=True
        ):
            assert str(folded) == str(expected)
        if records:
            assert pc.min_max(fold.events.column("time")) == pc.min_max(whole.events.column("time"))


def written(digest, name, column):
    """The digest with another column in the place of one."""
    table = pq.read_table(pa.BufferReader(digest))
    sink = pa.BufferOutputStream()
    pq.write_table(table.set_column(table.column_names.index(name), name, column), sink)
    return sink.getvalue()


def lives(make_trial, *ids):
    """Trials that are proposed one after the other, and end in the opposite order."""
    histories = [make_trial(trial, 0.5, number / 10) for number, trial in enumerate(ids)]
    return [
        *(history[0] for history in histories),
        *(event for history in reversed(histories) for event in history[1:]),
    ]


def test_of_most_trials_a_digest_keeps_one_row_completed_ones_first(make_trial):
    events = [event for number in range(40) for event in make_trial(f"t{number}", 0.5, 0.5, "stopped")]
    events += make_trial("better", 0.5, 0.9, "stopped") + make_trial("done", 0.5, 0.1)
    made = digest(Events([of([replace(event, time=5.0 + place) for place, event in enumerate(events)])]))
    rows = pq.read_table(pa.BufferReader(made))
    # The earliest and the latest event of all are kept as such, and so are the others of their trials.
    assert rows["trial_id"].to_pylist()[:4] == ["done", "done", "done", "better"]
    assert len(rows) == 3 + 39 + 1 + 3
    assert len(DigestFile(pa.BufferReader(made)).read(["time"])) == len(rows)


def test_a_trial_that_goes_on_after_a_digest_is_what_all_its_events_say(make_trial, make_report):
    for late in (
        [make_report("b", 1, sparsity=0.7), Record(event="decision", trial_id="b", decision="stop", state="stopped")],
        [make_report("b", 0, sparsity=0.1)],
        [make_report("b", 0, "test", verified_accuracy=0.3)],
        [Record(event="failed", trial_id="b", error="x")],
    ):
        first = [*lives(make_trial, *"abc"), *lives(make_trial, "d")]
        whole, early = Fold(Events([of(first + late)])), DigestFile(pa.BufferReader(digest(Events([of(first)]))))
        pieces = Events([early, of(late, len(first))])
        again = Events([DigestFile(pa.BufferReader(digest(pieces)))])
        for events in (pieces, again):
            for split in ("validation", "test"):
                found = Fold(events).trials.table(split=split).to_pylist()
                assert found == whole.trials.table(split=split).to_pylist()


def test_what_is_left_of_a_digest_that_counts_in_part_keeps_the_order_of_trials(make_trial):
    events = [*lives(make_trial, "z"), *lives(make_trial, *"abc")]
    file = DigestFile(pa.BufferReader(digest(Events([of(events)]))))
    rest = file.read(file.schema.names)
    rest = rest.filter(pc.greater_equal(rest["sequence"], 3))
    trials = Fold(Events([of(events[:4]), Loaded(rest)])).trials
    assert trials.table().to_pylist() == Fold(Events([of(events)])).trials.table().to_pylist()


@pytest.mark.parametrize(
    ("name", "column"),
    [
        ("place", pa.array([2, 0, 1, 3, 5, 4], pa.uint64())),
        ("place", pa.array([0, 0, 1, 2, 3, 4])),
        ("place", pa.array([0, 1, 2, 3, 4, 2**62])),
        ("place", pa.array([0, 1, None, 3, 4, 5])),
        ("trial", pa.array([0, 0, 0, 1, 1, 1], pa.timestamp("us"))),
        ("trial", pa.array([0, -1, 2, 3, 4, 5])),
        ("trial", pa.array([0, 5, 2, 3, 2, 2])),
        ("trial_id", pa.array([b"\xff", b"a", b"b", b"c", b"d", b"e"])),
        ("trial_id", pa.array(["a", None, "b", "c", "d", "e"])),
        ("trial_id", pa.array(["a", "a", "a", "b", "b", "b"]).dictionary_encode()),
        ("summary", pa.array([None, 7, -1, 2**62, 0, 0])),
    ],
)
def test_strange_numbers_in_a_digest_are_an_error_of_its_own_or_an_answer(make_trial, name, column):
    made = digest(Events([of([*lives(make_trial, "a"), *lives(make_trial, "b")])]))
    assert len(pq.read_table(pa.BufferReader(made))) == 6
    with contextlib.suppress(ValueError, pa.ArrowException, StorageError):
        file = DigestFile(pa.BufferReader(written(made, name, column)))
        Fold(Events([file, of(lives(make_trial, "x"), 6)])).trials.table()


def test_a_digest_of_an_older_version_is_left_aside_without_a_word(store, make_trial, small):
    fill(store, make_trial, 12)
    store.close()
    store.merge()
    expected = open_study(store.uri).trials().to_pylist()
    for file in (store.location.local / paths.DIGESTS).iterdir():
        pq.write_table(pq.read_table(file).drop_columns(["summary", "place"]), file)
    study = open_study(store.uri)
    assert study.trials().to_pylist() == expected
    assert study.problems == ()


@pytest.mark.parametrize("kind", ["local", "objects"])
def test_a_merged_study_gives_the_same_answers_from_few_files(tmp_path, make_trial, make_report, small, kind):
    objects = {"filesystem": fs.SubTreeFileSystem(str(tmp_path), fs.LocalFileSystem())} if kind == "objects" else {}
    uri = "s" if objects else tmp_path / "s"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Store, "_merge_in_background", lambda self, writer: None)
        with Store.create(uri, {}, **objects) as store:
            fill(store, make_trial, 24)
        with Store.open(uri, readonly=False, **objects) as store:
            # Second arrivals, in this session and of the session before.
            store.append([make_report("t0", 0, macs=7), make_report("t3", 1, macs=500), make_report("t3", 1, macs=9)])
            store.append(make_report("t23", 0, "test", verified_accuracy=0.25))
            fill(store, make_trial, 10, begin=24)
    before, many = answers(open_study(uri, **objects)), len(files(store, paths.PARTS))
    store.merge()
    assert answers(open_study(uri, **objects)) == before
    assert len(files(store, paths.PARTS)) < many / 3
    assert files(store, paths.DIGESTS)
    assert len(store.read().events) == len(before[0]) + 1  # the second arrival of another session
    assert isinstance(store.read_decisive().pieces.pieces[0], DigestFile)
    left = files(store, paths.PARTS)
    store.merge()
    assert files(store, paths.PARTS) == left


def test_merging_goes_on_behind_appends_and_ends_with_the_store(store, make_trial, small):
    fill(store, make_trial, 30)
    store.close()
    assert not any(thread.name == "merging" for thread in threading.enumerate())
    assert len(files(store, paths.PARTS)) < 90 / 4 - 8
    assert open_study(store.uri).states().total() == 30


def test_a_reader_that_listed_before_goes_on(store, make_trial, small, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(Store, "_merge_in_background", lambda self, writer: None)
        fill(store, make_trial, 20)
        store.close()
    study = open_study(store.uri)
    lazily = store.read_decisive().pieces
    listed = Store._names
    calls = []

    def merge_after_listing(self, folder):
        found = listed(self, folder)
        if not calls and folder == paths.PARTS:
            calls.append(len(found))
            store.merge()
            assert len(listed(self, folder)) < len(found)
        return found

    monkeypatch.setattr(Store, "_names", merge_after_listing)
    assert len(study.events()) == 60
    assert study.problems == ()
    assert calls
    assert len(lazily.column("macs")) == 60


def test_a_corrupt_part_is_never_merged_away(store, make_trial, small, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(Store, "_merge_in_background", lambda self, writer: None)
        fill(store, make_trial, 30)
        store.close()
    folder = store.location.local / paths.PARTS
    torn, flipped = sorted(folder.iterdir())[3:6:2]
    torn.write_bytes(torn.read_bytes()[:-9])
    column = pq.read_metadata(flipped).row_group(0).column(0)
    content = bytearray(flipped.read_bytes())
    content[column.data_page_offset + column.total_compressed_size - 1] ^= 1
    flipped.write_bytes(content)
    before = open_study(store.uri).events().to_pylist()
    store.merge()
    study = open_study(store.uri)
    assert study.events().to_pylist() == before
    assert {problem.partition(":")[0] for problem in study.problems} == {f"parts/{torn.name}", f"parts/{flipped.name}"}
    assert len(files(store, paths.PARTS)) < 20


@pytest.mark.parametrize("what", ["rows", "version"])
def test_a_part_that_is_not_read_does_not_take_its_neighbours_along(store, make_trial, small, monkeypatch, what):
    with monkeypatch.context() as patch:
        patch.setattr(Store, "_merge_in_background", lambda self, writer: None)
        fill(store, make_trial, 20)
        store.close()
    odd = sorted((store.location.local / paths.PARTS).iterdir())[4]
    table = pq.read_table(odd)
    if what == "rows":
        pq.write_table(pa.concat_tables([table] * 3), odd)
    else:
        place = table.column_names.index("schema_version")
        versions = pa.array([99] * len(table), table.schema.field("schema_version").type)
        pq.write_table(table.set_column(place, "schema_version", versions), odd)
    content = {path.name: path.read_bytes() for path in (store.location.local / paths.PARTS).iterdir()}
    store.merge()
    assert odd.read_bytes() == content[odd.name]
    odd.unlink()
    rest = open_study(store.uri)
    assert rest.problems == ()
    assert len(rest.events()) == 60 - len(table)


def test_without_a_good_digest_the_parts_answer(store, make_trial, small):
    fill(store, make_trial, 20)
    store.close()
    store.merge()
    expected = open_study(store.uri).trials().to_pylist()
    (first, *_) = sorted((store.location.local / paths.DIGESTS).iterdir())
    first.write_bytes(first.read_bytes()[:100])
    study = open_study(store.uri)
    assert study.trials().to_pylist() == expected
    assert [problem.partition(":")[0] for problem in study.problems] == [f"digests/{first.name}"]
    # The next merging makes it anew.
    store.merge()
    assert open_study(store.uri).problems == ()


def test_a_digest_whose_pages_are_corrupt_is_named_and_the_parts_answer(store, make_trial, small):
    fill(store, make_trial, 12)
    store.close()
    store.merge()
    expected = open_study(store.uri).pareto_front().to_pylist()
    (first, *_) = sorted((store.location.local / paths.DIGESTS).iterdir())
    metadata = pq.read_metadata(first)
    column = metadata.row_group(0).column(metadata.schema.names.index("sparsity"))
    content = bytearray(first.read_bytes())
    content[column.data_page_offset + column.total_compressed_size - 1] ^= 1
    first.write_bytes(content)
    study = open_study(store.uri)
    assert study.hypervolume() > 0
    assert study.pareto_front().to_pylist() == expected
    (problem,) = study.problems
    assert problem.startswith(f"{first} is corrupt (")
    assert "\n" not in problem
    # Nor does it need a digest while the study grows.
    with Store.open(store.uri, readonly=False) as again:
        again.append(make_trial("late", 0.999, 0.001))
    assert len(study.pareto_front()) == len(expected) + 1
    assert study.problems[-1] == problem


def test_a_digest_that_does_not_answer_is_not_called_corrupt(store, make_trial, small, monkeypatch):
    fill(store, make_trial, 12)
    store.close()
    store.merge()
    study = open_study(store.uri)
    assert study.states()

    def away(self, *arguments):
        raise OSError("AWS Error NETWORK_CONNECTION")

    monkeypatch.setattr(DigestFile, "_read", away)
    (digest,) = [piece for piece in study._decisive.pieces.pieces if isinstance(piece, DigestFile)]
    monkeypatch.setattr(digest, "_source", SimpleNamespace(read_at=away))
    with pytest.raises(StorageError, match="try again once the storage answers"):
        study.pareto_front()
    assert study.problems == ()


def test_columns_of_a_newer_version_are_not_merged_away(store, make_trial, small, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(Store, "_merge_in_background", lambda self, writer: None)
        fill(store, make_trial, 20)
        store.close()
    newer = sorted((store.location.local / paths.PARTS).iterdir())[4]
    table = pq.read_table(newer)
    pq.write_table(table.append_column("watts", pa.array([1.5] * len(table))), newer)
    store.merge()
    assert "watts" in pq.read_table(newer).column_names
    assert len(open_study(store.uri).events()) == 60


MERGING = """
import sys
from sparsevlr.results import Record, Store, coverage, merging, writers
coverage.FANOUT, writers.SEAL_EVENTS, merging.DIGEST_EVENTS, merging.LARGEST_PART = 3, 4, 24, 81
store = Store.open(sys.argv[1], readonly=False)
store.seal_abandoned()
for number in range(100_000):
    store.append(Record(event="report", trial_id="t", rung=int(sys.argv[2]) + number, split="validation"))
    print(int(sys.argv[2]) + number, flush=True)
"""


def test_killed_while_it_merges_nothing_is_lost_or_doubled(store):
    first, rng = 0, random.Random(0)
    for _ in range(3):
        command = [sys.executable, "-c", MERGING, store.uri, str(first)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            told = [int(process.stdout.readline()) for _ in range(40)]
            time.sleep(rng.random() / 5)
            os.kill(process.pid, signal.SIGKILL)
            told += [int(line) for line in process.stdout.read().splitlines(keepends=True) if line.endswith("\n")]
        study = open_study(store.uri)
        rungs = store.read().events["rung"].to_pylist()
        assert study.problems == ()
        assert rungs == list(range(len(rungs)))
        assert len(rungs) in (told[-1] + 1, told[-1] + 2)
        assert study.trials()["rung"].to_pylist() == rungs[-1:]
        first = len(rungs)
    with Store.open(store.uri, readonly=False) as again:
        again.seal_abandoned()
        again.merge()
    assert store.read().events["rung"].to_pylist() == rungs
    assert not list(store.location.local.rglob("*.tmp"))


def _write(uri, count):
    coverage.FANOUT, writers.SEAL_EVENTS, merging.DIGEST_EVENTS, merging.LARGEST_PART = 3, 4, 24, 81
    with Store.open(uri, readonly=False) as store:
        for number in range(count):
            store.append(Record(event="report", trial_id=f"t{number}", rung=0, split="validation"))


def test_readers_see_a_growing_prefix_while_files_are_merged(store):
    process = multiprocessing.get_context("fork").Process(target=_write, args=(store.uri, 120))
    process.start()
    study, seen, alive = open_study(store.uri), 0, True
    while alive:
        alive = process.is_alive()
        for table in (study.events(), study.trials()):
            assert table["trial_id"].to_pylist() == [f"t{number}" for number in range(len(table))]
            assert len(table) >= seen
            seen = len(table)
        assert study.problems == ()
    assert process.exitcode == 0
    assert seen == 120
