"""Searches whose study lives on an object store that fails now and then."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import yaml

from sparsevlr.results import open_study
from sparsevlr.results import paths as study_paths
from sparsevlr.spaces import StudySpec

from ..conftest import ACCESS_KEY, SECRET_KEY, ObjectStore, some
from .conftest import TINY
from .one_worker import run_to_the_end, searched

SPEC = TINY | {"trials": 4, "resources": {"workers": 1}}
# As the installed command, but a lease is stale sooner.
PROGRAM = [
    sys.executable,
    "-c",
    "from sparsevlr.results import lease; lease.STALE_SECONDS = 8.0; from sparsevlr.search.cli import main; main()",
]


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*PROGRAM, *arguments], capture_output=True, text=True, timeout=300, cwd=folder)


def test_a_killed_search_goes_on_exports_and_tells_no_credentials(object_store: ObjectStore, tmp_path: Path) -> None:
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(SPEC | {"name": "study"}))
    secret = {"credentials": f"{ACCESS_KEY}:{SECRET_KEY}"}
    storage, uri = object_store.uri("studies", **secret), object_store.uri("studies/study", **secret)
    said = []
    with object_store.faults(some(0.02, ("500", "503", "lost"), seed=5)):
        with (tmp_path / "first").open("w") as output:
            first = subprocess.Popen(
                [*PROGRAM, "search", str(tmp_path / "study.yaml"), "--storage", storage],
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
            deadline = time.monotonic() + 120
            while not _reports(object_store) and first.poll() is None and time.monotonic() < deadline:
                time.sleep(0.2)
            os.killpg(first.pid, signal.SIGKILL)
            assert first.wait() == -signal.SIGKILL, (tmp_path / "first").read_text()
        said.append((tmp_path / "first").read_text())
        resumed = run(tmp_path, "resume", uri)
        said += [resumed.stdout, resumed.stderr]
        assert resumed.returncode == 0, resumed.stderr
    assert object_store.hurt
    study = open_study(uri)
    spec = StudySpec.from_dict(json.loads(json.dumps(SPEC | {"name": "study"})))
    whole = run_to_the_end(spec, tmp_path / "study")
    assert searched(study) == searched(whole)
    best = study.pareto_front()["trial_id"].to_pylist()[0]
    for arguments in (
        ("export", uri, best, "--out", str(tmp_path / "out")),
        ("verify", str(tmp_path / "out")),
        ("status", uri),
    ):
        done = run(tmp_path, *arguments)
        said += [done.stdout, done.stderr]
        assert done.returncode == 0, done.stderr
    written = [file.read_bytes() for file in (tmp_path / "out").rglob("*") if file.is_file()]
    logs = [file.read_bytes() for file in Path(os.environ["RAY_TMPDIR"]).rglob("*") if file.is_file()]
    assert written
    assert logs
    for text in (SECRET_KEY, ACCESS_KEY):
        assert text not in "".join(said)
        assert not any(text.encode() in data for data in [*written, *object_store.content().values()])
        assert not [data for data in logs if text.encode() in data]


def _reports(store: ObjectStore) -> bool:
    """Whether a trial has come to a checkpoint."""
    return any(path.endswith(study_paths.STATE) for path in store.paths())
