"""Ctrl-C, and the signal by which systems end a process, in the middle of a search."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from sparsevlr.results import open_study
from sparsevlr.spaces import StudySpec

from .conftest import TINY
from .one_worker import gone_on


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_with_130_leaves_no_process_and_a_study_that_goes_on(
    number: signal.Signals, tmp_path: Path
) -> None:
    spec = TINY | {"trials": 500, "resources": {"workers": 1}}
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(spec))
    command = [sys.executable, "-c", "from sparsevlr.search.cli import main; main()"]
    process = subprocess.Popen(
        [*command, "search", "study.yaml", "--name", "cut", "--storage", str(tmp_path / "studies")],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    study = tmp_path / "studies" / "cut"
    try:
        deadline = time.monotonic() + 120
        while len(list(study.glob("checkpoints/*"))) < 4:
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.2)
        os.kill(process.pid, number)
        out, err = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130
    assert "Traceback" not in err
    assert "interrupted" in err.splitlines()[-1]
    assert out == ""
    reports = open_study(study).reports()
    assert len(reports) >= 3
    assert not open_study(study).problems
    assert not (study / "driver.lock").exists()
    assert set(reports["split"].to_pylist()) == {"validation"}
    time.sleep(2)
    left = subprocess.run(["ps", "-s", str(process.pid), "-o", "comm="], capture_output=True, text=True, check=False)
    assert "raylet" not in left.stdout
    shorter = StudySpec.from_dict(json.loads(json.dumps(spec | {"name": "cut", "trials": 20})))
    found, uncut = gone_on(study, shorter, tmp_path / "whole")
    assert found == uncut
