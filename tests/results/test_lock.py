"""One driver at a time."""

import json
import multiprocessing
import os
import signal
import time
from pathlib import Path

import pytest

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


def test_a_driver_that_was_thought_dead_notices(study: Path) -> None:
    with DriverLock(locate(study)) as mine:
        (study / "driver.lock").write_text(json.dumps({"token": "another", "host": "there", "pid": 1}))
        with pytest.raises(StudyLocked, match=r"taken .* over"):
            mine.check()
    assert (study / "driver.lock").exists(), "the other's lock is not ours to remove"


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
