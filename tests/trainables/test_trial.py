"""A whole trial without Ray: scores that agree with each other, and runs that agree bit by bit."""

import json
import re
from pathlib import Path

import pytest
import torch
from torch import nn

from sparsevlr.search.scores import at_target
from sparsevlr.spaces import StudySpec, TrialConfig
from sparsevlr.spaces.datasets import Dataset
from sparsevlr.trainables import Diverged, Trial, run_trial
from sparsevlr.trainables.bounds import NORMS, Norm
from sparsevlr.trainables.checkpoint import Checkpoint
from sparsevlr.trainables.compaction import Compaction, compact
from sparsevlr.trainables.errors import CheckpointError
from sparsevlr.trainables.pruning import kept_weights
from sparsevlr.trainables.verification.crown import Crown

from .trials import config, study, timeless


def test_reports_every_rung_and_every_column(spec: StudySpec, digits: Dataset, tmp_path: Path) -> None:
    records = run_trial(config(), spec, digits, location=study(tmp_path / "study"))
    assert [record.epoch for record in records] == list(spec.rungs) == [1, 2, 4]
    for record in records:
        empty = {name for name, value in record.to_dict().items() if value is None}
        empty -= {"error", "parent", "decision", "dense_stage"}
        # Attacks come at the end of training only.
        assert empty == (set() if record.epoch == spec.epochs else {"adversarial_accuracy"})
        assert record.n_verified + record.n_falsified + record.n_unknown == record.samples == 60
        assert record.verified_accuracy <= record.natural_accuracy
        assert record.verified_low <= record.verified_accuracy <= record.verified_high
        assert record.verified_accuracy == record.n_verified / record.samples
        assert record.sparsity == 1 - record.nonzero_weights / record.total_weights
    last = records[-1]
    assert last.verified_accuracy <= last.adversarial_accuracy <= last.natural_accuracy
    assert last.total_weights == 64 * 24 + 24 * 24 + 24 * 10
    assert last.nonzero_weights == kept_weights(last.total_weights, 0.9) >= last.macs
    assert last.other_parameters == 24 + 24 + 10
    assert last.dense_bytes <= 4 * (last.total_weights + last.other_parameters)
    assert last.size_bytes == last.bitmask_bytes < last.csr_bytes < last.dense_bytes / 3
    sizes = {"1": 64 * 24, "3": 24 * 24, "5": 24 * 10}
    densities = json.loads(last.layer_densities)
    assert densities.keys() == sizes.keys()
    assert round(sum(densities[name] * size for name, size in sizes.items())) == last.nonzero_weights


