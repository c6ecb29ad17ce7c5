"""Whole studies on Ray, small ones."""

import json
import os
import shutil
import signal
import subprocess
import threading
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pytest
from killing import check
from ray.exceptions import RayTaskError, WorkerCrashedError

from sparsevlr.results import Record, StorageError, Store, StudyError, open_study
from sparsevlr.results.location import locate
from sparsevlr.search import engine, resume, search
from sparsevlr.search.cluster import workers
from sparsevlr.search.engine import score_on_test, scored_on_test
from sparsevlr.spaces import StudySpec, TrialConfig, load_dataset
from sparsevlr.trainables.checkpoint import Checkpoint
from sparsevlr.trainables.trial import run_trial

from .conftest import TINY
from .one_worker import TIMES, run_to_the_end, searched

OWN_ARCHITECTURE = """
import os

from torch import nn

def build(shape, classes, ending="well"):
    if ending == "raise":
        raise RuntimeError("a bug of the user's own")
    if ending == "memory":
        raise MemoryError("no memory left for this network")
    if ending == "exit":
        os._exit(1)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, classes))
"""


def tiny(**changes: object) -> StudySpec:
    return StudySpec.from_dict(json.loads(json.dumps(TINY)) | changes)


def rows(table: pa.Table) -> list[dict[str, Any]]:
    return table.to_pylist()


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study of two workers."""
    path = tmp_path_factory.mktemp("studies") / "tiny"
    with pytest.MonkeyPatch.context() as patch:
        # A cluster that the environment names is not asked, unless the user names it.
        patch.setenv("RAY_ADDRESS", "127.0.0.1:1")
        search(tiny(trials=12, resources={"workers": 2}), str(path))
    return path


def test_every_trial_ends_and_some_are_stopped_early(finished: Path) -> None:
    states = Counter(open_study(finished).trials()["state"].to_pylist())
    assert sum(states.values()) == 12
    assert set(states) == {"completed", "stopped"}


def test_the_front_is_what_no_completed_trial_dominates(finished: Path) -> None:
    study = open_study(finished)
    completed = [row for row in rows(study.trials()) if row["state"] == "completed"]
    pairs = {row["trial_id"]: (row["verified_accuracy"], row["sparsity"]) for row in completed}
    front = {
        one
        for one, pair in pairs.items()
        if not any(a >= pair[0] and b >= pair[1] and (a, b) != pair for a, b in pairs.values())
    }
    assert set(study.pareto_front()["trial_id"].to_pylist()) == front


def test_scores_are_ordered_and_counts_add_up_on_every_row(finished: Path) -> None:
    reports = rows(open_study(finished).reports())
    assert {row["split"] for row in reports} == {"validation", "test"}
    for row in reports:
        # At the rungs before the last nothing is attacked, so there is no adversarial accuracy.
        assert (row["adversarial_accuracy"] is None) == (row["rung"] < 2)
        attacked = row["natural_accuracy"] if row["adversarial_accuracy"] is None else row["adversarial_accuracy"]
        assert row["verified_accuracy"] <= attacked <= row["natural_accuracy"]
        assert row["n_verified"] + row["n_falsified"] + row["n_unknown"] == row["samples"]
        assert row["samples"] == (60 if row["split"] == "validation" else 40)
        assert row["verified_low"] <= row["verified_accuracy"] <= row["verified_high"]


def test_the_test_split_is_measured_once_after_the_search_and_for_the_front_only(finished: Path) -> None:
    study = open_study(finished)
    events = rows(study.events())
    tested = [row["trial_id"] for row in events if row["split"] == "test"]
    assert sorted(tested) == sorted(study.pareto_front()["trial_id"].to_pylist())
    first_test = next(index for index, row in enumerate(events) if row["split"] == "test")
    assert all(row["split"] == "test" for row in events[first_test:])


def test_events_come_in_the_order_of_their_making(finished: Path) -> None:
    for trial_id in open_study(finished).trials()["trial_id"].to_pylist():
        events = [row for row in rows(open_study(finished).events()) if row["trial_id"] == trial_id]
        told = [row["decision"] or row["event"] for row in events if row["split"] != "test"]
        assert told[:2] == ["proposed", "start"]
        assert told[2::2] == ["report"] * len(told[2::2])
        assert told[-1] in ("complete", "stop")
        assert all(decision == "continue" for decision in told[3:-1:2])


def test_a_row_is_what_a_bare_trial_gives(finished: Path) -> None:
    study = open_study(finished)
    row = rows(study.pareto_front())[0]
    config = TrialConfig(trial_id=row["trial_id"], seed=row["seed"], values=json.loads(row["config"]))
    bare = run_trial(config, StudySpec.from_dict(study.spec), load_dataset("digits"))[-1].to_dict()
    unlike = {name for name, value in bare.items() if value != row[name]}
    assert unlike <= TIMES | {"checkpoint", "event", "state", "decision"}


def test_the_checkpoint_of_a_completed_trial_holds_its_weights(finished: Path) -> None:
    for row in rows(open_study(finished).pareto_front()):
        checkpoint = Checkpoint.load(locate(finished), row["checkpoint"])
        nonzero = sum(int(checkpoint.weights[name].count_nonzero()) for name in checkpoint.mask)
        assert nonzero == row["nonzero_weights"] <= checkpoint.mask.kept


def test_a_checkpoint_in_a_row_is_there_and_there_is_no_other(finished: Path) -> None:
    study = open_study(finished)
    named = {row["checkpoint"] for row in rows(study.trials())} - {None}
    assert {row["checkpoint"] for row in rows(study.reports())} - {None} == named
    assert {str(path.parent.relative_to(finished)) for path in finished.glob("checkpoints/*/*/state.json")} == named
    assert len(named) == sum(row["state"] == "completed" for row in rows(study.trials()))


def test_nothing_in_a_study_is_a_pickle(finished: Path) -> None:
    endings = {path.suffix for path in finished.rglob("*") if path.is_file()}
    assert endings <= {".json", ".jsonl", ".parquet", ".safetensors", ".png"}


def test_what_goes_wrong_on_test_is_told_and_moves_nobody_off_the_front(finished: Path, tmp_path: Path) -> None:
    study = tmp_path / "study"
    shutil.copytree(finished, study)
    row = rows(open_study(study).pareto_front())[0]
    broken = row | {"checkpoint": "checkpoints/gone/rung-2", "trial_id": row["trial_id"]}
    record = score_on_test(open_study(study).spec, broken, load_dataset("digits"), locate(study), False)
    assert (record.split, record.verified_accuracy) == ("test", None)
    assert "cannot be read" in str(record.error)
    front = open_study(study).pareto_front()["trial_id"]
    with Store.open(study, readonly=False) as store:
        store.append(replace(record, rung=record.rung + 1))
    assert open_study(study).pareto_front()["trial_id"] == front


def test_a_node_that_does_not_see_the_study_measures_nothing_on_test(finished: Path) -> None:
    study = open_study(finished)
    row, elsewhere = rows(study.pareto_front())[0], locate("/nonexistent/mount/study")
    with pytest.raises(StorageError, match=r"does not see the study /nonexistent.*resume /nonexistent/mount/study$"):
        score_on_test(study.spec, row, load_dataset("digits"), elsewhere, False)


def test_measuring_on_test_may_take_as_long_as_a_rung(monkeypatch: pytest.MonkeyPatch) -> None:
    def hang(*arguments: object, **options: object) -> None:
        try:
            time.sleep(5)
        except Exception:
            pytest.fail("what a verifier would survive")

    monkeypatch.setattr(engine, "Trial", hang)
    before = signal.getsignal(signal.SIGALRM)
    row = {"trial_id": "00003", "seed": 1, "rung": 2, "config": "{}", "checkpoint": "checkpoints/00003/rung-2"}
    spec = tiny(limits={"rung_seconds": 0.2}).to_dict()
    record = scored_on_test(spec, row, load_dataset("digits"), locate("/nowhere"), False)
    assert (record.trial_id, record.split, record.rung, record.verified_accuracy) == ("00003", "test", 2, None)
    assert "not measured in 0.2 s, which is limits.rung_seconds" in str(record.error)
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)
    assert signal.getsignal(signal.SIGALRM) is before


class Front:
    """Trials to be measured by tasks that end as told: with a record or an error, or never, for None."""

    def __init__(self, ends: dict[str, Record | Exception | None], monkeypatch: pytest.MonkeyPatch) -> None:
        self.tested: list[Record] = []
        self.limit_reached: str | None = None
        self.spec = tiny()
        self._ends, self._patch = ends, monkeypatch

    def measure(self, slots: int) -> None:
        def wait(tasks: list[str], timeout: float) -> tuple[list[str], list[str]]:
            done = [task for task in tasks if self._ends[task] is not None][:1]
            return done, [task for task in tasks if task not in done]

        def get(task: str) -> Record:
            end = self._ends[task]
            if isinstance(end, Exception):
                raise end
            assert end is not None
            return end

        task = SimpleNamespace(remote=lambda spec, row, *arguments: row["trial_id"])
        run = SimpleNamespace(spec=self.spec, limit_reached=self.limit_reached, tested=self.tested.append)
        with self._patch.context() as patched:
            patched.setattr(engine, "_untested", lambda store: [{"trial_id": name, "rung": 2} for name in self._ends])
            patched.setattr(engine, "as_trials_run", lambda spec, function: task)
            patched.setattr(engine, "ray", SimpleNamespace(wait=wait, get=get))
            patched.setattr(engine, "NO_ROOM_SECONDS", 0.0)
            store = SimpleNamespace(location=None)
            engine._score_front_on_test(run, store, None, lambda: slots, "s3://key:secret@b/a study?region=x", False)  # type: ignore[arg-type]


def measured(trial_id: str) -> Record:
    return Record(event="report", trial_id=trial_id, split="test", rung=2, state="running", verified_accuracy=0.5)


def test_only_the_death_of_workers_leaves_a_trial_of_the_front_unmeasured(monkeypatch: pytest.MonkeyPatch) -> None:
    cause = ImportError("no module named x")
    broken = RayTaskError("f", f"Traceback\n  File\nImportError: {cause}\n", cause).as_instanceof_cause()
    front = Front({"00000": broken, "00001": WorkerCrashedError(), "00002": measured("00002")}, monkeypatch)
    with pytest.raises(StudyError, match=r"^trials 00001 could not .*died again and again: The worker") as told:
        front.measure(slots=1)
    assert str(told.value).endswith("sparsevlr resume 's3://b/a study?region=x'")
    assert [(record.trial_id, record.error) for record in front.tested] == [
        ("00000", "ImportError: no module named x"),
        ("00002", None),
    ]
    lost = RayTaskError("f", "...", StorageError("a vanished mount")).as_instanceof_cause()
    with pytest.raises(StorageError, match=r"^a vanished mount$"):
        Front({"00000": lost}, monkeypatch).measure(slots=1)


def test_at_a_limit_a_front_does_not_wait_for_a_node_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    front = Front({"00000": measured("00000"), "00001": None}, monkeypatch)
    front.limit_reached = "a limit"
    with pytest.raises(StudyError, match=r"^trials 00001 could not be measured on the test split \(no node has room"):
        front.measure(slots=0)
    assert [record.trial_id for record in front.tested] == ["00000"]


def test_promotion_runs_to_the_last_trial_with_fewer_slots_than_trials(tmp_path: Path) -> None:
    scheduler = {"kind": "promotion", "eta": 2, "first_rung": 1}
    study = search(tiny(trials=9, scheduler=scheduler, resources={"workers": 2}), str(tmp_path / "study"))
    trials = rows(study.trials())
    assert {row["state"] for row in trials} == {"completed", "stopped"}
    # Half of those at a rung at least: who was promoted early stays promoted when better ones come.
    assert sum(row["rung"] >= 1 for row in trials) >= 4
    assert sum(row["state"] == "completed" for row in trials) >= 2
    # A trial that was paused and promoted is the trial that never paused.
    row = next(row for row in trials if row["state"] == "completed")
    config = TrialConfig(trial_id=row["trial_id"], seed=row["seed"], values=json.loads(row["config"]))
    bare = run_trial(config, StudySpec.from_dict(study.spec), load_dataset("digits"))[-1]
    assert (bare.verified_auc, bare.nonzero_weights, bare.n_unknown) == (
        row["verified_auc"],
        row["nonzero_weights"],
        row["n_unknown"],
    )


def test_trials_share_their_dense_stages_and_the_study_clears_them_away(tmp_path: Path) -> None:
    space = TINY["space"] | {"schedule.at": 0.5, "optimizer.learning_rate": 0.005, "architecture.hidden": [[16]]}  # type: ignore[operator]
    study = search(tiny(trials=6, space=space, resources={"workers": 2}), str(tmp_path / "study"))
    reports = [row for row in rows(study.reports()) if row["split"] == "validation"]
    # The first two may train it side by side; the others cannot be in time for that.
    assert {row["trial_id"] for row in reports if row["shared_seconds"]} >= {"00003", "00004", "00005"}
    for row in reports:
        config = TrialConfig(trial_id=row["trial_id"], seed=row["seed"], values=json.loads(row["config"]))
        bare = run_trial(config, StudySpec.from_dict(study.spec), load_dataset("digits"))[row["rung"]].to_dict()
        unlike = {name for name, value in bare.items() if value != row[name]}
        assert unlike <= TIMES | {"checkpoint", "event", "state", "decision"}
    assert not (tmp_path / "study" / "stages").exists()


def test_a_study_that_was_cut_before_it_cleared_up_does_so_when_it_is_resumed(finished: Path, tmp_path: Path) -> None:
    study = tmp_path / "study"
    shutil.copytree(finished, study)
    assert not (study / "stages").exists()
    (study / "stages" / "0123456789abcdef").mkdir(parents=True)
    resume(str(study))
    assert not (study / "stages").exists()


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system binds no process to cores")
def test_no_more_trials_run_at_once_than_this_process_has_cores() -> None:
    allowed = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(allowed)})
        assert workers(tiny()) == 1
        assert workers(tiny(resources={"cpus_per_trial": 0.25})) == 4
    finally:
        os.sched_setaffinity(0, allowed)
    assert workers(tiny(resources={"workers": 7})) == 7


def ray_workers(title: str) -> list[int]:
    """Process ids of Ray's workers below this process whose title begins so."""
    listed = subprocess.run(["ps", "-eo", "pid,ppid,args"], capture_output=True, text=True, check=True).stdout
    processes = [line.split(None, 2) for line in listed.splitlines()[1:]]
    below = {os.getpid()}
    while more := {int(pid) for pid, parent, _ in processes if int(parent) in below} - below:
        below |= more
    return [int(pid) for pid, _, name in processes if int(pid) in below and name.startswith(f"ray::{title}")]


