"""One driver at a time."""

import errno
import json
import multiprocessing
import os
import signal
import time
from pathlib import Path

import pytest

from sparsevlr.results import StorageError
from sparsevlr.results import lock as lock_module
from sparsevlr.results.location import locate
from sparsevlr.results.lock import DriverLock, StudyLocked


@pytest.fixture
def study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(lock_module, "BEAT_SECONDS", 0.1)
    monkeypatch.setattr(lock_module, "STALE_SECONDS", 1.0)
    return tmp_path


def test_a_second_driver_is_refused_while_the_first_lives(study: Path) -> None:
    with (
        DriverLock(locate(study)),
        pytest.raises(StudyLocked, match=f"another driver works on .*process {os.getpid()}"),
        DriverLock(locate(study)),
    ):
        pass
    with DriverLock(locate(study)) as second:
        second.check()
    assert list(study.iterdir()) == []


def test_a_study_that_cannot_be_looked_for_is_told_in_one_line(study: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(path: Path, **_: object) -> os.stat_result:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    with DriverLock(locate(study)) as lock:
        (study / "driver.lock").unlink()
        with monkeypatch.context() as patch:
            patch.setattr(Path, "stat", refused)
            with pytest.raises(
                StorageError, match=r"cannot find the study .*: Permission denied; bring its storage back"
            ):
                lock.check()


def hold(path: Path) -> None:
    lock_module.BEAT_SECONDS = 0.1
    with DriverLock(locate(path)):
        time.sleep(60)


def test_the_lock_of_a_killed_driver_is_taken_over(study: Path) -> None:
    process = multiprocessing.get_context("fork").Process(target=hold, args=(study,))
    process.start()
    while not (study / "driver.lock").exists():
        time.sleep(0.02)
    with pytest.raises(StudyLocked), DriverLock(locate(study)):
        pass
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    with DriverLock(locate(study)) as mine:
        mine.check()
        assert json.loads((study / "driver.lock").read_text())["pid"] == os.getpid()
    assert list(study.iterdir()) == []


def test_a_process_id_that_lives_proves_nothing(study: Path) -> None:
    (study / "driver.lock").write_text(json.dumps({"token": "old", "host": "here", "pid": os.getpid()}))
    with DriverLock(locate(study)) as mine:
        mine.check()


def test_a_torn_lock_file_is_taken_over(study: Path) -> None:
    (study / "driver.lock").write_text("")
    with DriverLock(locate(study)) as mine:
        mine.check()


def test_a_link_to_nowhere_in_the_place_of_the_lock_is_refused(study: Path) -> None:
    """What it leads to would never come to be stale."""
    (study / "driver.lock").symlink_to(study / "elsewhere")
    with (
        pytest.raises(StorageError, match=r"driver\.lock is a link that leads nowhere; remove it, then try again$"),
        DriverLock(locate(study)),
    ):
        pass
    assert not (study / "elsewhere").exists()


def test_a_driver_that_was_thought_dead_notices(study: Path) -> None:
    with DriverLock(locate(study)) as mine:
        (study / "driver.lock").write_text(json.dumps({"token": "another", "host": "there", "pid": 1}))
        with pytest.raises(StudyLocked, match=r"taken .* over"):
            mine.check()
    assert (study / "driver.lock").exists(), "the other's lock is not ours to remove"


def test_a_study_that_vanishes_is_no_other_driver_and_its_lock_beats_on_once_it_is_back(study: Path) -> None:
    study, away = study / "study", study / "away"
    study.mkdir()
    with DriverLock(locate(study)) as mine:
        study.rename(away)
        with pytest.raises(StorageError, match=r"has vanished; bring it back, .* sparsevlr resume"):
            mine.check()
        time.sleep(0.3)
        away.rename(study)
        before = (study / "driver.lock").stat().st_mtime_ns
        time.sleep(0.3)
        assert (study / "driver.lock").stat().st_mtime_ns > before
        mine.check()
        study.rename(away)
    assert away.exists(), "what is gone cannot be unlocked, and that is no error"


def test_a_lock_that_does_not_fit_on_the_disk_leaves_no_torn_one(study: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(lock_module.os, "fsync", full)
    with pytest.raises(StorageError, match="No space left on device"), DriverLock(locate(study)):
        pass
    assert list(study.iterdir()) == []


def contend(path: Path, won: "multiprocessing.queues.Queue[bool]") -> None:
    lock_module.BEAT_SECONDS, lock_module.STALE_SECONDS = 0.1, 1.0
    try:
        with DriverLock(locate(path)):
            won.put(True)
            time.sleep(3)
    except StudyLocked:
        won.put(False)


def test_of_several_who_wait_for_a_stale_lock_one_gets_it(study: Path) -> None:
    (study / "driver.lock").write_text(json.dumps({"token": "old", "host": "here", "pid": 1}))
    context = multiprocessing.get_context("fork")
    won = context.Queue()
    processes = [context.Process(target=contend, args=(study, won)) for _ in range(4)]
    for process in processes:
        process.start()
    outcomes = [won.get(timeout=20) for _ in processes]
    for process in processes:
        process.join()
    assert sorted(outcomes) == [False, False, False, True]
