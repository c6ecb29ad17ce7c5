"""A trial that resumes is the trial that never stopped, bit for bit, whatever ran before it on the same worker."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from unittest import mock

import pytest
import torch

from sparsevlr.results import UnsafePath
from sparsevlr.spaces import StudySpec, TrialConfig
from sparsevlr.spaces.datasets import Dataset
from sparsevlr.trainables import Trial, run_trial
from sparsevlr.trainables.errors import Left
from sparsevlr.trainables.training import Training

from .fresh import Nursery, new_actor, on_actor, one_rung
from .trials import SCHEDULES, bits, config, study, timeless

OWN_ARCHITECTURE = """
import torch

def spoils_torch(shape, classes):
    torch.set_default_dtype(torch.float64)
    torch.use_deterministic_algorithms(False)
    torch.set_num_threads(3)
    torch.set_grad_enabled(False)
    torch.manual_seed(1)
    raise MemoryError("no memory left for this network")
"""


@pytest.fixture(scope="module")
def nursery() -> Iterator[Nursery]:
    started = Nursery()
    yield started
    started.close()


@pytest.fixture
def own_torch() -> Iterator[None]:
    """Puts back what a worker sets for its whole process."""
    threads, dtype, at_sigterm = torch.get_num_threads(), torch.get_default_dtype(), signal.getsignal(signal.SIGTERM)
    deterministic = torch.are_deterministic_algorithms_enabled()
    yield
    torch.set_num_threads(threads)
    torch.set_default_dtype(dtype)
    torch.use_deterministic_algorithms(deterministic)
    torch.set_grad_enabled(True)
    signal.signal(signal.SIGTERM, at_sigterm)


@pytest.mark.parametrize(
    ("schedule", "shares"), [*((name, False) for name in SCHEDULES), ("one-shot within an epoch", True)]
)
def test_a_trial_cut_at_any_rung_ends_bit_identical(
    spec: StudySpec, digits: Dataset, tmp_path: Path, schedule: str, shares: bool
) -> None:
    one = config(schedule)
    whole = study(tmp_path / "whole")
    through = run_trial(one, spec, digits, location=whole)
    for cut in range(len(spec.rungs)):
        where = study(tmp_path / f"cut-{cut}")
        before = run_trial(one, spec, digits, location=where, on_report=lambda record, cut=cut: record.rung < cut)
        if not shares:
            where.remove_folder("stages")
        resumed = Trial(one, spec, digits, location=where)
        resumed.restore(before[-1].checkpoint)
        after = []
        while not resumed.finished:
            after.append(resumed.advance())
        records = [*before, *after]
        assert list(map(timeless, records)) == list(map(timeless, through))
        for record in records:
            assert bits(where, record.checkpoint) == bits(whole, record.checkpoint)


def test_a_fresh_process_for_each_rung_changes_nothing(
    spec: StudySpec, digits: Dataset, tmp_path: Path, nursery: Nursery
) -> None:
    studies = {config(schedule).to_json(): study(tmp_path / schedule) for schedule in SCHEDULES}
    folders = {one: str(where.local) for one, where in studies.items()}
    checkpoint = None
    for rung in range(len(spec.rungs)):
        nursery.run(one_rung, spec=spec.to_dict(), studies=folders, checkpoint=checkpoint)
        checkpoint = f"checkpoints/00007/rung-{rung}"
    for number, (one, where) in enumerate(studies.items()):
        whole = study(tmp_path / f"whole-{number}")
        for record in run_trial(TrialConfig.from_json(one), spec, digits, location=whole):
            assert bits(where, record.checkpoint) == bits(whole, record.checkpoint)


@pytest.mark.parametrize(
    "schedule",
    [
        "gradual",
        "gradual after a dense stage",
        "one-shot between epochs",
        "drop-and-grow",
        "iterative",
        "averaged",
        "dense",
    ],
)
def test_a_trial_told_to_end_between_two_rungs_ends_bit_identical(
    spec: StudySpec, digits: Dataset, tmp_path: Path, schedule: str
) -> None:
    one = config("gradual", **{"optimizer.average": 0.9}) if schedule == "averaged" else config(schedule)
    whole, where = study(tmp_path / "whole"), study(tmp_path / "left")
    through = run_trial(one, spec, digits, location=whole)
    # Rungs are after epochs 1, 2 and 4: told after the third epoch, on the way to the last rung.
    before = run_trial(one, spec, digits, location=where, on_report=lambda record: record.rung < 1)
    ends = Trial(one, spec, digits, location=where)
    ends.restore(str(before[-1].checkpoint))
    asked = iter([False, True, True, True])
    with pytest.raises(Left):
        ends.advance(lambda: next(asked))
    where.remove_folder("stages")
    goes_on = Trial(one, spec, digits, location=where)
    goes_on.restore(str(before[-1].checkpoint))
    goes_on.restore_left()
    asked = iter([False, True])
    last = goes_on.advance(lambda: next(asked))
    assert timeless(last) == timeless(through[-1])
    assert bits(where, last.checkpoint) == bits(whole, last.checkpoint)
    assert where.folders("checkpoints/00007") == ["rung-0", "rung-1", "rung-2"]


def test_a_torn_or_outdated_checkpoint_of_a_trial_that_was_told_to_end_counts_as_none(
    spec: StudySpec, digits: Dataset, tmp_path: Path
) -> None:
    one, where = config(), study(tmp_path / "study")
    paths = [str(record.checkpoint) for record in run_trial(one, spec, digits, location=where)]

    def epochs_from(path: str) -> int:
        """How many epochs a trial trains that goes on from a checkpoint to the next rung."""
        trial = Trial(one, spec, digits, location=where)
        trial.restore(path)
        trial.restore_left()
        asked: list[bool] = []
        trial.advance(lambda: bool(asked.append(False)))
        return len(asked)

    asked = iter([False, True, True])
    ends = Trial(one, spec, digits, location=where)
    ends.restore(paths[1])
    with pytest.raises(Left):
        ends.advance(lambda: next(asked))
    assert epochs_from(paths[0]) == 1
    (tmp_path / "study/checkpoints/00007/left/weights.safetensors").write_bytes(b"")
    assert epochs_from(paths[1]) == 2
    where.remove_folder("checkpoints/00007/left")
    with pytest.raises(Left):
        Trial(one, spec, digits, location=where).advance(lambda: True)
    assert "left" not in where.folders("checkpoints/00007")


def test_a_worker_that_is_told_to_end_says_so_and_one_that_takes_too_long_is_ended(
    spec: StudySpec, tmp_path: Path, own_torch: None
) -> None:
    actor = new_actor(spec.to_dict(), config().to_json(), study(tmp_path / "study"))
    # Rungs are after epochs 1, 2 and 4: only on the way to the last there is a place to leave.
    assert [list(actor.step()) for _ in range(2)] == [["record"]] * 2
    step = Training._step

    def told(*arguments: object) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        step(*arguments)

    with mock.patch.object(Training, "_step", told):
        assert actor.step() == {"left": True}
    program = "import time; from sparsevlr.trainables.ray_trainable import time_limit as t\nwith t(0.2): time.sleep(60)"
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=50, check=False)
    assert ended.returncode == 1
    assert "Timeout" in ended.stderr


@pytest.mark.usefixtures("own_torch")
def test_what_ran_and_failed_before_on_the_same_actor_changes_nothing(
    spec: StudySpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, nursery: Nursery
) -> None:
    (tmp_path / "spoiling_networks.py").write_text(OWN_ARCHITECTURE)
    monkeypatch.syspath_prepend(str(tmp_path))
    one = config("one-shot within an epoch")
    alone, used = study(tmp_path / "alone"), study(tmp_path / "used")
    nursery.run(on_actor, spec=spec.to_dict(), config=one.to_json(), folder=str(alone.local))

    other = another(one, "cnn-small")
    actor = new_actor(spec.to_dict(), other.to_json(), used)

    def run(trial: TrialConfig) -> str | None:
        """The error that the first step of a trial ends with."""
        actor.reset_config({"trial": trial.to_json(), "checkpoint": None})
        error: str | None = json.loads(actor.step()["record"])["error"]
        return error

    assert run(other) is None
    assert "Diverged" in str(run(config(trial_id="diverges", **{"optimizer.learning_rate": 1e30})))
    for full in (MemoryError("full"), torch.OutOfMemoryError("full")):
        with mock.patch.object(Training, "_step", autospec=True, side_effect=_failing_at(5, full)):
            assert f"{type(full).__name__}: full" in str(run(config("one-shot within an epoch", trial_id="full")))
    assert "no memory left" in str(run(another(one, "spoiling_networks:spoils_torch")))

    actor.reset_config({"trial": one.to_json(), "checkpoint": None})
    for rung in range(len(spec.rungs)):
        record = json.loads(actor.step()["record"])
        assert record["error"] is None
        path = f"checkpoints/00007/rung-{rung}"
        assert record["checkpoint"] == path
        assert bits(used, path) == bits(alone, path)
        # A pause: another trial takes the actor, and this one comes back with its checkpoint.
        run(other)
        actor.reset_config({"trial": one.to_json(), "checkpoint": path})


@pytest.mark.usefixtures("own_torch")
def test_a_trial_finds_torch_as_in_a_fresh_process_and_leaves_its_random_numbers_alone(
    spec: StudySpec, digits: Dataset, tmp_path: Path
) -> None:
    one = config().to_json()
    actor = new_actor(spec.to_dict(), one, study(tmp_path / "study"))
    torch.set_default_dtype(torch.float64)
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.set_num_threads(3)
    torch.set_grad_enabled(False)
    random_state = torch.get_rng_state()
    actor.reset_config({"trial": one, "checkpoint": None})
    assert torch.get_default_dtype() is torch.float32
    assert torch.are_deterministic_algorithms_enabled()
    assert not torch.is_deterministic_algorithms_warn_only_enabled()
    assert torch.get_num_threads() == 1
    assert torch.is_grad_enabled()
    actor.step()
    assert torch.equal(torch.get_rng_state(), random_state)


def another(one: TrialConfig, architecture: str) -> TrialConfig:
    """The same but for its id, its seed and its architecture."""
    values = {name: value for name, value in one.values.items() if name != "architecture.hidden"}
    return TrialConfig(trial_id="other", seed=1, values=values | {"architecture": architecture})


def _failing_at(call: int, error: BaseException) -> Callable[..., None]:
    """A `Training._step` that raises at its `call`-th call, in the middle of an epoch."""
    step, calls = Training._step, iter(range(1, call + 1))

    def fail(*arguments: object) -> None:
        if next(calls) == call:
            raise error
        step(*arguments)

    return fail


def test_a_checkpoint_that_is_a_link_out_of_its_study_is_not_opened(
    spec: StudySpec, digits: Dataset, tmp_path: Path
) -> None:
    elsewhere, here = study(tmp_path / "elsewhere"), study(tmp_path / "here")
    path = run_trial(config(), spec, digits, location=elsewhere)[0].checkpoint or ""
    linked = tmp_path / "here" / path
    linked.parent.mkdir(parents=True)
    linked.symlink_to(tmp_path / "elsewhere" / path)
    with pytest.raises(UnsafePath, match="symbolic link"):
        Trial(config(), spec, digits, location=here).restore(path)
