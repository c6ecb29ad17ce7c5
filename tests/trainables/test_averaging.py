"""Averaged weights: their values, their zeros, and that a trial with them resumes bit for bit."""

from pathlib import Path

import pytest
import torch
from torch import nn

from sparsevlr.spaces import StudySpec
from sparsevlr.spaces.datasets import Dataset
from sparsevlr.trainables import Trial, run_trial
from sparsevlr.trainables.averaging import Average
from sparsevlr.trainables.checkpoint import Checkpoint
from sparsevlr.trainables.mask import Mask, prunable_weights

from .trials import bits, config, study, timeless

CASES = {
    "drop-and-grow": {"optimizer": "radam", "optimizer.schedule": "cosine", "loss": "sabr", "loss.attack_steps": 2},
    "iterative": {"optimizer": "adamw", "optimizer.l1": 1e-5, "regulariser": "shi"},
    "one-shot between epochs": {},
    "hydra": {},
}
DECAY = {"optimizer.average": 0.9}


def test_the_average_by_hand() -> None:
    network = nn.Sequential(nn.Linear(1, 2, bias=False), nn.BatchNorm1d(2))
    network[0].weight.data = torch.tensor([[8.0], [4.0]])
    average = Average(network, 0.75)
    network[0].weight.data = torch.tensor([[0.0], [8.0]])
    network[1].running_mean.fill_(1.0)
    network[1].num_batches_tracked.fill_(3)
    average.update_(Mask.dense(network))
    assert average.state["0.weight"].flatten().tolist() == [6.0, 5.0]
    assert average.state["1.running_mean"].tolist() == [0.25, 0.25]
    assert average.state["1.num_batches_tracked"].item() == 3
    average.update_(Mask({"0.weight": torch.tensor([[False], [True]])}))
    assert average.state["0.weight"].flatten().tolist() == [0.0, 5.75]
    with average.in_place():
        assert network[0].weight.flatten().tolist() == [0.0, 5.75]
    assert network[0].weight.flatten().tolist() == [0.0, 8.0]
    average.restart_()
    assert average.state["0.weight"].flatten().tolist() == [0.0, 8.0]


@pytest.mark.parametrize("schedule", CASES)
def test_a_trial_with_averaged_weights_resumes_bit_for_bit(
    spec: StudySpec, digits: Dataset, tmp_path: Path, schedule: str
) -> None:
    one = config(schedule, **CASES[schedule], **DECAY)
    whole, cut = study(tmp_path / "whole"), study(tmp_path / "cut")
    through = run_trial(one, spec, digits, location=whole)
    path, records = None, []
    for _ in spec.rungs:
        trial = Trial(one, spec, digits, location=cut)
        if path is not None:
            trial.restore(path)
        records.append(trial.advance())
        path = records[-1].checkpoint
    assert [timeless(record) for record in records] == [timeless(record) for record in through]
    assert path is not None
    assert through[-1].checkpoint is not None
    assert bits(cut, path) == bits(whole, through[-1].checkpoint)


@pytest.mark.parametrize("schedule", ["drop-and-grow", "one-shot between epochs"])
def test_what_is_scored_and_kept_is_the_average_with_its_zeros(
    spec: StudySpec, digits: Dataset, tmp_path: Path, schedule: str
) -> None:
    ends = {}
    for name, options in {"plain": {}, "averaged": DECAY}.items():
        location = study(tmp_path / name)
        records = run_trial(config(schedule, **CASES[schedule], **options), spec, digits, location=location)
        for record in records:
            assert record.checkpoint is not None
            saved = Checkpoint.load(location, record.checkpoint)
            trains = {key: saved.optimizer.get(f"iterate/{key}") for key in saved.mask}
            assert all(
                (weight is not None) == bool(name == "averaged" and saved.optimizer) for weight in trains.values()
            )
            for key, kept in saved.mask.items():
                for weight in (saved.weights[key], trains[key]):
                    assert weight is None or not weight[~kept].any()
            # A grown weight may never have had a gradient, and so be zero though it is kept.
            assert record.sparsity >= saved.mask.sparsity - 1e-9
        ends[name] = saved
    # Both trained alike, so that the average is close to the weights without being them.
    for key in prunable_weights(Trial(config(schedule), spec, digits)._training.network):
        plain, averaged = (ends[name].weights[key] for name in ("plain", "averaged"))
        assert torch.equal(ends["plain"].mask[key], ends["averaged"].mask[key])
        assert 0 < (plain - averaged).norm() < 0.5 * plain.norm()


def test_the_average_begins_anew_with_every_round(
    spec: StudySpec, digits: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    distances: list[float] = []
    restart, update = Average.restart_, Average.update_

    def watched(average: Average) -> None:
        restart(average)
        distances.append(0.0)

    def far(average: Average, mask: Mask) -> None:
        update(average, mask)
        now = average._network.state_dict()
        distances.append(float((average.state["1.weight"] - now["1.weight"]).abs().max()))

    monkeypatch.setattr(Average, "restart_", watched)
    monkeypatch.setattr(Average, "update_", far)
    run_trial(config("iterative", **DECAY), spec, digits)
    # Once when it is made, once before the first step, and at the rewinds that end two of the three rounds.
    assert distances.count(0.0) == 4
    assert distances[:2] == [0.0, 0.0]


def test_what_is_averaged_after_learned_scores_is_what_is_trained_then(
    spec: StudySpec, digits: Dataset, tmp_path: Path
) -> None:
    # Slow enough for a weight that was pruned for a moment to show.
    location = study(tmp_path / "study")
    one = config("hydra", **{"score.learning_rate": 0.05, "optimizer.average": 0.9999})
    path = run_trial(one, spec, digits, location=location)[-1].checkpoint
    assert path is not None
    last = Checkpoint.load(location, path)
    for name, kept in last.mask.items():
        sizes = last.weights[name][kept].abs()
        # What magnitude or learned scores keep is not small; a trace of what it should be would be.
        assert bool((sizes > 0.02 * sizes.max()).float().mean() > 0.9)
