"""Studies that somebody else made, with bad intent: nothing of them is executed, unpacked without bound or followed out
of the study, and the rest stays readable."""

import contextlib
import json
import os
import pickle
import sys
import zlib
from hashlib import sha256

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparsevlr.results import Record, StorageError, Store, StudyError, UnsafePath, open_study, paths
from sparsevlr.results.checkpoints import read_state
from sparsevlr.results.lock import DriverLock
from sparsevlr.results.masks import read_mask
from sparsevlr.results.parquet_pages import pages_of
from sparsevlr.results.parts import from_bytes, to_bytes, to_events
from sparsevlr.results.pieces import EVENT_SCHEMA
from sparsevlr.results.untrusted import parse_json
from sparsevlr.search.status import status_of
from sparsevlr.spaces import SpecError


class Bomb:
    """Leaves a mark where it is unpickled."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return open, (str(self.mark), "w")


def events(rows, **columns):
    """Rows that take their place, so that only what is asked for is out of the ordinary."""
    rng = np.random.default_rng(0)
    table = {
        "trial_id": pa.array([f"t{number}" for number in range(rows)]),
        "event": pa.array(["report"] * rows),
        "time": pa.array(rng.random(rows)),
        "sequence": pa.array(np.arange(rows)),
        **columns,
    }
    return pa.table(table)


def plant(store, table, rows=None, **options):
    """A part among those of a study; its name says how many events it holds."""
    folder = store.location.local / paths.PARTS
    file = folder / paths.part_file("000009-ffffffff", 0, (rows or len(table)) - 1)
    pq.write_table(table, file, **{"compression": "zstd", **options})
    return file


@pytest.fixture
def victim(store, make_trial):
    store.append(make_trial("mine", 0.5, 0.9))
    store.close()
    return store


def refused(store, file, reason):
    study = open_study(store.uri)
    assert study.trials()["trial_id"].to_pylist() == ["mine"]
    (problem,) = study.problems
    assert problem.startswith(f"parts/{file.name}: cut short or corrupt, skipped (")
    assert reason in problem
    assert "\n" not in problem


def test_many_rows_of_nothing(victim):
    rows = 3_000_000
    empty = pa.table({"trial_id": pa.DictionaryArray.from_arrays(pa.array(np.zeros(rows, np.int8)), ["t"])})
    file = plant(victim, empty.append_column("macs", pa.nulls(rows, pa.int64())))
    assert file.stat().st_size < 50_000
    refused(victim, file, "it would hold 3000000 events in")


def test_one_long_text_in_many_rows(victim):
    long = pa.DictionaryArray.from_arrays(pa.array(np.zeros(20_000, np.int8)), ["x" * 1_000_000])
    refused(victim, plant(victim, events(20_000, config=long)), "it would unpack to more than")


def test_a_page_that_unpacks_to_a_thousand_times_its_size(victim):
    file = plant(victim, events(2, error=pa.array(["\0" * 40_000_000, None])), use_dictionary=False)
    assert file.stat().st_size < 100_000
    refused(victim, file, "it would unpack to more than")


@pytest.mark.parametrize(
    ("name", "column", "reason"),
    [
        ("config", pa.array([["a"] * 9]), "no column config"),
        ("macs", pa.array([b"1"]), "column macs is of type BYTE_ARRAY, not int64"),
        ("error", pa.array([1]), "column error is of type INT64, not string"),
    ],
)
def test_columns_of_other_types(victim, name, column, reason):
    file = plant(victim, events(1, **{name: column}))
    if "no column" in reason:
        # A list is a column of another name, which nobody reads.
        assert open_study(victim.uri).trials()["config"].to_pylist()[1:] == [None]
    else:
        refused(victim, file, reason)


def test_more_events_than_the_name_says(victim):
    refused(victim, plant(victim, events(9), rows=3), "it holds 9 events")


def test_encodings_that_let_few_bytes_become_many(victim):
    table = events(1_000, config=pa.array(["x" * number for number in range(1_000)]))
    file = plant(victim, table, use_dictionary=False, column_encoding={"config": "DELTA_BYTE_ARRAY"})
    refused(victim, file, "a page of an encoding that is none of ours")


def test_pickles_in_the_schema_are_not_loaded(victim, tmp_path):
    mark = tmp_path / "mark"
    bomb = {b"ARROW:extension:name": b"arrow.py_extension_type", b"ARROW:extension:metadata": pickle.dumps(Bomb(mark))}
    table = events(1)
    table = table.cast(pa.schema([field.with_metadata(bomb) for field in table.schema]))
    plant(victim, table)
    assert len(open_study(victim.uri).events()) == 4
    assert not mark.exists()


@given(st.binary(max_size=60))
def test_pages_that_are_none(content):
    try:
        pages_of(content)
    except ValueError:
        return


def test_pages_of_our_own_files_say_what_is_in_them():
    rows = [(number, {"trial_id": f"t{number}", "event": "failed", "error": "x" * number}) for number in range(50)]
    data = to_bytes(to_events(rows))
    group = pq.read_metadata(pa.BufferReader(data)).row_group(0)
    for number, field in enumerate(EVENT_SCHEMA):
        column = group.column(number)
        start = column.dictionary_page_offset or column.data_page_offset
        pages = pages_of(bytes(data)[start : start + column.total_compressed_size])
        assert (pages.values, pages.dictionary) == (50, bool(column.has_dictionary_page)), field.name
    assert len(from_bytes(data)) == 50


@pytest.mark.parametrize("cut", [0, 1, 7, 11, 12, 300, -1, -8, -100])
def test_files_that_are_cut_anywhere(victim, cut):
    file = plant(victim, events(5))
    file.write_bytes(file.read_bytes()[:cut])
    refused(victim, file, "")


DEEP = "[" * 100_000


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (DEEP, "it is nested more than 200 deep"),
        ('{"a":' * 300 + "1" + "}" * 300, "it is nested more than 200 deep"),
        ('{"a": NaN}', "it is no JSON"),
        ('{"a": -Infinity}', "it is no JSON"),
        ("1" * 5_000, "it is no JSON"),
    ],
)
def test_json_that_would_bring_the_parser_down(content, reason):
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(1_000_000)
    try:
        with pytest.raises(ValueError, match=reason):
            parse_json(content)
    finally:
        sys.setrecursionlimit(limit)
    assert parse_json('{"a":"' + "[" * 9_000 + '"}') == {"a": "[" * 9_000}


def test_json_like_that_in_every_file(victim, make_report):
    folder = victim.location.local
    plant(victim, events(1, config=pa.array([DEEP]), layer_measures=pa.array([DEEP]), split=pa.array(["validation"]),
                         rung=pa.array([0])))  # fmt: skip
    study = open_study(victim.uri)
    assert study.trials("config.score = 'magnitude'")["trial_id"].to_pylist() == ["mine"]
    with pytest.raises(StudyError, match="layer_measures of trial t0, rung 0, must hold numbers by layer"):
        study.layers()
    with pytest.raises(StudyError, match="config must be a JSON object"):
        list(study.replay())
    checkpoint = folder / "checkpoints" / "mine" / "rung-0"
    checkpoint.mkdir(parents=True)
    (checkpoint / paths.STATE).write_text(DEEP)
    with pytest.raises(StorageError, match=r"checkpoint checkpoints/mine/rung-0 cannot be read: state.json is corrupt"):
        read_state(victim.location, "checkpoints/mine/rung-0")
    (folder / "confirmations" / "mine").mkdir(parents=True)
    (folder / "confirmations" / "mine" / "seed-0.json").write_text(DEEP)
    with pytest.raises(StudyError, match=r"seed-0\.json of trial mine holds no confirmation"):
        study.confirmations(["mine"])
    (folder / paths.STUDY_FILE).write_text(DEEP)
    with pytest.raises(StorageError, match=r"study\.json is corrupt: it is nested more than 200 deep"):
        open_study(victim.uri)


def test_a_string_that_does_not_end_is_gone_through_once():
    content = "[" * 300 + '"' + '\\"' * 1_000_000
    with pytest.raises(ValueError, match="it is nested more than 200 deep"):
        parse_json(content)
    with pytest.raises(ValueError, match="it is no JSON"):
        parse_json('"' + "[" * 300 + '\\"' * 1_000_000)


def test_text_that_is_none(victim):
    config = pa.array([b"\xff\xfe"], pa.binary())
    column = pa.Array.from_buffers(pa.string(), 1, config.buffers())
    refused(victim, plant(victim, events(1, config=column)), "UTF8")


@pytest.mark.parametrize("sequence", [2**70, -1, 10**12])
def test_places_of_events_that_no_file_has_room_for(victim, sequence):
    payload = json.dumps({"sequence": sequence, "trial_id": "odd", "event": "failed"}).encode()
    journal = victim.location.local / paths.JOURNAL / paths.journal_file("000009-ffffffff", 0)
    journal.parent.mkdir(exist_ok=True)
    journal.write_bytes(b"%08x %s\n" % (zlib.crc32(payload), payload))
    study = open_study(victim.uri)
    assert study.trials()["trial_id"].to_pylist() == ["mine"]
    assert study.problems == (f"{paths.JOURNAL}/{journal.name}, line 1: corrupt event skipped",)
    with Store.open(victim.uri, readonly=False) as store:
        store.seal_abandoned()
    assert journal.exists()


def test_events_without_a_time(victim):
    table = events(2, time=pa.nulls(2, pa.float64()), state=pa.array(["completed"] * 2))
    plant(victim, table)
    with Store.open(victim.uri, readonly=False) as store:
        store.replace_spec({**store.spec, "trials": 3})
    study = open_study(victim.uri)
    assert study.problems == ()
    assert len(study.trials()) == 3
    assert status_of(study)


def test_measures_of_too_many_digits(victim, make_report):
    with Store.open(victim.uri, readonly=False) as store:
        store.append(make_report("odd", layer_measures='{"0":{"density":1' + "0" * 400 + "}}"))
    with pytest.raises(StudyError, match="odd"):
        open_study(victim.uri).layers()


@pytest.mark.parametrize(
    "spec",
    [{"objectives": 5}, {"objectives": [5]}, {"objectives": ["trial_id"]}, {"trials": "many"}, {},
     {"limits": 3, "trials": 1}, {"limits": {"x": 1}, "trials": 1}, {"limits": {"compute_seconds": "a"}, "trials": 1}],
)  # fmt: skip
def test_specs_of_nonsense_are_told_in_one_line(tmp_path, spec):
    study = open_study(Store.create(tmp_path / "s", spec).uri)
    with pytest.raises((StudyError, SpecError)) as error:
        status_of(study)
    assert "\n" not in str(error.value)


def test_huge_files_are_not_read(victim):
    with (victim.location.local / paths.STUDY_FILE).open("r+b") as file:
        file.truncate(1 << 40)
    with pytest.raises(StorageError, match="it may have at most 67108864 bytes, got 1099511627776"):
        open_study(victim.uri)


@pytest.mark.parametrize("content", ["pickle", "header", "shape"])
def test_anything_in_place_of_a_mask(victim, tmp_path, content):
    mark = tmp_path / "mark"
    header = json.dumps({"0": {"dtype": "BOOL", "shape": [1 << 40], "data_offsets": [0, 1 << 40]}}).encode()
    data = {
        "pickle": pickle.dumps(Bomb(mark)),
        "header": (1 << 62).to_bytes(8, "little") + b"{}",
        "shape": len(header).to_bytes(8, "little") + header,
    }[content]
    folder = victim.location.local / "checkpoints" / "mine" / "rung-0"
    folder.mkdir(parents=True)
    (folder / paths.MASK).write_bytes(data)
    (folder / paths.STATE).write_text(json.dumps({"sha256": {paths.MASK: sha256(data).hexdigest()}}))
    with pytest.raises(StorageError, match=r"checkpoint checkpoints/mine/rung-0 cannot be read: mask\.safetensors: "):
        read_mask(victim.location, "checkpoints/mine/rung-0")
    assert not mark.exists()


OUTSIDE = ["../../other", "/etc", "checkpoints/../../other", "a/../../b", "..", "mine\0", "\\\\host\\share"]


@pytest.mark.parametrize("path", OUTSIDE)
def test_paths_in_records_lead_nowhere_else(victim, path):
    words = {"event": ["decision"], "state": ["completed"], "split": [None], "rung": [0]}
    row = {name: pa.array(value) for name, value in words.items()} | {"split": pa.array([None], pa.string())}
    plant(victim, events(1, **row, trial_id=pa.array([path])))
    study = open_study(victim.uri)
    with pytest.raises(UnsafePath):
        study.confirmations([path])
    with pytest.raises(UnsafePath):
        list(study.replay())
    with pytest.raises(UnsafePath):
        read_state(victim.location, path)
    with pytest.raises(UnsafePath):
        victim.discard_checkpoint(path)
    with pytest.raises(UnsafePath):
        Record(event="report", trial_id="a", rung=0, split="test", checkpoint=path)


@pytest.mark.parametrize("name", [paths.JOURNAL, paths.PARTS, paths.DIGESTS, paths.CHECKPOINTS, paths.CONFIRMATIONS])
def test_linked_folders_are_neither_read_nor_written(victim, tmp_path, name, make_trial):
    outside = tmp_path / "outside"
    (outside / "mine" / "rung-0").mkdir(parents=True)
    (outside / "mine" / "rung-0" / paths.STATE).write_text('{"sha256": {}}')
    (outside / ".x.tmp").write_text("")
    before = sorted(path for path in outside.rglob("*"))
    folder = victim.location.local / name
    if folder.exists():
        folder.rename(tmp_path / "aside")
    folder.symlink_to(outside)
    with Store.open(victim.uri, readonly=False) as store:
        for act in (
            lambda: open_study(victim.uri).confirmations(["mine"]),
            lambda: store.append(make_trial("t", 0.5, 0.5)) or store.close(),
            store.seal_abandoned,
            lambda: store.discard_checkpoint("checkpoints/mine/rung-0"),
            lambda: read_state(store.location, "checkpoints/mine/rung-0"),
            lambda: store.location.replace(f"{name}/mine/rung-0/x", b"x"),
            store.merge,
        ):
            with contextlib.suppress(StudyError, FileNotFoundError):
                act()
        store._writer = None
    assert sorted(path for path in outside.rglob("*")) == before


def test_linked_files_and_pipes_are_not_read(victim, tmp_path):
    folder = victim.location.local
    secret = tmp_path / "secret.json"
    secret.write_text('{"format": "sparsevlr-study", "schema_version": 1, "spec": {}}')
    (good,) = (folder / paths.PARTS).iterdir()
    linked = folder / paths.PARTS / paths.part_file("000002-00000000", 0, 2)
    (tmp_path / "elsewhere").write_bytes(good.read_bytes())
    linked.symlink_to(tmp_path / "elsewhere")
    os.mkfifo(folder / paths.JOURNAL / paths.journal_file("000003-00000000", 0))
    study = open_study(victim.uri)
    assert len(study.events()) == 3
    (problem,) = study.problems
    assert problem.startswith(f"parts/{linked.name}")
    assert "leads outside its study through a symbolic link" in problem
    lock = folder / paths.LOCK
    lock.symlink_to(secret)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sparsevlr.results.lock.STALE_SECONDS", 0.01)
        with DriverLock(victim.location) as held:
            held.check()
    assert secret.read_text().startswith('{"format"')
    (folder / paths.STUDY_FILE).unlink()
    (folder / paths.STUDY_FILE).symlink_to(secret)
    with pytest.raises(UnsafePath, match=r"study\.json leads outside its study"):
        open_study(victim.uri)
