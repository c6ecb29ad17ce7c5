"""One driver at a time on storage that has no exclusive files."""

import multiprocessing
import os
import random
import signal
import threading
import time
from pathlib import Path

import pytest
from pyarrow import fs

from sparsevlr.results import Record, StorageError, Store, open_study, paths
from sparsevlr.results import lease as lease_module
from sparsevlr.results.coverage import FANOUT
from sparsevlr.results.fences import Fence
from sparsevlr.results.lock import StudyLocked
from sparsevlr.results.merging import Merger
from sparsevlr.results.parts import to_bytes, to_events


def hasten() -> None:
    lease_module.BEAT_SECONDS, lease_module.SETTLE_SECONDS, lease_module.STALE_SECONDS = 0.1, 1.0, 3.0


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("BEAT_SECONDS", "SETTLE_SECONDS", "STALE_SECONDS"):
        monkeypatch.setattr(lease_module, name, getattr(lease_module, name))
    hasten()


def objects(folder: Path) -> fs.FileSystem:
    """Storage of which nothing is known but that it keeps files."""
    return fs.SubTreeFileSystem(str(folder), fs.LocalFileSystem())


@pytest.fixture
def study(tmp_path: Path) -> Path:
    Store.create("study", {}, filesystem=objects(tmp_path))
    return tmp_path


def opened(folder: Path) -> Store:
    return Store.open("study", readonly=False, filesystem=objects(folder))


def failed(name: str) -> Record:
    return Record(event="failed", trial_id=name)


def ids(folder: Path) -> list[str]:
    store = opened(folder)
    found = [str(name) for name in store.read().events["trial_id"].to_pylist()]
    decisive = store.read_decisive()
    assert sorted(set(decisive.events["trial_id"].to_pylist())) == sorted(set(found))
    return found


def leases(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("study/leases/*"))


def test_a_second_driver_is_refused_while_the_first_lives(study: Path) -> None:
    with (
        opened(study).lead(),
        pytest.raises(StudyLocked, match=f"another driver works on study .process {os.getpid()} on"),
        opened(study).lead(),
    ):
        pass
    with opened(study).lead() as second:
        second.check()
    assert leases(study) == []


def hold(folder: Path) -> None:
    hasten()
    store = opened(folder)
    with store.lead():
        store.append(failed("first"))
        time.sleep(60)


def test_the_lease_of_a_killed_driver_is_taken_over(study: Path) -> None:
    process = multiprocessing.get_context("fork").Process(target=hold, args=(study,), daemon=True)
    process.start()
    while not list(study.glob("study/parts/*")):
        time.sleep(0.02)
    with pytest.raises(StudyLocked), opened(study).lead():
        pass
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert len(leases(study)) == 1
    store = opened(study)
    with store.lead() as mine:
        mine.check()
        store.append(failed("second"))
    assert ids(study) == ["first", "second"]
    assert leases(study) == []


def sleepy(folder: Path, told: "multiprocessing.queues.Queue[str]") -> None:
    hasten()
    store = opened(folder)
    try:
        with store.lead() as leading:
            for number in range(1_000_000):
                leading.check()
                store.append(failed(f"a{number}"))
                time.sleep(0.02)
    except StudyLocked as error:
        told.put(str(error))


@pytest.mark.parametrize("other_ends_first", [True, False])
def test_a_driver_that_slept_stops_and_nothing_it_wrote_too_late_counts(study: Path, other_ends_first: bool) -> None:
    context = multiprocessing.get_context("fork")
    told: multiprocessing.queues.Queue[str] = context.Queue()
    process = context.Process(target=sleepy, args=(study, told), daemon=True)
    process.start()
    while len(list(study.glob("study/parts/*"))) < 5:
        time.sleep(0.02)
    assert process.pid is not None
    os.kill(process.pid, signal.SIGSTOP)
    # A thread may run on for a moment.
    os.waitpid(process.pid, os.WUNTRACED)
    store = opened(study)
    with store.lead():
        before = ids(study)
        store.append(failed("b0"))
        if not other_ends_first:
            os.kill(process.pid, signal.SIGCONT)
            assert "taken study over; this one stops" in told.get(timeout=20)
        store.append(failed("b1"))
    if other_ends_first:
        os.kill(process.pid, signal.SIGCONT)
        assert "taken study over; this one stops" in told.get(timeout=20)
    process.join()
    assert ids(study) == [*before, "b0", "b1"]
    assert leases(study) == []


