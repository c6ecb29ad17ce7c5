"""A disk that fills up, a folder that goes away: the study ends with one line, and goes on when its storage is back."""

import json
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from sparsevlr.results import StorageError, open_study
from sparsevlr.results.errors import StudyError
from sparsevlr.results.location import locate
from sparsevlr.search import resume, search
from sparsevlr.search.ray_adapters import StudyCallback, StudyScheduler
from sparsevlr.search.study_run import WORKER_RETRIES, StudyRun
from sparsevlr.spaces import StudySpec, TrialConfig, load_dataset
from sparsevlr.trainables.ray_trainable import RayTrial
from sparsevlr.trainables.trial import Trial

from .conftest import TINY
from .one_worker import gone_on, run_to_the_end, searched
from .test_study_run import Memory, full_disk


def tiny(**changes: object) -> StudySpec:
    return StudySpec.from_dict(json.loads(json.dumps(TINY)) | {"resources": {"workers": 1}} | changes)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own that a few checkpoints fill up."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=140k", "tmpfs", str(disk)]
    try:
        subprocess.run(mount, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"no file system can be mounted here: {error}")
    yield disk
    subprocess.run(["umount", "--lazy", str(disk)], check=True)


def test_a_full_disk_ends_the_study_and_with_more_room_it_ends_as_if_it_had_never_been_full(
    small_disk: Path, tmp_path: Path
) -> None:
    study = small_disk / "study"
    with pytest.raises(StorageError, match=r"No space left on device; free space .* sparsevlr resume") as ended:
        search(tiny(), str(study))
    assert "\n" not in str(ended.value)
    assert not (study / "driver.lock").exists()
    states = open_study(study).trials()["state"].to_pylist()
    assert "completed" in states
    assert "failed" not in states
    subprocess.run(["mount", "-o", "remount,size=10m", str(small_disk)], check=True)
    assert searched(resume(str(study))) == searched(run_to_the_end(tiny(), tmp_path / "whole"))


def test_a_folder_that_vanishes_ends_the_study_and_once_it_is_back_the_study_goes_on(tmp_path: Path) -> None:
    study, away = tmp_path / "study", tmp_path / "away"

    def move_away() -> None:
        while len(list(study.glob("checkpoints/*"))) < 3:
            time.sleep(0.01)
        study.rename(away)

    mover = threading.Thread(target=move_away, daemon=True)
    mover.start()
    with pytest.raises(StorageError, match=r"sparsevlr resume"):
        search(tiny(trials=100), str(study))
    mover.join(timeout=10)
    # What is left in its place, if anything, would keep it from coming back.
    assert not study.exists()
    away.rename(study)
    (study / "driver.lock").unlink()
    assert "failed" not in open_study(study).trials()["state"].to_pylist()
    found, uncut = gone_on(study, tiny(trials=20), tmp_path / "whole")
    assert found == uncut


def worker_of(config: TrialConfig, study: Path) -> RayTrial:
    worker = object.__new__(RayTrial)
    worker._spec, worker._config, worker._checkpoint, worker._location = tiny(), config, None, locate(study)
    worker._trial = Trial(config, tiny(), load_dataset("digits"), location=worker._location)
    return worker


class Exited(Exception):
    """A worker process has ended."""


@pytest.fixture
def exits(monkeypatch: pytest.MonkeyPatch) -> None:
    def exit_actor() -> None:
        raise Exited

    monkeypatch.setattr("sparsevlr.trainables.ray_trainable.exit_actor", exit_actor)


@pytest.mark.usefixtures("exits")
@pytest.mark.parametrize("checkpoint", [None, "checkpoints/00000/rung-0"])
def test_a_worker_on_a_node_that_does_not_see_the_study_ends(tmp_path: Path, checkpoint: str | None) -> None:
    config = StudyRun(tiny(), Memory()).next_trial().config  # type: ignore[arg-type, union-attr]
    worker = worker_of(config, tmp_path / "not mounted here")
    if checkpoint is not None:
        worker._trial, worker._checkpoint, worker._data = None, checkpoint, load_dataset("digits")
        worker._allow_code = False
    with pytest.raises(Exited):
        worker.step()


@pytest.mark.usefixtures("exits")
def test_a_worker_that_is_told_to_end_says_so_before_it_does(tmp_path: Path) -> None:
    (tmp_path / "study.json").touch()
    run = StudyRun(tiny(), Memory())  # type: ignore[arg-type]
    worker = worker_of(run.next_trial().config, tmp_path)  # type: ignore[union-attr]
    worker._stepping = True
    worker._told_to_end(signal.SIGTERM, None)
    worker._stepping = False
    assert worker.step() == {"left": True}
    with pytest.raises(Exited):
        worker.step()


def test_one_death_that_ray_tells_twice_counts_once(tmp_path: Path) -> None:
    run = StudyRun(tiny(), Memory())  # type: ignore[arg-type]
    config = run.next_trial().config  # type: ignore[union-attr]
    callback = StudyCallback(run)
    given = SimpleNamespace(trial_id="ray's", config={"trial": config.to_json()}, error_file=None)
    for _ in range(WORKER_RETRIES):
        callback.on_trial_recover(0, [], given)  # type: ignore[arg-type]
        callback.on_trial_error(0, [], given)  # type: ignore[arg-type]
        assert run.next_trial().config == config  # type: ignore[union-attr]
    assert run.states[config.trial_id] in ("pending", "running")
    callback.on_trial_recover(0, [], given)  # type: ignore[arg-type]
    assert run.states[config.trial_id] == "failed"


def test_a_worker_that_cannot_write_its_checkpoint_fails_no_trial(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = StudyRun(tiny(), Memory())  # type: ignore[arg-type]
    config = run.next_trial().config  # type: ignore[union-attr]
    run.started(config.trial_id)
    (tmp_path / "study.json").touch()
    worker = worker_of(config, tmp_path)
    monkeypatch.setattr("sparsevlr.results.location.os.fsync", full_disk)
    result = worker.step()
    assert result == {
        "storage_error": f"cannot write to {tmp_path}: No space left on device; free space or bring the storage back, "
        f"then go on with: sparsevlr resume {tmp_path}"
    }
    with pytest.raises(StorageError, match="No space left"):
        StudyScheduler(run).on_trial_result(None, None, result)  # type: ignore[arg-type]
    assert run.states[config.trial_id] == "running"
    assert isinstance(run.error, StudyError)
