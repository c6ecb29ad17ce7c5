"""Studies on clusters of several nodes, which run on this machine and have not got the package."""

import json
import os
import signal
import sys
import sysconfig
import threading
import time
import venv
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any, TypeVar

import pytest
import ray
from ray.cluster_utils import Cluster

from sparsevlr.results import Study
from sparsevlr.search import search
from sparsevlr.spaces import SpecError, StudySpec, TrialConfig, load_dataset
from sparsevlr.trainables.trial import run_trial

from .conftest import TINY

T = TypeVar("T")

PATIENCE_SECONDS = 300.0
OWN_ARCHITECTURE = """
import os
import pathlib
import sys
import time

from torch import nn

def build(shape, classes, ending="well"):
    if sys.argv[0].endswith("default_worker.py"):
        time.sleep(1000 if ending == "hang" else 1.5)
        here = pathlib.Path(__file__)
        while here.with_name("hold").exists():
            time.sleep(0.1)
        here.with_name(f"built-{os.getpid()}").touch()
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, classes))
"""
SPACE = {name: value for name, value in TINY["space"].items() if not name.startswith("architecture")}  # type: ignore[attr-defined]
NODE = {"num_cpus": 1, "object_store_memory": 80 * 2**20}


@pytest.fixture(scope="module")
def bare_environment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The executables of an environment with all that the package requires, but without the package."""
    folder = tmp_path_factory.mktemp("bare")
    venv.create(folder, with_pip=False)
    # An editable package is served by a .pth file, which Python reads in no folder that is only lent.
    site = next((folder / "lib").glob("python*/site-packages"))
    (site / "lent.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return folder / "bin"


class Nodes:
    """A cluster: its head has the package, the nodes that are added have not."""

    def __init__(self, bare: Path) -> None:
        self._bare = bare
        self._cluster = Cluster(initialize_head=True, head_node_args=NODE | {"include_dashboard": False})
        self.address: str = self._cluster.address

    def add(self) -> Any:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "executable", str(self._bare / "python"))
            return self._cluster.add_node(**NODE)

    def one(self) -> Any:
        """An added node, whichever is there."""
        return next(iter(self._cluster.worker_nodes), None) or self.add()

    def kill(self, node: Any) -> None:
        self._cluster.remove_node(node, allow_graceful=False)

    def end(self) -> None:
        # A search that a failing test has left behind would keep its node.
        ray.shutdown()
        self._cluster.shutdown()


@pytest.fixture(scope="module")
def nodes(bare_environment: Path) -> Iterator[Nodes]:
    cluster = Nodes(bare_environment)
    yield cluster
    cluster.end()


def workers(node: Any) -> list[int]:
    """Process ids of the node's workers that hold a trial."""
    raylet = node.all_processes["raylet"][0].process.pid
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parent = (folder / "stat").read_text().rpartition(")")[2].split()[1]
            title = (folder / "cmdline").read_bytes()
        except OSError:
            continue
        if int(parent) == raylet and title.startswith(b"ray::ResourceTrainable"):
            found.append(int(folder.name))
    return found


class Search:
    """A search that runs beside the test, which meanwhile does things to its nodes."""

    def __init__(self, spec: StudySpec, path: Path, address: str) -> None:
        self._outcome: Future[Study] = Future()
        self._arguments = (spec, str(path), address)
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        spec, path, address = self._arguments
        try:
            self._outcome.set_result(search(spec, path, address=address, allow_code=True))
        except BaseException as error:
            self._outcome.set_exception(error)

    def until(self, condition: Callable[[], T]) -> T:
        """What `condition` gives, once that is anything; the search must go on until then."""
        while not (found := condition()):
            if self._outcome.done():
                self._outcome.result()
                raise AssertionError("the search has ended already")
            time.sleep(0.3)
        return found

    def study(self) -> Study:
        return self._outcome.result(PATIENCE_SECONDS)


def spec(ending: str = "well", **changes: object) -> StudySpec:
    space = SPACE | {"architecture": "own_networks:build", "architecture.ending": ending}
    return StudySpec.from_dict(json.loads(json.dumps(TINY)) | {"space": space} | changes)


