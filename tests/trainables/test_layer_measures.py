"""Measures by layer: against other ways to compute them, and without a trace in the network."""

import copy
import json
from pathlib import Path

import pytest
import torch
from torch import nn

from sparsevlr.spaces import StudySpec, TrialConfig
from sparsevlr.spaces.architectures.layers import Residual
from sparsevlr.spaces.datasets import Dataset
from sparsevlr.trainables import Mask, Trial, run_trial
from sparsevlr.trainables.bounds import input_box, relu_states, trace
from sparsevlr.trainables.certified_training import Batch
from sparsevlr.trainables.certified_training.ibp import IBP
from sparsevlr.trainables.compaction import compact
from sparsevlr.trainables.layer_measures import LayerMeasures, layer_measures

from .trials import config, study, timeless

SHAPE = (2, 6, 6)


def network_and_mask() -> tuple[nn.Sequential, Mask]:
    torch.manual_seed(0)
    shared = nn.ReLU()
    body = nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4), shared)
    network = nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1), shared, Residual(body, nn.Identity()), nn.Flatten(), nn.Linear(144, 3)
    )
    mask = Mask({name: torch.rand_like(network.state_dict()[name]) < 0.4 for name in Mask.dense(network)})
    mask.apply_(network)
    return network, mask


def measured(network: nn.Sequential, mask: Mask, epsilon: float = 0.1) -> LayerMeasures:
    graph = trace(network, SHAPE)
    x, y = torch.rand(9, *SHAPE, generator=torch.Generator().manual_seed(1)), torch.arange(9) % 3
    box = input_box(x, epsilon, 0, 1)
    network.eval()
    return layer_measures(
        graph,
        mask,
        states=relu_states(graph, box),
        units=compact(network, SHAPE).layers,
        region=box.pick(slice(4)),
        loss=IBP(),
        batch=Batch(x, y, box, ramp=1.0),
    )


def test_gradient_norms_are_those_of_a_training_step() -> None:
    network, mask = network_and_mask()
    found = measured(network, mask)
    twin = copy.deepcopy(network).train()
    x, y = torch.rand(9, *SHAPE, generator=torch.Generator().manual_seed(1)), torch.arange(9) % 3
    IBP().loss(trace(twin, SHAPE), Batch(x, y, input_box(x, 0.1, 0, 1), ramp=1.0)).backward()
    assert list(found) == ["0", "1", "2.body.0", "4"]
    for layer, weight in (("0", twin[0].weight), ("2.body.0", twin[2].body[0].weight), ("4", twin[4].weight)):
        kept = mask[f"{layer}.weight"]
        assert found[layer]["gradient_norm"] == pytest.approx(float(weight.grad[kept].norm()))
        assert found[layer]["pruned_gradient_norm"] == pytest.approx(float(weight.grad[~kept].norm()))


def test_a_relu_at_two_places_counts_over_both() -> None:
    network, mask = network_and_mask()
    found = measured(network, mask)["1"]
    graph = trace(network.eval(), SHAPE)
    x = torch.rand(9, *SHAPE, generator=torch.Generator().manual_seed(1))
    first, second = relu_states(graph, input_box(x, 0.1, 0, 1)).values()
    assert (first.neurons, second.neurons) == (144, 144)
    assert found["unstable_relu_fraction"] == (first.unstable + second.unstable) / (2 * 9 * 144)
    assert found["dead_relu_fraction"] == (first.dead + second.dead) / 288
    assert 0 < found["bound_tightness"] < 1


def test_a_layer_at_two_places_counts_over_both_and_may_be_frozen() -> None:
    shared = nn.Linear(6, 6)
    shared.weight.requires_grad_(False)
    network = nn.Sequential(nn.Flatten(), nn.Linear(72, 6), nn.ReLU(), shared, nn.ReLU(), shared, nn.Linear(6, 3))
    kept = {name: torch.ones_like(weight, dtype=torch.bool) for name, weight in Mask.dense(network).items()}
    kept["6.weight"][:, 2:] = False  # so that two of six are read behind the second place, all behind the first
    mask = Mask(kept)
    mask.apply_(network)
    found = measured(network, mask)
    assert list(found) == ["1", "2", "3", "4", "6"]
    assert found["3"]["live_units"] == 8 / 12
    assert found["3"]["gradient_norm"] > 0
    assert not shared.weight.requires_grad


