"""A driver that is killed, and a study that goes on."""

import json
import os
import sys
from pathlib import Path

import pytest
import yaml
from killing import check, plan, timeless, torment

from sparsevlr.results import StudyError, StudyMissing, open_study
from sparsevlr.search import engine, resume, search
from sparsevlr.search.study_run import StudyRun
from sparsevlr.spaces import StudySpec

from .conftest import TINY
from .one_worker import run_to_the_end, searched

SPEC = TINY | {"trials": 10, "resources": {"workers": 1}}


# As the installed command, but a lock is stale sooner.
PROGRAM = [
    sys.executable,
    "-c",
    "from sparsevlr.results import lock; lock.STALE_SECONDS = 3.0; from sparsevlr.search.cli import main; main()",
]


def test_a_study_that_is_killed_again_and_again_ends_as_one_that_never_was(tmp_path: Path) -> None:
    # Trials that last long enough to be struck.
    scheduler = {"kind": "stopping", "eta": 2, "first_rung": 2}
    content = SPEC | {"trials": 5, "epochs": 8, "batch_size": 32, "scheduler": scheduler}
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(content))
    whole = run_to_the_end(StudySpec.from_dict(json.loads(json.dumps(content))), tmp_path / "whole")
    strikes = plan(2, events=len(whole.events()), seed=1298)
    hits = torment(tmp_path / "study.yaml", tmp_path / "killed", strikes, program=PROGRAM)
    assert [(hit.kind, hit.exit_code) for hit in hits] == [("SIGKILL to the group", -9), ("SIGKILL to a worker", None)]
    killed = open_study(tmp_path / "killed")
    assert {name: found for name, found in check(killed).items() if found} == {}
    assert searched(killed) == searched(whole)


def test_a_finished_study_is_extended_and_its_front_measured_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = StudySpec.from_dict(json.loads(json.dumps(SPEC)) | {"trials": 4})
    path = tmp_path / "my studies" / "study"
    stage = path / "stages" / "0123456789abcdef"

    def leave_a_stage(run: StudyRun) -> None:
        if not run.finished:
            stage.mkdir(parents=True, exist_ok=True)

    with monkeypatch.context() as patched:
        patched.setattr(engine, "scored_on_test", lambda *arguments: os._exit(1))
        with pytest.raises(StudyError, match=r"test split \(the worker .* died .*\); .*resume '.*my studies/study'$"):
            search(spec, str(path), observe=leave_a_stage)
    assert not stage.parent.exists()
    untested = timeless(open_study(path).events())
    assert not [row for row in untested if row["split"] == "test"]
    before = timeless(resume(str(path)).events())
    assert before[: len(untested)] == untested
    assert timeless(resume(str(path)).events()) == before
    longer = resume(str(path), more_trials=3)
    assert len(longer.trials()) == 7
    assert longer.spec["trials"] == 7
    assert timeless(longer.events())[: len(before)] == before
    tests = [row["trial_id"] for row in longer.reports().to_pylist() if row["split"] == "test"]
    assert len(tests) == len(set(tests))
    assert set(longer.pareto_front()["trial_id"].to_pylist()) <= set(tests)


def test_there_must_be_a_study(tmp_path: Path) -> None:
    with pytest.raises(StudyMissing):
        resume(str(tmp_path / "nothing"))
