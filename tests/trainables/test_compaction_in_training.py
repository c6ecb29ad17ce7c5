"""The smaller network in training: what goes by the mask alone, the same gradient, and back without losing a bit."""

import copy
from dataclasses import fields
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sparsevlr.spaces import StudySpec
from sparsevlr.spaces.architectures import ARCHITECTURES, Residual, build_architecture
from sparsevlr.spaces.datasets import Dataset
from sparsevlr.trainables import Methods
from sparsevlr.trainables.bounds import Box, Graph, input_box, trace
from sparsevlr.trainables.certified_training import IBP, Batch
from sparsevlr.trainables.compaction import InTraining, Trained, in_training
from sparsevlr.trainables.compaction.by_mask import plan_by_mask
from sparsevlr.trainables.dense_stage import DenseStage
from sparsevlr.trainables.mask import Mask, prunable_weights
from sparsevlr.trainables.optimizers import Adam, optimizer_tensors
from sparsevlr.trainables.pruning import DISTRIBUTIONS, PATTERNS, SCORES, Candidates, prune
from sparsevlr.trainables.training import Training

from .trials import SCHEDULES, config

SHAPE, CLASSES, EXACT = (1, 8, 8), 4, 1e-9
BATCHNORM = {name for name, kind in ARCHITECTURES.items() if "batchnorm" in {field.name for field in fields(kind)}}
CASES = [
    *(
        pytest.param(name, batchnorm, SHAPE, id=f"{name}{', batchnorm' if batchnorm else ''}")
        for name in ARCHITECTURES
        for batchnorm in ((False, True) if name in BATCHNORM else (False,))
    ),
    *(pytest.param(name, name in BATCHNORM, (2, 24), id=f"{name}, series") for name in ("mlp", "cnn1d", "cnn-small")),
    pytest.param("mlp", False, (10,), id="mlp, vector"),
]


@pytest.fixture
def any_gain(monkeypatch: pytest.MonkeyPatch) -> None:
    """However little the smaller network saves, it is trained."""
    monkeypatch.setattr(in_training, "WORTHWHILE", 1.0)


def whole(network: nn.Sequential, shape: tuple[int, ...], mask: Mask | None = None) -> Trained:
    """In float64 and training mode, biases and normalisation random; the mask by default keeps what is not zero."""
    network.double().train()
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
                module.weight.uniform_(0.5, 1.5)
                module.running_mean.normal_(0, 0.3)
                module.running_var.uniform_(0.3, 2)
            if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d | nn.Linear | nn.Conv2d) and module.bias is not None:
                module.bias.normal_(0.1, 0.3)
    mask = mask or Mask({name: weight != 0 for name, weight in prunable_weights(network).items()})
    mask.apply_(network)
    return Trained(trace(network, shape), mask, Adam().build(network.parameters()))


def pruned(name: str, batchnorm: bool, shape: tuple[int, ...], pattern: str, sparsity: float) -> Trained:
    """A random network of an architecture, pruned at random."""
    torch.manual_seed(0)
    options: dict[str, Any] = {"width": 0.25} | ({"batchnorm": batchnorm} if name in BATCHNORM else {})
    network = build_architecture(name, options | ({"hidden": (32, 32)} if name == "mlp" else {}), shape, CLASSES)
    graph = trace(network, shape)
    mask = prune(
        Candidates(graph, torch.Generator().manual_seed(0), IBP(), lambda count, ramp: iter(())),
        Mask.dense(network),
        score=SCORES["random"](),
        distribution=DISTRIBUTIONS["global"](),
        pattern=PATTERNS[pattern](),
        sparsity=min(sparsity, PATTERNS[pattern]().limits(graph)[1]),
    )
    return whole(network, shape, mask)


def batch_of(shape: tuple[int, ...], classes: int, seed: int = 1) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand(12, *shape, generator=generator, dtype=torch.float64)
    y = torch.randint(classes, (12,), generator=generator)
    return Batch(x, y, input_box(x, 0.02, 0, 1), ramp=0.7, boxes={})


def gradients(trained: Trained, batch: Batch) -> tuple[float, dict[str, Tensor], dict[int, Box]]:
    """The loss, its gradient in what the mask keeps, and the boxes that a regulariser would see."""
    network = trained.graph.network
    trained.optimizer.zero_grad(set_to_none=True)
    loss = IBP().loss(trained.graph, batch)
    loss.backward()
    trained.mask.zero_gradients_(network)
    found = {name: parameter.grad.clone() for name, parameter in network.named_parameters()}
    return loss.item(), found, batch.before_relus(trained.graph)


def state_of(trained: Trained) -> dict[str, Tensor]:
    """Copies of weights, statistics, and what the optimizer remembers."""
    network = trained.graph.network
    state = dict(network.state_dict()) | optimizer_tensors(trained.optimizer, dict(network.named_parameters()))
    return {name: value.clone() for name, value in state.items()}


