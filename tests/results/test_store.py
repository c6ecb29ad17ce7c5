import errno
import json
import multiprocessing
import os
import threading
from dataclasses import replace
from pathlib import Path

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyarrow import fs

from sparsevlr.results import (
    Record,
    StorageError,
    Store,
    StudyError,
    StudyExists,
    StudyMissing,
    UnsafePath,
    journal,
    open_study,
    parts,
    paths,
    writers,
)
from sparsevlr.results.location import Location, locate


def ids(store):
    return store.read().events["trial_id"].to_pylist()


def failed(name):
    return Record(event="failed", trial_id=name)


def object_filesystems(tmp_path):
    (tmp_path / "bucket").mkdir()
    memory = fsspec.filesystem("memory")
    memory.store.clear()
    return {
        "subtree": fs.SubTreeFileSystem(str(tmp_path / "bucket"), fs.LocalFileSystem()),
        "mock": fs._MockFileSystem(),
        "memory": fs.PyFileSystem(fs.FSSpecHandler(memory)),
    }


@pytest.mark.parametrize("kind", ["subtree", "mock", "memory"])
def test_any_filesystem_holds_a_study(tmp_path, kind):
    filesystem = object_filesystems(tmp_path)[kind]
    with Store.create("runs/first", {"seed": 0}, filesystem=filesystem) as store:
        store.append([failed("a"), failed("b")])
        store.append(failed("c"))
    assert ids(store) == ["a", "b", "c"]
    with Store.open("runs/first", readonly=False, filesystem=filesystem) as again:
        again.append(failed("d"))
    study = open_study("runs/first", filesystem=filesystem)
    assert study.spec == {"seed": 0}
    assert study.trials()["trial_id"].to_pylist() == ["a", "b", "c", "d"]
    names = [entry.name for entry in store.location.files(paths.PARTS)]
    assert len(names) == 3
    assert all(paths.parse_part(name) for name in names)
    with pytest.raises(StudyExists, match="sparsevlr resume runs/first"):
        Store.create("runs/first", {}, filesystem=filesystem)
    with pytest.raises(StudyMissing, match="studies in runs: first"):
        open_study("runs/frist", filesystem=filesystem)


@pytest.mark.parametrize("kind", ["local", "subtree", "mock", "memory"])
def test_a_study_in_which_nothing_is_stored_can_be_withdrawn(tmp_path, kind):
    filesystem = None if kind == "local" else object_filesystems(tmp_path)[kind]
    uri = str(tmp_path / "runs" / "first") if kind == "local" else "runs/first"
    empty = Store.create(uri, {}, filesystem=filesystem)
    empty.withdraw()
    with pytest.raises(StudyMissing):
        Store.open(uri, filesystem=filesystem)
    store = Store.create(uri, {"seed": 1}, filesystem=filesystem)
    store.append(failed("a"))
    store.withdraw()
    assert ids(Store.open(uri, filesystem=filesystem)) == ["a"]


def test_a_file_uri_is_a_plain_path(tmp_path):
    Store.create(f"file://{tmp_path}/s", {}).append(failed("a"))
    assert ids(Store.open(tmp_path / "s")) == ["a"]
    assert Store.open(str(tmp_path / "s")).name == "s"