def test_workers_that_are_killed_leave_no_trace_in_the_records(tmp_path: Path) -> None:
    path = tmp_path / "study"
    killed: list[int] = []

    def kill_one() -> None:
        while len(list(path.glob("checkpoints/*/*/state.json"))) < 2:
            time.sleep(0.01)
        # Between two tasks a worker has another name.
        while not (found := ray_workers("ResourceTrainable")):
            time.sleep(0.01)
        os.kill(found[0], signal.SIGKILL)
        killed.append(found[0])

    killer = threading.Thread(target=kill_one, daemon=True)
    killer.start()
    study = search(tiny(trials=4, scheduler={"kind": "none"}, epochs=60, resources={"workers": 1}), str(path))
    killer.join(timeout=1)
    assert len(killed) == 1
    assert study.trials()["state"].to_pylist() == ["completed"] * 4
    reports = [row for row in rows(study.reports()) if row["split"] == "validation"]
    assert len({(row["trial_id"], row["rung"]) for row in reports}) == len(reports) == 4
    for row in reports:
        config = TrialConfig(trial_id=row["trial_id"], seed=row["seed"], values=json.loads(row["config"]))
        bare = run_trial(config, StudySpec.from_dict(study.spec), load_dataset("digits"))[row["rung"]]
        assert (bare.verified_auc, bare.n_unknown) == (row["verified_auc"], row["n_unknown"])


