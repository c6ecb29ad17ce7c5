"""A driver that is killed, and a study that goes on."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import yaml

from sparsevlr.results import StudyMissing, lock, open_study
from sparsevlr.search import resume, search
from sparsevlr.spaces import StudySpec

from .conftest import TINY

TIMES = {"time", "train_seconds", "verify_seconds", "shared_seconds"}
SPEC = TINY | {"trials": 10, "resources": {"workers": 1}}


def timeless(table: pa.Table) -> list[dict[str, Any]]:
    return [{name: value for name, value in row.items() if name not in TIMES} for row in table.to_pylist()]


def start(folder: Path) -> subprocess.Popen[bytes]:
    (folder / "study.yaml").write_text(yaml.safe_dump(SPEC))
    command = "from sparsevlr.search.cli import main; main()"
    arguments = ["search", "study.yaml", "--name", "killed", "--storage", str(folder)]
    return subprocess.Popen(
        [sys.executable, "-c", command, *arguments],
        cwd=folder,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


def test_after_kill_9_of_the_whole_process_group_nothing_is_lost_doubled_or_done_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lock, "STALE_SECONDS", 3.0)
    process = start(tmp_path)
    study = tmp_path / "killed"
    try:
        deadline = time.monotonic() + 120
        while len(list(study.glob("checkpoints/*"))) < 4:
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.02)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    before = timeless(open_study(study).events())
    assert 0 < len(before) < 40
    resumed = resume(str(study))
    assert not resumed.problems
    whole = search(StudySpec.from_dict(json.loads(json.dumps(SPEC))), str(tmp_path / "whole"))
    events = timeless(resumed.events())
    assert events[: len(before)] == before
    assert events == timeless(whole.events())


def test_a_finished_study_is_extended_and_its_front_measured_once(tmp_path: Path) -> None:
    spec = StudySpec.from_dict(json.loads(json.dumps(SPEC)) | {"trials": 4})
    first = search(spec, str(tmp_path / "study"))
    before = timeless(first.events())
    assert timeless(resume(str(tmp_path / "study")).events()) == before
    longer = resume(str(tmp_path / "study"), more_trials=3)
    assert len(longer.trials()) == 7
    assert longer.spec["trials"] == 7
    assert timeless(longer.events())[: len(before)] == before
    tests = [row["trial_id"] for row in longer.reports().to_pylist() if row["split"] == "test"]
    assert len(tests) == len(set(tests))
    assert set(longer.pareto_front()["trial_id"].to_pylist()) <= set(tests)


def test_there_must_be_a_study(tmp_path: Path) -> None:
    with pytest.raises(StudyMissing):
        resume(str(tmp_path / "nothing"))