def train(trained: Trained, steps: int) -> None:
    graph = trained.graph
    for step in range(steps):
        gradients(trained, batch_of(graph.nodes[0].shape, graph.last_linear.out_features, seed=step))
        trained.optimizer.step()
        trained.mask.apply_(graph.network)


def outputs(graph: Graph) -> Tensor:
    """Logits in eval mode."""
    x = torch.rand(9, *graph.nodes[0].shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    with torch.no_grad():
        return copy.deepcopy(graph.network).eval()(x)


def equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    """Bit by bit, zeros of either sign told apart."""
    return one.keys() == other.keys() and all(
        torch.equal(value, other[name]) and torch.equal(value.signbit(), other[name].signbit())
        for name, value in one.items()
    )


def left(trained: Trained) -> list[list[int]]:
    """What stays of the outputs of each layer."""
    plan = plan_by_mask(trained.graph, trained.mask)
    nodes = enumerate(trained.graph.nodes)
    return [plan.kept[index].tolist() for index, node in nodes if isinstance(node.layer, nn.Linear | nn.Conv2d)]


@pytest.mark.usefixtures("any_gain")
@pytest.mark.parametrize("sparsity", [0.9, 0.95, 0.99])
@pytest.mark.parametrize("pattern", ["unstructured", "filter"])
@pytest.mark.parametrize(("name", "batchnorm", "shape"), CASES)
def test_what_is_left_has_the_same_loss_and_gradient_and_gives_back_every_bit(
    name: str, batchnorm: bool, shape: tuple[int, ...], pattern: str, sparsity: float
) -> None:
    full = pruned(name, batchnorm, shape, pattern, sparsity)
    train(full, 2)
    loss, gradient, boxes = gradients(full, batch_of(shape, CLASSES))
    state = full.graph.network.state_dict()
    kept = {key: int(state[key].count_nonzero()) for key in full.mask}
    inside = InTraining(full, Adam().build)
    small = inside.trained
    assert (small is not full) == any(bool(gone.any()) for gone in plan_by_mask(full.graph, full.mask).gone)
    assert small is not full or (pattern, sparsity) == ("unstructured", 0.9)

    again, own, own_boxes = gradients(small, batch_of(shape, CLASSES))
    assert again == pytest.approx(loss, rel=EXACT)
    largest = max(float(value.abs().max()) for value in gradient.values())
    for key, value in own.items():
        expected = gradient[key][inside._places[key]] if small is not full else gradient[key]
        assert torch.allclose(value, expected, rtol=EXACT, atol=EXACT * largest)
    for index, rows in enumerate(plan_by_mask(full.graph, full.mask).kept):
        if index in boxes:
            for ours, theirs in zip(own_boxes[index], boxes[index], strict=True):
                assert torch.allclose(ours, theirs[:, rows], rtol=EXACT, atol=EXACT)

    train(small, 3)
    inside.expand_()
    assert torch.allclose(outputs(full.graph), outputs(small.graph), rtol=EXACT, atol=EXACT)
    for key, stays in full.mask.items():
        assert int(state[key].count_nonzero()) == kept[key]
        assert not state[key][~stays].any()

    expanded, smaller = state_of(full), state_of(small)
    anew = InTraining(full, Adam().build)
    assert equal(state_of(full), expanded)
    assert equal(state_of(anew.trained), smaller)
    anew.expand_()
    assert equal(state_of(full), expanded)


def linear(weight: list[list[float]], bias: list[float]) -> nn.Linear:
    layer = nn.Linear(len(weight[0]), len(weight))
    layer.weight.data, layer.bias.data = torch.tensor(weight).float(), torch.tensor(bias).float()
    return layer


def by_hand() -> Trained:
    """Neuron 0 lives, 1 is never read, 2 is constantly relu(3), 3 is constantly relu(-4) = 0."""
    first = linear([[1, 2], [5, 5], [0, 0], [0, 0]], [0.5, 1, 3, -4])
    network = nn.Sequential(first, nn.ReLU(), linear([[1, 0, 2, 7], [-1, 0, 0.5, 7]], [0.25, 0]))
    mask = Mask({name: weight != 0 for name, weight in prunable_weights(network).items()})
    return Trained(trace(network, (2,)), mask, Adam().build(network.parameters()))


def test_a_dead_a_constant_and_a_living_neuron() -> None:
    full = by_hand()
    small = InTraining(full, Adam().build).trained.graph.network
    assert small.training
    assert small[0].weight.tolist() == [[1, 2]]
    assert small[0].bias.tolist() == [0.5]
    assert small[2].weight.tolist() == [[1], [-1]]
    # The whole network has taken up the constant, and keeps every weight that its mask keeps.
    assert small[2].bias.tolist() == full.graph.network[2].bias.tolist() == [0.25 + 2 * 3, 0.5 * 3]
    assert full.graph.network[0].bias.tolist() == [0.5, 0, 0, 0]
    assert full.graph.network[2].weight.tolist() == [[1, 0, 2, 7], [-1, 0, 0.5, 7]]


def test_moments_of_what_is_gone_stay_and_those_of_the_rest_go_both_ways() -> None:
    full = by_hand()
    weight = full.graph.network[0].weight
    full.optimizer.state[weight] = {
        "step": torch.tensor(5.0),
        "exp_avg": torch.arange(8.0).view(4, 2),
        "exp_avg_sq": torch.arange(8.0).view(4, 2) + 10,
    }
    inside = InTraining(full, Adam().build)
    own = inside.trained.optimizer.state[inside.trained.graph.network[0].weight]
    assert {name: value.tolist() for name, value in own.items()} == {
        "step": 5.0,
        "exp_avg": [[0, 1]],
        "exp_avg_sq": [[10, 11]],
    }
    own["exp_avg"] += 100
    own["step"] += 1
    inside.expand_()
    state = full.optimizer.state[weight]
    assert state["step"] == 6
    assert state["exp_avg"].tolist() == [[100, 101], [2, 3], [4, 5], [6, 7]]


def test_a_kept_weight_that_is_zero_at_present_keeps_its_neuron_alive() -> None:
    network = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    mask = Mask.dense(network)
    with torch.no_grad():
        network[0].weight[1] = 0
        network[2].weight[:, 2] = 0
    full = whole(network, (3,), mask)
    assert left(full) == [[0, 1, 2, 3], [0, 1]]
    assert InTraining(full, Adam().build).trained is full


def test_a_network_that_is_hardly_smaller_trains_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    network = nn.Sequential(nn.Linear(9, 20), nn.ReLU(), nn.Linear(20, 2))
    with torch.no_grad():
        network[0].weight[0] = 0
    full = whole(network, (9,))
    before = state_of(full)
    inside = InTraining(full, Adam().build)
    assert inside.trained is full
    inside.expand_()
    assert equal(state_of(full), before)
    # 19 of 20 neurons are left.
    monkeypatch.setattr(in_training, "WORTHWHILE", 0.951)
    assert InTraining(full, Adam().build).trained is not full


@pytest.mark.parametrize(("padding", "goes"), [(0, True), (1, False)])
def test_a_constant_channel_stays_where_padding_would_show(padding: int, goes: bool) -> None:
    reader = nn.Conv2d(2, 2, 3, padding=padding)
    network = nn.Sequential(
        nn.Conv2d(1, 2, 1), nn.ReLU(), reader, nn.ReLU(), nn.Flatten(), nn.Linear(2 * (2 + 2 * padding) ** 2, 2)
    )
    with torch.no_grad():
        network[0].weight[0] = 0
        # What reads nothing but the constant is one itself, but changes with it as long as that is trained.
        reader.weight[1, 1] = 0
    assert left(whole(network, (1, 4, 4))) == ([[1], [0], [0, 1]] if goes else [[0, 1], [0, 1], [0, 1]])


def test_a_padded_mean_of_a_constant_stays_and_a_plain_one_goes() -> None:
    for padding in (0, 1):
        size = 2 + padding
        network = nn.Sequential(
            nn.Conv2d(1, 2, 1), nn.AvgPool2d(2, padding=padding), nn.Flatten(), nn.Linear(2 * size**2, 2)
        )
        with torch.no_grad():
            network[0].weight[0] = 0
        assert left(whole(network, (1, 4, 4)))[0] == ([0, 1] if padding else [1])


def test_a_constant_stays_where_no_bias_can_take_it_up() -> None:
    network = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 2, bias=False), nn.ReLU(), nn.Linear(2, 2))
    with torch.no_grad():
        network[0].weight[0] = 0
        network[2].weight[:, 1] = 0
    assert left(whole(network, (2,))) == [[0, 2], [0, 1], [0, 1]]