def test_relative_paths_and_the_manifest(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    store = Store.create("studies/s", {"objectives": ["sparsity"]})
    manifest = json.loads(Path("studies/s/study.json").read_text())
    assert manifest["spec"] == store.spec == {"objectives": ["sparsity"]}
    assert manifest["versions"]["pyarrow"]
    assert manifest["created"] > 1.6e9
    assert [path.name for path in Path("studies").iterdir()] == ["s"]
    with pytest.raises(StudyMissing) as error:
        open_study("studies/t")
    assert str(error.value) == "no study at studies/t (looked for studies/t/study.json); studies in studies: s"


def test_append_is_durable_when_it_returns(store, monkeypatch):
    synced = []
    fsync = os.fsync
    monkeypatch.setattr(os, "fsync", lambda descriptor: (synced.append(os.fstat(descriptor).st_ino), fsync(descriptor)))
    store.append(failed("a"))
    (file,) = (store.location.local / "journal").iterdir()
    assert file.stat().st_ino in synced
    assert (store.location.local / "journal").stat().st_ino in synced
    assert ids(Store.open(store.location.local)) == ["a"]


def test_sealing_keeps_order_and_empties_the_journal(store, monkeypatch):
    monkeypatch.setattr(writers, "SEAL_EVENTS", 3)
    names = [f"t{i}" for i in range(10)]
    for name in names:
        store.append(failed(name))
    assert ids(store) == names
    assert len(store.location.files("parts")) == 3
    assert len(store.location.files("journal")) == 1
    store.close()
    assert store.location.files("journal") == []
    store.append(failed("later"))
    assert ids(store) == [*names, "later"]


def test_a_crash_between_seal_and_removal_doubles_nothing(store, monkeypatch):
    store.append([failed("a"), failed("b")])

    def crash(path):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", crash)
        with pytest.raises(KeyboardInterrupt):
            store.close()
    assert len(store.location.files("journal")) == len(store.location.files("parts")) == 1
    assert ids(store) == ["a", "b"]
    with Store.open(store.location.local, readonly=False) as again:
        again.append(failed("c"))
        assert again.seal_abandoned() == 1
        assert ids(again) == ["a", "b", "c"]
    assert store.location.files("journal") == []
    assert len(store.location.files("parts")) == 2


def test_seal_abandoned_leaves_evidence_of_corruption(store):
    store.append([failed("a"), failed("b")])
    (file,) = (store.location.local / "journal").iterdir()
    file.write_bytes(file.read_bytes().replace(b'"a"', b'"x"'))
    again = Store.open(store.location.local, readonly=False)
    assert again.seal_abandoned() == 0
    assert ids(again) == ["b"]
    assert again.read().problems == (f"journal/{file.name}, line 1: corrupt event skipped",)


def test_a_corrupt_part_is_named_and_the_rest_is_read(store, monkeypatch):
    monkeypatch.setattr(writers, "SEAL_EVENTS", 2)
    store.append([failed("a"), failed("b")])
    store.append([failed("c"), failed("d")])
    first, _ = sorted((store.location.local / "parts").iterdir())
    first.write_bytes(first.read_bytes()[:-20])
    (store.location.local / "parts" / "notes.txt").write_text("not ours")
    snapshot = store.read()
    assert snapshot.events["trial_id"].to_pylist() == ["c", "d"]
    assert len(snapshot.problems) == 1
    assert snapshot.problems[0].startswith(f"parts/{first.name}: cut short or corrupt, skipped")
    assert "\n" not in snapshot.problems[0]


def test_half_a_line_that_cannot_be_cut_off_spoils_no_later_one(store, monkeypatch):
    store.append(failed("a"))
    write, calls = os.write, []

    def refuse(*arguments):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    def half_then_none(descriptor, data):
        calls.append(len(data))
        return write(descriptor, data[: len(data) // 2]) if len(calls) == 1 else refuse()

    with monkeypatch.context() as patch:
        patch.setattr(journal.os, "ftruncate", refuse)
        patch.setattr(journal.os, "write", half_then_none)
        with pytest.raises(StorageError, match="Input/output error"):
            store.append(failed("b"))
    store.append(failed("c"))
    assert ids(store) == ["a", "c"]
    assert store.read().problems == ()
    store.close()
    assert ids(store) == ["a", "c"]


def test_a_full_disk_loses_nothing_and_can_be_gone_on_from(store, monkeypatch):
    store.append(failed("a"))
    write = os.write

    def full(descriptor, data):
        if len(data) < 8:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(descriptor, data[: len(data) // 2])

    with monkeypatch.context() as patch:
        patch.setattr(journal.os, "write", full)
        with pytest.raises(StorageError) as error:
            store.append([failed("b"), failed("c")])
    assert str(error.value) == (
        f"cannot write to {store.uri}: No space left on device; free space or bring the storage back, then go on with: "
        f"sparsevlr resume {store.uri}"
    )
    assert ids(store) == ["a"]
    store.append([failed("b"), failed("c")])
    assert ids(store) == ["a", "b", "c"]
    assert store.read().problems == ()


@pytest.mark.parametrize("storage", ["file", "file/deeper"])
def test_unwritable_storage_is_told_and_left_alone(tmp_path, storage):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StorageError) as error:
        Store.create(tmp_path / storage / "s", {})
    where = tmp_path / storage / "s"
    assert str(error.value) == (
        f"cannot create a study at {where}: Not a directory; make it writable, or choose another storage"
    )
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("step", ["mkdir", "rename"])
def test_no_half_made_study_is_left(tmp_path, monkeypatch, step):
    original = getattr(Path, step)

    def refuse(path, *arguments, **options):
        if path.name in ("parts",) or step == "rename":
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        return original(path, *arguments, **options)

    monkeypatch.setattr(Path, step, refuse)
    with pytest.raises(StorageError, match="Permission denied; make it writable"):
        Store.create(tmp_path / "s", {})
    assert list(tmp_path.iterdir()) == []


def test_an_existing_study_is_never_overwritten(store, tmp_path):
    store.append(failed("a"))
    with pytest.raises(StudyExists) as error:
        Store.create(store.uri, {"other": 1})
    assert f"continue it with: sparsevlr resume {store.uri}" in str(error.value)
    assert ids(store) == ["a"]
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("precious")
    with pytest.raises(StudyExists, match="is there already and is not a study"):
        Store.create(tmp_path / "mine", {})
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["thesis.tex"]


def test_of_many_creators_one_succeeds(tmp_path):
    outcomes = []

    def create(number):
        try:
            Store.create(tmp_path / "s", {"number": number})
            outcomes.append(number)
        except StudyExists:
            outcomes.append(None)

    threads = [threading.Thread(target=create, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    (winner,) = [number for number in outcomes if number is not None]
    assert Store.open(tmp_path / "s").spec == {"number": winner}
    assert [path.name for path in tmp_path.iterdir()] == ["s"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "is corrupt"),
        ("{", "is corrupt"),
        ("[1]", "does not describe a study"),
        ('{"format": "sparsevlr-study"}', "does not describe a study"),
        ('{"format": "sparsevlr-study", "spec": {}, "schema_version": 99}', "reads up to 1; install a newer one"),
        ('{"format": "sparsevlr-study", "spec": {}}', "schema version None"),
    ],
)
def test_a_wrong_manifest_is_told_by_name(tmp_path, content, message):
    (tmp_path / "study.json").write_text(content)
    with pytest.raises(StudyError, match=message) as error:
        Store.open(tmp_path)
    assert f"{tmp_path}/study.json" in str(error.value)


def test_other_refusals(store, tmp_path):
    with pytest.raises(StudyError, match="open for reading only"):
        Store.open(store.uri).append(failed("a"))
    with pytest.raises(UnsafePath):
        Store.create(tmp_path / "a b", {})
    with pytest.raises(StudyError, match="plain JSON without NaN"):
        Store.create(tmp_path / "s", {"epsilon": float("nan")})
    with pytest.raises(StudyError, match="plain JSON"):
        Store.create(tmp_path / "s", {"epsilon": object()})
    with pytest.raises(StudyMissing, match="holds no studies, start one with: sparsevlr search"):
        Store.open(tmp_path / "nowhere" / "s")
    assert not (tmp_path / "s").exists()


def test_secrets_in_a_uri_are_not_shown():
    with pytest.raises(StorageError) as error:
        locate("nosuch://user:secret@bucket/s?token=hidden")
    assert "nosuch://bucket/s" in str(error.value)
    assert "secret" not in str(error.value)
    assert "hidden" not in str(error.value)
    place = locate("s3://AKIA:secret@bucket/runs/s?region=eu-west-1")
    assert (place.shown, place.parent.shown, place.name) == ("s3://bucket/runs/s", "s3://bucket/runs", "s")


def test_two_writers_lose_nothing(store):
    other = Store.open(store.uri, readonly=False)
    for number in range(5):
        store.append(failed(f"a{number}"))
        other.append(failed(f"b{number}"))
    store.close()
    other.close()
    assert sorted(ids(store)) == sorted([f"{x}{i}" for x in "ab" for i in range(5)])


def _write(uri, count):
    writers.SEAL_EVENTS = 7
    with Store.open(uri, readonly=False) as store:
        for number in range(count):
            store.append(Record(event="report", trial_id=f"t{number}", rung=0, split="validation"))


def test_readers_see_a_growing_prefix_while_a_writer_appends_and_seals(store):
    process = multiprocessing.get_context("fork").Process(target=_write, args=(store.uri, 150))
    process.start()
    study = open_study(store.uri)
    seen, alive, lengths = 0, True, set()
    while alive:
        # Asked before reading: the last read comes after the last write.
        alive = process.is_alive()
        names = study.reports()["trial_id"].to_pylist()
        assert names == [f"t{number}" for number in range(len(names))]
        assert len(names) >= seen
        assert study.problems == ()
        seen = len(names)
        lengths.add(seen)
    assert process.exitcode == 0
    assert seen == 150
    assert len(lengths) > 2


def test_a_study_from_before_a_column_existed_opens_and_goes_on(tmp_path, make_trial):
    added = {"layer_densities", "other_parameters", "dense_bytes", "bitmask_bytes", "csr_bytes"}
    added |= {"layer_measures", "dense_stage"}
    old = Store.create(tmp_path / "old", {"seed": 0})
    old.append(make_trial("a", 0.5, 0.9))
    old.close()
    (part,) = (tmp_path / "old" / paths.PARTS).iterdir()
    table = pq.read_table(part)
    pq.write_table(table.select([name for name in table.column_names if name not in added]), part)
    with Store.open(tmp_path / "old", readonly=False) as store:
        store.append(make_trial("b", 0.6, 0.8, layer_densities='{"0":0.4}', csr_bytes=7))
        # One trial is in a part, the other in the journal.
        study = open_study(tmp_path / "old")
        assert study.problems == ()
        rows = {row["trial_id"]: row for row in study.pareto_front().to_pylist()}
    assert {name: rows["a"][name] for name in added} == dict.fromkeys(added)
    assert open_study(tmp_path / "old").layers()["density"].to_pylist() == [0.4]
    assert (rows["b"]["layer_densities"], rows["b"]["csr_bytes"]) == ('{"0":0.4}', 7)
    assert open_study(tmp_path / "old").trials(where="csr_bytes is null")["trial_id"].to_pylist() == ["a"]


def test_a_study_of_an_older_schema_version_opens_and_goes_on(tmp_path, make_trial):
    Store.create(tmp_path / "old", {"trials": 2}).location.replace(
        "study.json", json.dumps({"format": "sparsevlr-study", "schema_version": 0, "spec": {"trials": 2}}).encode()
    )
    few = ["trial_id", "state", "event", "rung", "split", "sparsity", "verified_accuracy", "time", "schema_version"]
    rows = [record.to_dict() | {"schema_version": 0} for record in make_trial("a", 0.5, 0.9)]
    table = pa.Table.from_pylist(rows, schema=parts.EVENT_SCHEMA).select(few)
    pq.write_table(table, tmp_path / "old" / paths.PARTS / paths.part_file("000001-00000000", 0, 2))
    with Store.open(tmp_path / "old", readonly=False) as store:
        store.append(make_trial("b", 0.6, 0.8))
        store.merge()
    study = open_study(tmp_path / "old")
    assert study.problems == ()
    assert study.pareto_front()["trial_id"].to_pylist() == ["a", "b"]
    assert [record.schema_version for record in study.replay()] == [0] * 3 + [1] * 3


@pytest.mark.parametrize("where", ["part", "journal", "digest"])
def test_events_of_a_newer_schema_version_are_refused_by_file(store, where):
    event = failed("a")
    store.append(replace(event, schema_version=2) if where == "journal" else event)
    (file,) = (store.location.local / paths.JOURNAL).iterdir()
    if where != "journal":
        store.close()
        (part,) = (store.location.local / paths.PARTS).iterdir()
        table = pq.read_table(part)
        table = table.set_column(table.column_names.index("schema_version"), "schema_version", pa.array([2]))
        file = store.location.local / (paths.PARTS if where == "part" else paths.DIGESTS) / part.name
        file.parent.mkdir(exist_ok=True)
        for column in ("trial", "summary", "place"):
            table = table.append_column(column, pa.array([0]))
        pq.write_table(table, file)
    with pytest.raises(StudyError) as error:
        open_study(store.uri).trials()
    assert str(error.value) == f"{file} has schema version 2, this sparsevlr reads up to 1; install a newer one"


def test_a_newer_version_that_only_added_columns_is_read(store, make_trial):
    store.append(make_trial("a", 0.5, 0.9))
    store.close()
    (part,) = (store.location.local / paths.PARTS).iterdir()
    table = pq.read_table(part)
    pq.write_table(table.append_column("watts", pa.array([1.5] * len(table))), part)
    content = json.loads((store.location.local / paths.STUDY_FILE).read_text())
    (store.location.local / paths.STUDY_FILE).write_text(json.dumps(content | {"cluster": "new"}))
    study = open_study(store.uri)
    assert (study.pareto_front()["trial_id"].to_pylist(), study.problems) == (["a"], ())


def test_a_list_from_the_middle_of_a_merge_is_not_believed(store, monkeypatch):
    for name in ("a", "b"):
        store.append(failed(name))
        store.close()
    files, asked = Location.files, []

    def torn(location, folder):
        asked.append(folder)
        found = files(location, folder)
        return found[:1] if asked.count(paths.PARTS) == 1 else found

    with monkeypatch.context() as patch:
        patch.setattr(Location, "files", torn)
        assert ids(store) == ["a", "b"]


def test_what_comes_from_a_driver_after_its_journal_was_sealed_does_not_count(store):
    store.append(failed("a"))
    with Store.open(store.uri, readonly=False) as second:
        second.seal_abandoned()
        store.append(failed("late"))
        second.append(failed("b"))
        store.close()
    assert ids(Store.open(store.uri)) == ["a", "b"]
