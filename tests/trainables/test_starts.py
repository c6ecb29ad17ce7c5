"""Trials that begin from what another one has come to."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from sparsevlr.results.location import Location, locate
from sparsevlr.spaces import SpecError, StudySpec, TrialConfig
from sparsevlr.spaces.datasets import Dataset
from sparsevlr.trainables import Trial, TrialError, run_trial
from sparsevlr.trainables.checkpoint import Checkpoint
from sparsevlr.trainables.dense_stage import DenseStage
from sparsevlr.trainables.methods import Methods, fingerprint
from sparsevlr.trainables.pruning import kept_weights

from .trials import bits, changed, config, study, timeless


@pytest.fixture(scope="module")
def family(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("family") / "study"


@pytest.fixture
def parent(family: Path, spec: StudySpec, digits: Dataset) -> tuple[Location, Checkpoint]:
    if not family.exists():
        run_trial(config(sparsity=0.5), spec, digits, location=study(family))
    where = locate(family)
    return where, Checkpoint.load(where, f"checkpoints/00007/rung-{len(spec.rungs) - 1}")


def child(start: str, schedule: str = "gradual", **changes: object) -> TrialConfig:
    one = config(schedule, trial_id="00009", sparsity=0.8)
    return changed(one, {"start": start, "start.parent": "00007"} | changes)


@pytest.mark.parametrize("start", ["parent-mask", "parent-weights"])
@pytest.mark.parametrize("schedule", ["gradual", "at-init", "drop-and-grow"])
def test_a_child_prunes_on_within_its_parents_mask_and_resumes_bit_identically(
    spec: StudySpec,
    digits: Dataset,
    parent: tuple[Location, Checkpoint],
    start: str,
    schedule: str,
) -> None:
    where, source = parent
    one = child(start, schedule)
    through = run_trial(one, spec, digits, location=where)
    end = Checkpoint.load(where, through[-1].checkpoint or "")
    assert end.mask.kept == kept_weights(end.mask.total, 0.8)
    if schedule != "drop-and-grow":
        assert all(bool((end.mask[name] <= source.mask[name]).all()) for name in end.mask)
    digests = bits(where, through[-1].checkpoint)
    # Cut after the first rung, by a trial object that knows nothing of the first.
    again = Trial(one, spec, digits, location=where)
    again.restore(through[0].checkpoint or "")
    rest = []
    while not again.finished:
        rest.append(again.advance())
    assert [timeless(record) for record in rest] == [timeless(record) for record in through[1:]]
    assert bits(where, rest[-1].checkpoint) == digests


def test_what_the_parent_has_pruned_is_not_filled_up_again(
    spec: StudySpec, digits: Dataset, parent: tuple[Location, Checkpoint]
) -> None:
    where, _ = parent
    # Half of the target would be less than what the parent has pruned.
    one = child("parent-mask", "drop-and-grow", **{"sparsity": 0.6, "schedule.initial": 0.5, "schedule.end": 1.0})
    records = run_trial(one, spec, digits, location=where)
    sparsities = [record.sparsity for record in records]
    assert all(sparsity is not None and sparsity >= 0.5 for sparsity in sparsities)
    assert sparsities[0] < sparsities[-1] == pytest.approx(0.6, abs=1e-3)
    digests = bits(where, records[-1].checkpoint)
    again = Trial(one, spec, digits, location=where)
    again.restore(records[0].checkpoint or "")
    while not again.finished:
        last = again.advance()
    assert bits(where, last.checkpoint) == digests


@pytest.mark.parametrize("distribution", ["global", "uniform"])
def test_scores_are_learned_for_what_the_parent_has_left(
    spec: StudySpec, digits: Dataset, parent: tuple[Location, Checkpoint], distribution: str
) -> None:
    where, source = parent
    # Layer by layer the parent's mask is short of what some distributions give.
    options = {"distribution": distribution, "sparsity": 0.55}
    end = run_trial(child("parent-weights", "hydra", **options), spec, digits, location=where)[-1]
    mask = Checkpoint.load(where, end.checkpoint or "").mask
    assert mask.kept == kept_weights(mask.total, 0.55)
    assert all(bool((mask[name] <= source.mask[name]).all()) for name in mask)


def test_weights_that_a_parent_has_kept_at_zero_count_as_kept(
    spec: StudySpec, digits: Dataset, parent: tuple[Location, Checkpoint]
) -> None:
    where, source = parent
    zeroed = {name: value.clone() for name, value in source.weights.items()}
    zeroed["1.weight"][source.mask["1.weight"].nonzero()[0, 0]] = 0.0
    one = child("parent-weights", "hydra", sparsity=0.5)
    trial = Trial(one, spec, digits, location=where)
    trial._training.begin_from(replace(source, weights=zeroed))
    trial._training.train_until(2)
    assert trial._training._sparsification.learning
    assert trial._training.mask.kept == source.mask.kept
    again = Trial(one, spec, digits, location=where)
    again._training.restore(trial._training.checkpoint("key", 0.0), "key")
    again._training.train_until(3)
    assert again._training.mask.kept == source.mask.kept


def test_rounds_go_back_to_the_weights_that_were_drawn_for_the_mask(
    spec: StudySpec, digits: Dataset, parent: tuple[Location, Checkpoint]
) -> None:
    _, source = parent
    one = child("parent-mask", "iterative", **{"initialisation.masked_fan_in": True})
    training = Trial(one, spec, digits)._training
    training.begin_from(source)
    training._sparsification.before_step(0, 0.0)
    snapshot = {name.partition("/")[2]: value for name, value in training._sparsification.tensors().items()}
    for name, value in training.network.state_dict().items():
        assert torch.equal(snapshot[name], value), name


def test_a_child_has_no_dense_stage(spec: StudySpec, digits: Dataset) -> None:
    fresh = config("one-shot between epochs", sparsity=0.8)
    assert DenseStage.of(fresh, spec, len(digits.train.y)).epochs == 2
    assert DenseStage.of(child("parent-mask", "one-shot between epochs"), spec, len(digits.train.y)).epochs == 0


def test_weights_are_taken_over_only_where_they_are_asked_for(
    spec: StudySpec, digits: Dataset, parent: tuple[Location, Checkpoint]
) -> None:
    _, source = parent
    for start, same in (("parent-mask", False), ("parent-weights", True)):
        trial = Trial(child(start), spec, digits)
        trial._training.begin_from(source)
        weights = trial._training.network.state_dict()
        assert torch.equal(weights["1.weight"], source.weights["1.weight"]) == same
        assert bool((weights["1.weight"][~source.mask["1.weight"]] == 0).all())
        assert trial._training.mask.kept == source.mask.kept


@pytest.mark.parametrize("schedule", ["gradual", "at-init"])
def test_fresh_weights_are_drawn_by_the_mask_and_those_of_a_parent_never(
    spec: StudySpec, digits: Dataset, parent: tuple[Location, Checkpoint], schedule: str
) -> None:
    _, source = parent
    for start, found in (("parent-mask", True), ("parent-weights", True), ("parent-weights", False)):
        sizes = []
        for masked in (False, True):
            one = child(start, schedule, **{"initialisation.masked_fan_in": masked})
            if not found:
                one = replace(one, values={name: one.values[name] for name in one.values if name != "start.parent"})
            trial = Trial(one, spec, digits)
            if found:
                trial._training.begin_from(source)
            trial._training.train_until(0)
            kept = trial._training.mask["1.weight"]
            sizes.append(trial._training.network.state_dict()["1.weight"][kept].std().item())
        # Half the inputs or fewer are left: twice the deviation or more; without a parent only where all is pruned now.
        by_mask = start == "parent-mask" or (not found and schedule == "at-init")
        assert sizes[1] > 1.5 * sizes[0] if by_mask else sizes[1] == sizes[0]


def test_a_parent_that_cannot_be_one_fails_the_trial(
    spec: StudySpec, digits: Dataset, parent: tuple[Location, Checkpoint]
) -> None:
    where, _ = parent
    other = child("parent-mask", **{"architecture.hidden": [12, 24]})
    with pytest.raises(TrialError, match="trial 00007 cannot be the parent"):
        Trial(other, spec, digits, location=where).advance()
    with pytest.raises(TrialError, match="no study to find it in"):
        Trial(child("parent-mask"), spec, digits).advance()
    with pytest.raises(TrialError, match="cannot be read"):
        Trial(child("parent-mask", **{"start.parent": "00001"}), spec, digits, location=where).advance()


def test_a_start_counts_in_the_fingerprint_and_a_fresh_one_leaves_none(spec: StudySpec) -> None:
    fresh = config(sparsity=0.8)
    assert fingerprint(changed(fresh, {"start": "fresh"}), spec) == fingerprint(fresh, spec)
    assert fingerprint(child("parent-mask"), spec) != fingerprint(child("parent-weights"), spec)
    assert fingerprint(child("parent-mask"), spec) != fingerprint(
        child("parent-mask", **{"start.parent": "00001"}), spec
    )
    with pytest.raises(SpecError, match="must be left out of a fresh start"):
        Methods.of(changed(fresh, {"start.parent": "00001"}))