def test_one_worker_and_one_seed_give_one_study(tmp_path: Path) -> None:
    spec = tiny(trials=6, resources={"workers": 1})
    study = search(spec, str(tmp_path / "study"))
    assert searched(study) == searched(run_to_the_end(spec, tmp_path / "again"))
    # Rows of the test split among them, each as a bare trial gives it.
    assert {name: found for name, found in check(study).items() if found} == {}


def test_a_study_survives_trials_that_fail_diverge_or_take_their_worker_along(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "own_networks.py").write_text(OWN_ARCHITECTURE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    endings = ["raise", "well", "memory", "exit", "well"]
    points: list[dict[str, object]] = [{"architecture.ending": ending, "sparsity": 0.5} for ending in endings]
    points.append({"architecture.ending": "well", "optimizer.learning_rate": 1e30})
    space = {name: value for name, value in TINY["space"].items() if not name.startswith("architecture")}  # type: ignore[attr-defined]
    space |= {
        "architecture": "own_networks:build",
        "architecture.ending": ["well", "raise", "memory", "exit"],
        "optimizer.learning_rate": {"low": 1e-3, "high": 1e30, "scale": "log"},
    }
    points = [{"optimizer.learning_rate": 0.005} | point for point in points]
    spec = tiny(space=space, starting_points=points, trials=6, scheduler={"kind": "none"}, resources={"workers": 1})
    # What would refuse this space beforehand is tested elsewhere; here the trials shall fail.
    monkeypatch.setattr("sparsevlr.search.engine.check_space", lambda *args, **options: None)
    monkeypatch.setattr(StudySpec, "check_against", lambda *args, **options: None)
    study = search(spec, str(tmp_path / "study"), allow_code=True)
    trials = rows(study.trials())
    assert [row["state"] for row in trials] == ["failed", "completed", "failed", "failed", "completed", "failed"]
    errors = [row["error"] for row in trials]
    assert "a bug of the user's own" in errors[0]
    assert "no memory left" in errors[2]
    assert "worker process died" in errors[3]
    assert "Diverged: the loss became nan" in errors[5]
