"""A trial that resumes is the trial that never stopped, bit for bit, whatever ran before it on the same worker."""

import json
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from unittest import mock

import pytest
import torch

from sparsevlr.results import UnsafePath
from sparsevlr.spaces import StudySpec, TrialConfig
from sparsevlr.spaces.datasets import Dataset
from sparsevlr.trainables import Trial, run_trial
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