def test_units_that_nothing_reads_are_not_live() -> None:
    network = nn.Sequential(nn.Conv2d(2, 4, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(144, 3))
    kept = {name: torch.ones_like(weight, dtype=torch.bool) for name, weight in Mask.dense(network).items()}
    kept["3.weight"][:, 36:] = False  # all but the first of four channels
    mask = Mask(kept)
    mask.apply_(network)
    found = measured(network, mask)
    assert {name: measures.get("live_units") for name, measures in found.items()} == {"0": 0.25, "1": None, "3": 1.0}


def test_nothing_moves() -> None:
    network, mask = network_and_mask()
    network.train()
    network[1].eval()
    modes = [module.training for module in network.modules()]
    state, random = copy.deepcopy(network.state_dict()), torch.get_rng_state()
    graph = trace(network, SHAPE)
    x, y = torch.rand(9, *SHAPE, generator=torch.Generator().manual_seed(1)), torch.arange(9) % 3
    box = input_box(x, 0.1, 0, 1)
    layer_measures(
        graph,
        mask,
        states=relu_states(graph, box),
        units=(),
        region=box,
        loss=IBP(),
        batch=Batch(x, y, box, ramp=1.0),
    )
    assert [module.training for module in network.modules()] == modes
    assert all(torch.equal(value, state[name]) for name, value in network.state_dict().items())
    assert all(parameter.grad is None for parameter in network.parameters())
    assert torch.equal(torch.get_rng_state(), random)


def test_what_has_no_value_is_none_and_the_rest_is_json() -> None:
    network, mask = network_and_mask()
    assert measured(network, mask, epsilon=0.0)["1"]["bound_tightness"] is None
    with torch.no_grad():
        network[0].weight[0] = 1e38
    found = measured(network, mask)
    assert found["0"]["gradient_norm"] is None
    json.dumps(found, allow_nan=False)


@pytest.mark.parametrize("schedule", ["drop-and-grow", "hydra"])
def test_measuring_changes_nothing_else(
    spec: StudySpec, digits: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, schedule: str
) -> None:
    values = {name: value for name, value in config(schedule).values.items() if name != "architecture.hidden"}
    one = TrialConfig(
        trial_id="1", seed=3, values=values | {"architecture": "resnet-small", "architecture.width": 0.25}
    )
    with_measures, without = study(tmp_path / "with"), study(tmp_path / "without")
    records = run_trial(one, spec, digits, location=with_measures)
    monkeypatch.setattr("sparsevlr.trainables.trial.layer_measures", lambda *_, **__: {})
    others = run_trial(one, spec, digits, location=without)
    for record, other in zip(records, others, strict=True):
        assert json.loads(record.layer_measures).keys() > json.loads(record.layer_densities).keys()
        assert other.layer_measures == "{}"
        assert timeless(record) | {"layer_measures": "{}"} == timeless(other)
        for name in ("weights", "mask", *(["optimizer"] if record is not records[-1] else [])):
            file = f"{record.checkpoint}/{name}.safetensors"
            assert with_measures.read(file) == without.read(file)


def test_the_test_split_is_not_measured_by_layer(spec: StudySpec, digits: Dataset) -> None:
    trial = Trial(config(), spec, digits)
    while not trial.finished:
        assert trial.advance().layer_measures is not None
    assert trial.score_on_test().layer_measures is None


def test_the_dense_stage_is_named_by_those_that_have_one(spec: StudySpec, digits: Dataset) -> None:
    def stage(schedule: str, **values: object) -> str | None:
        (record,) = run_trial(config(schedule, **values), spec, digits, on_report=lambda record: False)
        return record.dense_stage

    assert stage("gradual") is None
    assert stage("one-shot between epochs") == stage("dense") == stage("one-shot between epochs", sparsity=0.5)
    assert stage("dense") != stage("dense", **{"optimizer.learning_rate": 0.001})