def write(folder: Path, session: str, first: int, last: int) -> None:
    """As a driver's append, whenever it arrives."""
    rows = [(place, failed(f"{session[-1]}{place}").to_dict()) for place in range(first, last + 1)]
    location = opened(folder).location
    location.write(f"{paths.PARTS}/{paths.part_file(session, first, last)}", to_bytes(to_events(rows)))


@pytest.mark.parametrize("seed", range(6))
def test_of_a_session_counts_what_the_next_drivers_saw_whoever_merges_what(
    study: Path, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Drivers that never stop, and merge what they want to, against a model."""
    monkeypatch.setattr("sparsevlr.results.merging.DIGEST_EVENTS", 8)
    draw = random.Random(seed)
    location = opened(study).location
    sessions: list[str] = []
    ends: dict[str, int] = {}
    counted: dict[str, int] = {}
    for _ in range(30 * FANOUT // 4):
        action = draw.random()
        if not sessions or action < 0.03:
            new = paths.session_name(len(sessions) + 1, f"{len(sessions):08x}")
            counted = {name: min(counted.get(name, end), end) for name, end in ends.items()}
            seen = {name: end for name, end in counted.items() if end >= 0}
            location.write(f"{paths.FENCES}/{paths.session_file(new)}", Fence(new, seen).to_json())
            sessions.append(new)
            ends[new] = -1
        elif action < 0.1:
            # One that was thought dead knows no fence; it may be killed before it has removed what it merged.
            parts = {path: path.read_bytes() for path in study.glob("study/*/*.parquet")}
            Merger(location, threading.Event()).run()
            if draw.random() < 0.5:
                for path, content in parts.items():
                    path.write_bytes(content)
        elif action < 0.17:
            before = set(study.glob("study/*/*.parquet"))
            opened(study).merge()
            for path in set(study.glob("study/*/*.parquet")) - before:
                made = paths.parse_part(path.name)
                assert made is not None
                assert made.last <= counted.get(made.session, made.last), "who knows of fences keeps to them"
        else:
            name = draw.choice(sessions)
            last = ends[name] + draw.randint(1, 3)
            write(study, name, ends[name] + 1, last)
            ends[name] = last
    assert len(sessions) > 1
    assert any(counted[name] < ends[name] for name in counted)
    expected = [f"{name[-1]}{place}" for name in sessions for place in range(counted.get(name, ends[name]) + 1)]
    assert ids(study) == expected
    assert open_study("study", filesystem=objects(study)).trials()["trial_id"].to_pylist() == expected


def test_files_that_overlap_are_read_once(study: Path) -> None:
    session = paths.session_name(1, "0000000a")
    for first, last in ((0, 9), (5, 14), (12, 20), (13, 15)):
        write(study, session, first, last)
    assert ids(study) == [f"a{place}" for place in range(21)]


def test_of_fences_the_newest_decides_whenever_an_older_one_arrives(study: Path) -> None:
    first, second, third = (paths.session_name(1, "0000000a"), paths.session_name(2, "0000000b"), "000002-0000000c")
    write(study, first, 0, 21)
    location = opened(study).location
    location.write(f"{paths.FENCES}/{paths.session_file(third)}", Fence(third, {first: 21}).to_json())
    location.write(f"{paths.FENCES}/{paths.session_file(second)}", Fence(second, {first: 20}).to_json())
    assert len(ids(study)) == 22


def test_a_study_that_was_copied_to_a_disk_goes_on_there(study: Path) -> None:
    store = opened(study)
    with store.lead():
        store.append(failed("old"))
    # A driver that has left its fence, and no event.
    location = store.location
    last = paths.session_name(7, "ffffffff")
    seen = {name.session: name.last for entry in location.files("parts") if (name := paths.parse_part(entry.name))}
    location.write(f"{paths.FENCES}/{paths.session_file(last)}", Fence(last, seen).to_json())
    with Store.open(study / "study", readonly=False) as local, local.lead():
        local.append(failed("new"))
        assert Store.open(study / "study").read().events["trial_id"].to_pylist() == ["old", "new"]
    assert Store.open(study / "study").read().events["trial_id"].to_pylist() == ["old", "new"]


def test_a_killed_study_that_was_copied_from_a_disk_goes_on(study: Path) -> None:
    killed = Store.open(study / "study", readonly=False)
    killed.append([failed("one"), failed("two")])
    assert list((study / "study" / paths.JOURNAL).iterdir())
    for new in ("three", "four"):
        store = opened(study)
        with store.lead():
            store.append(failed(new))
    assert ids(study) == ["one", "two", "three", "four"]


@pytest.mark.parametrize("what", ["leases", "fences"])
def test_what_a_driver_that_failed_to_begin_has_written_binds_no_later_one(
    study: Path, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its request is done, and nobody hears of it; or it is done much later."""
    with monkeypatch.context() as patch:
        kind = type(opened(study).location)
        write_it = kind.write

        def lost(self: object, relative: str, data: bytes) -> None:
            write_it(self, relative, data)  # type: ignore[arg-type]
            if relative.startswith(what):
                raise OSError("no answer")

        patch.setattr(kind, "write", lost)
        with pytest.raises(StorageError, match="no answer"), opened(study).lead():
            pass
    written = {path: path.read_bytes() for path in study.glob("study/fences/*")}
    for path in written:
        path.unlink()
    store = opened(study)
    with store.lead() as leading:
        store.append(failed("a"))
        for path, content in written.items():
            path.write_bytes(content)
        leading.check()
        store.append(failed("b"))
    assert ids(study) == ["a", "b"]


def test_an_answer_that_comes_late_does_not_make_a_driver_dead(study: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with opened(study).lead():
        kind = type(opened(study).location)
        read = kind.read

        def late(self: object, relative: str, *most: int) -> bytes:
            content = read(self, relative, *most)  # type: ignore[arg-type]
            if relative.startswith("leases"):
                time.sleep(lease_module.STALE_SECONDS + 0.5)
            return content

        monkeypatch.setattr(kind, "read", late)
        with pytest.raises(StudyLocked, match="another driver works on"), opened(study).lead():
            pass


def test_a_corrupt_fence_is_reported_by_name_and_bounds_nothing(study: Path) -> None:
    store = opened(study)
    with store.lead():
        store.append(failed("a"))
    (fence,) = study.glob("study/fences/*")
    for content in (b"", b"{}", b'{"seen": {"x": "1"}}', b"[1]"):
        fence.write_bytes(content)
        again = opened(study).read()
        assert again.problems[0].startswith(f"fences/{fence.name}: cut short or corrupt, skipped")
        assert again.events["trial_id"].to_pylist() == ["a"]


def contend(folder: Path, won: "multiprocessing.queues.Queue[bool]") -> None:
    hasten()
    try:
        with opened(folder).lead():
            won.put(True)
            time.sleep(4)
    except StudyLocked:
        won.put(False)


@pytest.mark.parametrize("left", [True, False])
def test_of_several_that_begin_at_once_one_stays(study: Path, left: bool) -> None:
    if left:
        (study / "study/leases").mkdir()
        (study / "study/leases" / paths.session_file("000001-0000000a")).write_text("{}")
    context = multiprocessing.get_context("fork")
    won = context.Queue()
    processes = [context.Process(target=contend, args=(study, won), daemon=True) for _ in range(4)]
    for process in processes:
        process.start()
    outcomes = [won.get(timeout=30) for _ in processes]
    for process in processes:
        process.join()
    assert sorted(outcomes) == [False, False, False, True]
    assert leases(study) == []


def test_a_lease_that_cannot_be_written_is_told(study: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = opened(study)

    def full(relative: str, data: bytes) -> None:
        raise OSError("the disk is full")

    monkeypatch.setattr(type(store.location), "write", lambda self, relative, data: full(relative, data))
    with pytest.raises(Exception, match=r"cannot lease the study study: the disk is full"), store.lead():
        pass


def test_a_driver_that_cannot_clear_dead_leases_away_does_not_beat_on(
    study: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (study / "study/leases").mkdir()
    (study / "study/leases" / paths.session_file("000001-0000000a")).write_text("{}")
    store = opened(study)

    def stuck(self: object, relative: str) -> None:
        raise OSError("it stays")

    monkeypatch.setattr(type(store.location), "remove_file", stuck)
    with pytest.raises(StorageError, match="it stays"), store.lead():
        pass
    time.sleep(0.2)
    before = {name: (study / "study/leases" / name).read_bytes() for name in leases(study)}
    assert len(before) == 2
    time.sleep(0.5)
    assert before == {name: (study / "study/leases" / name).read_bytes() for name in leases(study)}