def test_channels_that_a_sum_joins_go_only_together() -> None:
    body = nn.Sequential(nn.Conv2d(3, 2, 1), nn.ReLU(), nn.Conv2d(2, 3, 1), nn.BatchNorm2d(3))
    network = nn.Sequential(
        nn.Conv2d(1, 3, 1), nn.ReLU(), Residual(body, nn.Identity()), nn.ReLU(), nn.Flatten(), nn.Linear(3 * 4, 2)
    )
    with torch.no_grad():
        network[0].weight[1] = 0
        network[5].weight[:, 8:] = 0
    assert left(whole(network, (1, 2, 2))) == [[0, 1, 2], [0, 1], [0, 1, 2], [0, 1]]
    with torch.no_grad():
        body[2].weight[1] = 0
        body[0].weight[:, 2] = 0
    assert left(whole(network, (1, 2, 2))) == [[0], [0, 1], [0], [0, 1]]


def test_one_unit_of_a_wholly_dead_layer_stays() -> None:
    network = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, 2))
    with torch.no_grad():
        network[2].weight[:] = 0
    assert left(whole(network, (2,))) == [[0], [0], [0, 1]]


def test_what_cannot_shrink_stays_and_so_does_what_it_reads() -> None:
    network = nn.Sequential(
        nn.Conv2d(1, 4, 1), nn.Conv2d(4, 4, 1, groups=2), nn.Flatten(2), nn.Linear(4, 3), nn.Flatten(), nn.Linear(12, 2)
    )
    with torch.no_grad():
        network[0].weight[0] = 0
        network[3].weight[1] = 0
        network[5].weight[:, :3] = 0
    assert left(whole(network, (1, 2, 2)))[:2] == [[0, 1, 2, 3], [0, 1, 2, 3]]