def test_what_is_verified_is_the_compacted_network(
    spec: StudySpec, digits: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    sparse = config(sparsity=0.95)
    records = run_trial(sparse, spec, digits)
    layers: list[list[int]] = []

    def whole(network: nn.Sequential, shape: tuple[int, ...]) -> Compaction:
        found = compact(network, shape)
        layers.append([layer.after for layer in found.layers])
        return Compaction(found.network, ())

    monkeypatch.setattr("sparsevlr.trainables.trial.compact", whole)
    uncompacted = run_trial(sparse, spec, digits)
    assert layers[-1] < [24, 24, 10]
    assert uncompacted[-1].macs == uncompacted[-1].nonzero_weights > records[-1].macs
    assert uncompacted[-1].size_bytes > records[-1].size_bytes
    # Measures by layer name the units that are left.
    of_deployed = {"macs", "size_bytes", "dense_bytes", "bitmask_bytes", "csr_bytes", "layer_measures"}
    for record, other in zip(records, uncompacted, strict=True):
        assert timeless(record).items() - timeless(other).items() == {
            (name, getattr(record, name)) for name in of_deployed if getattr(record, name) != getattr(other, name)
        }


@pytest.mark.parametrize("architecture", ["cnn-small", "resnet-small"])
def test_pruned_weights_stay_zero_and_the_target_is_met(
    spec: StudySpec, digits: Dataset, tmp_path: Path, architecture: str
) -> None:
    values = {"architecture": architecture, "architecture.width": 0.25}
    plain = {name: value for name, value in config().values.items() if not name.startswith("architecture")}
    location = study(tmp_path / "study")
    records = run_trial(TrialConfig(trial_id="1", seed=0, values=plain | values), spec, digits, location=location)
    checkpoint = Checkpoint.load(location, records[-1].checkpoint)
    assert checkpoint.mask.kept == kept_weights(checkpoint.mask.total, 0.9)
    for name, kept in checkpoint.mask.items():
        assert bool((checkpoint.weights[name][~kept] == 0).all())


@pytest.mark.parametrize("pattern", ["n-m", "block", "filter"])
@pytest.mark.parametrize(
    ("score", "distribution"),
    [("magnitude", "global"), ("snip", "erk"), ("stability", "layered"), ("taylor", "uniform")],
)
def test_every_pattern_survives_training(
    spec: StudySpec, digits: Dataset, tmp_path: Path, pattern: str, score: str, distribution: str
) -> None:
    location = study(tmp_path / "study")
    values = {"pattern": pattern, "score": score, "distribution": distribution, "sparsity": 0.8}
    last = run_trial(config(**values), spec, digits, location=location)[-1]
    assert at_target(last)
    assert 0.8 - 1 / last.total_weights <= last.sparsity < 0.85
    mask = Checkpoint.load(location, last.checkpoint).mask
    assert mask.kept == last.nonzero_weights
    if pattern == "filter":
        assert last.nonzero_weights == sum(int(kept.any(1).sum()) * int(kept.any(0).sum()) for kept in mask.values())


@pytest.mark.parametrize("norm", NORMS)
def test_a_scale_of_epsilon_goes_through_training_scoring_and_verification_alike(
    spec: StudySpec, digits: Dataset, norm: Norm
) -> None:
    """Halving all scales and doubling epsilon is exact in floats, and so the same study."""
    stages = {"verification": spec.verification.model_dump() | {"rung_stages": ("ibp", "pgd", "crown-ibp", "crown")}}
    plain = StudySpec.from_dict(spec.to_dict() | stages | {"norm": norm})
    halved = StudySpec.from_dict(plain.to_dict() | {"epsilon": 2 * plain.epsilon, "epsilon_scale": [[[0.5]]]})
    changes = {"loss": "mtl-ibp", "loss.attack_epsilon": 2.0, "loss.alpha": 0.5}
    first, second = (
        [timeless(record) for record in run_trial(config(**changes), one, digits)] for one in (plain, halved)
    )
    for one, other in zip(first, second, strict=True):
        assert one.items() - other.items() == {(name, one[name]) for name in ("epsilon", "fingerprint")}


def test_the_same_seed_gives_the_same_records_and_another_does_not(spec: StudySpec, digits: Dataset) -> None:
    first, second = (list(map(timeless, run_trial(config(), spec, digits))) for _ in range(2))
    assert first == second
    other = TrialConfig(trial_id="00007", seed=12, values=config().values)
    assert list(map(timeless, run_trial(other, spec, digits))) != first


def test_what_ran_before_in_the_same_process_changes_nothing(spec: StudySpec, digits: Dataset) -> None:
    alone = list(map(timeless, run_trial(config(), spec, digits)))
    torch.manual_seed(999)
    run_trial(config(**{"architecture.hidden": [7]}), spec, digits, on_report=lambda record: False)
    assert list(map(timeless, run_trial(config(), spec, digits))) == alone


def test_a_diverging_trial_says_so(spec: StudySpec, digits: Dataset) -> None:
    with pytest.raises(Diverged, match=r"epoch \d+ at epsilon .*learning_rate"):
        run_trial(config(**{"optimizer.learning_rate": 1e30}), spec, digits)


def test_a_network_that_went_astray_in_the_very_last_step_is_no_result(spec: StudySpec, digits: Dataset) -> None:
    one_step = StudySpec.from_dict(spec.to_dict() | {"epochs": 1, "batch_size": 1079, "scheduler": {"kind": "none"}})
    with pytest.raises(Diverged, match="logits are not finite after epoch 1"):
        run_trial(config(**{"optimizer.learning_rate": 1e37}), one_step, digits)


def test_a_verifier_that_fails_leaves_a_trace(
    spec: StudySpec, digits: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*arguments: object) -> None:
        raise RuntimeError("out of luck")

    monkeypatch.setattr(Crown, "margins", fails)
    thorough = spec.to_dict()
    thorough["verification"] |= {"rung_stages": ["ibp", "crown"]}
    record = run_trial(config(), StudySpec.from_dict(thorough), digits, on_report=lambda record: False)[0]
    assert record.error is not None
    assert re.fullmatch(r"\d+ samples unknown: crown: RuntimeError: out of luck", record.error)


def test_without_an_attack_there_is_no_adversarial_accuracy(spec: StudySpec, digits: Dataset) -> None:
    quiet = spec.to_dict()
    quiet["verification"] |= {"stages": ["ibp"]}
    record = run_trial(config(), StudySpec.from_dict(quiet), digits, on_report=lambda record: False)[0]
    assert record.adversarial_accuracy is None
    assert record.n_unknown > 0


def test_a_checkpoint_of_another_configuration_or_a_damaged_one_is_refused(
    spec: StudySpec, digits: Dataset, tmp_path: Path
) -> None:
    location = study(tmp_path / "study")
    path = run_trial(config(), spec, digits, location=location, on_report=lambda record: False)[0].checkpoint
    other = Trial(config(sparsity=0.5), spec, digits, location=location)
    with pytest.raises(CheckpointError, match="configuration"):
        other.restore(path)
    weights = tmp_path / "study" / path / "weights.safetensors"
    content = weights.read_bytes()
    for damaged in (content[:-1], content[:-1] + bytes([content[-1] ^ 1]), b""):
        weights.write_bytes(damaged)
        with pytest.raises(CheckpointError, match="not the file that was written"):
            Trial(config(), spec, digits, location=location).restore(path)
    weights.unlink()
    with pytest.raises(CheckpointError, match="cannot be read"):
        Trial(config(), spec, digits, location=location).restore(path)


def test_what_pruning_has_to_remember_is_a_file_as_long_as_it_is_needed(
    spec: StudySpec, digits: Dataset, tmp_path: Path
) -> None:
    location = study(tmp_path / "study")
    paths = [str(record.checkpoint) for record in run_trial(config("hydra"), spec, digits, location=location)]
    # Scores are learned from 0.2 to 0.7 of training, rungs are at 0.25, 0.5 and 1.
    files = [tmp_path / "study" / path / "pruner.safetensors" for path in paths]
    assert [file.exists() for file in files] == [True, True, False]
    content = files[0].read_bytes()
    for damaged in (content[:-1], b"", None):
        if damaged is None:
            files[0].unlink()
        else:
            files[0].write_bytes(damaged)
        with pytest.raises(CheckpointError, match=r"not the file that was written|cannot be read"):
            Checkpoint.load(location, paths[0])
    # A checkpoint from before there was such a file, or one that needs none.
    assert Checkpoint.load(location, paths[2]).pruner == {}


def test_the_test_split_is_scored_on_demand_only(spec: StudySpec, digits: Dataset) -> None:
    trial = Trial(config(), spec, digits)
    while not trial.finished:
        assert trial.advance().split == "validation"
    record = trial.score_on_test()
    assert (record.split, record.samples, record.rung) == ("test", 40, 2)