@pytest.fixture
def own_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own_networks.py").write_text(OWN_ARCHITECTURE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))


def assert_as_bare(study: Study) -> None:
    """Every report is what a trial that nothing happened to gives, and no more than one of each was stored."""
    stored = [row for row in study.store.read().events.to_pylist() if row["event"] == "report"]
    assert len({(row["trial_id"], row["rung"], row["split"]) for row in stored}) == len(stored)
    reports = [row for row in study.reports().to_pylist() if row["split"] == "validation"]
    data = load_dataset("digits")
    for trial in {row["trial_id"]: row for row in reports}.values():
        config = TrialConfig(trial_id=trial["trial_id"], seed=trial["seed"], values=json.loads(trial["config"]))
        bare = run_trial(config, StudySpec.from_dict(study.spec), data, allow_code=True)
        mine = [row for row in reports if row["trial_id"] == trial["trial_id"]]
        assert [row["rung"] for row in mine] == list(range(len(mine)))
        for row, record in zip(mine, bare, strict=False):
            assert (record.verified_auc, record.n_unknown) == (row["verified_auc"], row["n_unknown"])


@pytest.mark.usefixtures("own_code")
def test_nodes_join_and_die_while_a_study_runs_and_nothing_is_lost_or_doubled(nodes: Nodes, tmp_path: Path) -> None:
    path, first = tmp_path / "study", nodes.add()
    running = Search(spec(trials=10), path, nodes.address)
    running.until(lambda: workers(first) and list(path.glob("checkpoints/*/*/state.json")))
    # However long a node takes to come up, the study is not over before.
    (tmp_path / "hold").touch()
    second = nodes.add()
    running.until(lambda: workers(second))
    running.until(lambda: workers(first))
    nodes.kill(first)
    (tmp_path / "hold").unlink()
    study = running.study()
    assert len(study.trials()) == 10
    assert set(study.trials()["state"].to_pylist()) == {"completed", "stopped"}
    assert_as_bare(study)


@pytest.mark.usefixtures("own_code")
def test_a_trial_whose_worker_is_told_to_end_goes_on_from_its_last_epoch(nodes: Nodes, tmp_path: Path) -> None:
    path = tmp_path / "study"
    changes: dict[str, object] = {"epochs": 300, "scheduler": {"kind": "none"}}
    running = Search(spec(trials=1, **changes), path, nodes.address)
    told: set[str] = set()

    def left() -> bool:
        """Whether the trial is saved between two rungs; who has begun to train is told to end."""
        for file in sorted(tmp_path.glob("built-*")):
            if file.name not in told:
                time.sleep(1)
                told.add(file.name)
                os.kill(int(file.name.removeprefix("built-")), signal.SIGTERM)
        return (path / "checkpoints/00000/left/state.json").exists()

    running.until(left)
    study = running.study()
    assert study.trials()["state"].to_pylist() == ["completed"]
    assert not (path / "checkpoints/00000/left").exists()
    assert_as_bare(study)


@pytest.mark.usefixtures("own_code")
def test_a_trial_that_hangs_fails_and_its_worker_is_ended(nodes: Nodes, tmp_path: Path) -> None:
    asked = spec("hang", trials=1, limits={"rung_seconds": 3.0})
    (trial,) = Search(asked, tmp_path / "study", nodes.address).study().trials().to_pylist()
    assert trial["state"] == "failed"
    assert "limits.rung_seconds is 3: its worker was ended" in trial["error"]


@pytest.mark.usefixtures("own_code")
def test_a_node_that_can_run_no_trial_is_named_before_any_runs(nodes: Nodes, tmp_path: Path) -> None:
    nodes.one()
    with pytest.raises(SpecError, match=r"node [0-9.]+ can run no trial: .*No module named 'sparsevlr'"):
        search(spec(), str(tmp_path / "study"), address=nodes.address, ship=False, allow_code=True)
    assert not (tmp_path / "study").exists(), "the same command shall do once that is mended"