@pytest.mark.usefixtures("any_gain")
def test_a_layer_that_stands_at_two_places_trains_as_it_is() -> None:
    twice = nn.Linear(3, 3)
    network = nn.Sequential(twice, nn.ReLU(), twice, nn.ReLU(), nn.Linear(3, 2))
    with torch.no_grad():
        network[4].weight[:, 0] = 0
    full = whole(network, (3,))
    assert left(full)[1] == [1, 2]
    assert InTraining(full, Adam().build).trained is full


@pytest.fixture
def short(spec: StudySpec) -> StudySpec:
    """4 epochs of 4 steps."""
    return StudySpec.from_dict(spec.to_dict() | {"batch_size": 256})


@pytest.fixture
def compactions(monkeypatch: pytest.MonkeyPatch) -> list[InTraining]:
    """All that training makes, in order."""
    made: list[InTraining] = []

    def make(*arguments: Any) -> InTraining:
        made.append(InTraining(*arguments))
        return made[-1]

    monkeypatch.setattr("sparsevlr.trainables.training.InTraining", make)
    return made


def training_of(spec: StudySpec, data: Dataset, schedule: str, **changes: object) -> Training:
    one = config(schedule, **changes)
    methods, stage = Methods.of(one), DenseStage.of(one, spec, len(data.train.y))
    return Training(methods, one.target_sparsity, spec, data, one.seed, stage, device=torch.device("cpu"))


@pytest.mark.parametrize("batchnorm", [False, True])
@pytest.mark.parametrize("schedule", [name for name in SCHEDULES if name != "dense"])
def test_it_makes_no_difference_how_often_training_stops(
    short: StudySpec, digits: Dataset, compactions: list[InTraining], schedule: str, batchnorm: bool
) -> None:
    options = {"architecture.batchnorm": batchnorm, "sparsity": 0.95}
    through = training_of(short, digits, schedule, **options)
    through.train_until(4)
    assert compactions[-1].trained.graph is not through.graph
    once = len(compactions)
    stopped = training_of(short, digits, schedule, **options)
    for epoch in range(1, 5):
        stopped.train_until(epoch)
        resumed = training_of(short, digits, schedule, **options)
        resumed.restore(copy.deepcopy(stopped.checkpoint("", 0.0)), "")
        stopped = resumed
    assert equal(dict(stopped.network.state_dict()), dict(through.network.state_dict()))
    assert all(torch.equal(kept, through.mask[name]) for name, kept in stopped.mask.items())
    assert len(compactions) > once


@pytest.mark.usefixtures("any_gain")
def test_it_trains_what_the_whole_network_would_train(
    short: StudySpec, digits: Dataset, compactions: list[InTraining], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Dead filters leave no constants behind, which would learn beside the biases that they add to; and no bias comes
    # before a BatchNorm, where its gradient is nothing but rounding, of which Adam makes steps.
    options = {"pattern": "filter", "sparsity": 0.9}
    small = training_of(short, digits, "at-init", **options)
    small.train_until(4)
    assert compactions[-1].trained.graph is not small.graph
    monkeypatch.setattr(in_training, "WORTHWHILE", 0.0)
    full = training_of(short, digits, "at-init", **options)
    full.train_until(4)
    assert compactions[-1].trained.graph is full.graph
    x = torch.from_numpy(digits.validation.x)
    with torch.no_grad():
        logits = [training.network.eval()(x) for training in (small, full)]
    assert torch.allclose(*logits, atol=1e-5)
    assert all(torch.equal(kept, full.mask[name]) for name, kept in small.mask.items())
