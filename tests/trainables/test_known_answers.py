"""Steps of sparsification and regularisation that can be done by hand."""

import math

import pytest
import torch
from torch import Tensor, nn

from sparsevlr.trainables.bounds import Box, Graph, input_box, interval_bounds, trace
from sparsevlr.trainables.certified_training import (
    INITIALISATIONS,
    LOSSES,
    NRS,
    REGULARISERS,
    Batch,
    CertifiedLoss,
)
from sparsevlr.trainables.mask import Mask, prunable_weights
from sparsevlr.trainables.pruning import DISTRIBUTIONS, PATTERNS, SCHEDULES, Candidates
from sparsevlr.trainables.pruning.gradients import gradient_alone, mean_over_batches
from sparsevlr.trainables.pruning.hydra import Hydra
from sparsevlr.trainables.pruning.learning import ScoresInTraining


class Linear(CertifiedLoss):
    """A loss whose gradients are given; twice as large at the full epsilon, in the order of `at_full`."""

    description = "for tests"

    def __init__(self, gradients: dict[str, Tensor], at_full: dict[str, Tensor] | None = None) -> None:
        self._gradients, self._at_full = gradients, at_full or gradients

    def loss(self, graph: Graph, batch: Batch) -> Tensor:
        chosen = self._at_full if batch.ramp == 1 else self._gradients
        weights = prunable_weights(graph.network)
        return sum((weights[name] * value).sum() for name, value in chosen.items()) + 0 * batch.x.sum()


def candidates(net: nn.Sequential, loss: CertifiedLoss) -> Candidates:
    shape = (net[0].in_features,)

    def batches(count: int, ramp: float):
        x = torch.ones(2, *shape)
        return (Batch(x, torch.zeros(2, dtype=torch.long), Box(x, x), ramp) for _ in range(count))

    return Candidates(trace(net, shape), torch.Generator().manual_seed(0), loss, batches)


def with_weights(*layers: list[list[float]]) -> tuple[nn.Sequential, Mask]:
    modules = [nn.Linear(len(rows[0]), len(rows), bias=False) for rows in layers]
    for module, rows in zip(modules, layers, strict=True):
        module.weight.data = torch.tensor(rows)
    net = nn.Sequential(*modules)
    return net, Mask({name: weight != 0 for name, weight in prunable_weights(net).items()})


def exchange(
    net: nn.Sequential,
    mask: Mask,
    loss: CertifiedLoss,
    distribution: str = "erk",
    kept: int | None = None,
    **options: object,
) -> Mask:
    due = SCHEDULES["drop-and-grow"](end=1.0, updates=2, drop_fraction=2 / 3, **options).due(1, 2)
    # Half way along the cosine: a third of the kept weights.
    assert due.exchange.share == pytest.approx(1 / 3)
    among = candidates(net, loss), mask, PATTERNS["unstructured"](), DISTRIBUTIONS[distribution]()
    return due.exchange.exchange(*among, mask.kept if kept is None else kept, 0.5)


ROWS = [[5.0, -0.1, 2.0, 0.0, 0.0, 0.0], [0.2, 3.0, -0.3, 0.0, 0.0, 0.0]]
GRADIENTS = torch.tensor([[9.0, 9.0, 9.0, 1.0, -7.0, 2.0], [9.0, 9.0, 9.0, 3.0, 0.0, -3.0]])


def test_the_smallest_weights_are_dropped_and_the_largest_gradients_grown() -> None:
    net, mask = with_weights(ROWS)
    new = exchange(net, mask, Linear({"0.weight": GRADIENTS}))
    # Two of six: -0.1 and 0.2 go, though their gradients are the largest of all; -7 and the first of the two 3 come.
    assert new["0.weight"].int().tolist() == [[1, 0, 1, 0, 1, 0], [0, 1, 1, 1, 0, 0]]


def test_the_gradient_is_taken_at_the_ramp_or_at_the_target() -> None:
    net, mask = with_weights(ROWS)
    loss = Linear({"0.weight": GRADIENTS}, at_full={"0.weight": GRADIENTS.flip(1)})
    assert exchange(net, mask, loss)["0.weight"][0, 4]
    at_target = exchange(net, mask, loss, grow_epsilon="target")
    assert at_target["0.weight"].int().tolist() == [[1, 0, 1, 1, 1, 0], [0, 1, 1, 0, 0, 0]]


def test_within_the_network_densities_move_and_no_layer_is_cut_off() -> None:
    net, mask = with_weights([[5.0, 4.0], [0.0, 0.0], [0.3, 0.0]], [[0.1, 0.2, 0.0], [0.0, 0.0, 0.0]])
    gradients = {
        "0.weight": torch.tensor([[0.0, 0.0], [6.0, 5.0], [0.0, 1.0]]),
        "1.weight": torch.tensor([[0.0, 0.0, 2.0], [0.0, 0.0, 0.0]]),
    }
    by_network = exchange(net, mask, Linear(gradients), "global")
    # Two of five: 0.1 and 0.3, since 0.2 is all that would be left of its layer.
    assert by_network["0.weight"].int().tolist() == [[1, 1], [1, 1], [0, 0]]
    assert by_network["1.weight"].int().tolist() == [[0, 1, 0], [0, 0, 0]]
    by_layer = exchange(net, mask, Linear(gradients), "erk")
    assert by_layer["0.weight"].int().tolist() == [[1, 1], [1, 0], [0, 0]]
    assert by_layer["1.weight"].int().tolist() == [[0, 1, 1], [0, 0, 0]]


def test_where_the_sparsity_rises_fewer_stay_and_as_large_a_share_is_grown() -> None:
    net, mask = with_weights(ROWS)
    new = exchange(net, mask, Linear({"0.weight": GRADIENTS}), kept=4)
    # Two thirds of four stay, 5, 3 and 2; -7 comes.
    assert new["0.weight"].int().tolist() == [[1, 0, 1, 0, 1, 0], [0, 1, 0, 0, 0, 0]]


def test_layers_are_left_what_their_distribution_gives_them() -> None:
    rows, zeros = [[1.0, 2.0, 3.0, 4.0], [5.0, 6.0, 7.0, 8.0]], [[0.1, 0.2]]
    net, mask = with_weights(rows, zeros)
    # Erdos-Renyi-Kernel gives both layers their dense size at 10; at 4 in proportion to 6 and 3, so 3 and 1.
    loss = Linear({"0.weight": torch.ones(2, 4), "1.weight": torch.ones(1, 2)})
    new = exchange(net, mask, loss, "erk", 4)
    assert {name: int(values.sum()) for name, values in new.items()} == {"0.weight": 3, "1.weight": 1}


def test_a_dense_layer_has_nothing_to_grow() -> None:
    net, mask = with_weights([[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]])
    assert exchange(net, mask, Linear({"0.weight": torch.ones(1, 6)}))["0.weight"].all()


def test_loss_gradients_are_means_and_leave_the_network_as_it_was() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 2)).eval()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    x = torch.rand(3, 6, 3)
    drawn = [Batch(one, torch.tensor([0, 1, 0, 1, 0, 1]), input_box(one, 0.05, 0.0, 1.0), 0.5) for one in x]
    loss = LOSSES["ibp"]()
    seen = Candidates(trace(net, (3,)), torch.Generator(), loss, lambda count, ramp: iter(drawn[:count]))
    gradients = mean_over_batches(seen, loss.loss, batches=3, ramp=0.5, of=gradient_alone)
    assert not net.training
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert all(parameter.grad is None for parameter in net.parameters())
    net.train()
    sum(loss.loss(seen.graph, batch) for batch in drawn).backward()
    for name, gradient in gradients.items():
        assert torch.allclose(gradient.float(), net.get_parameter(name).grad / 3, atol=1e-7)


def test_scores_move_by_the_straight_through_gradient() -> None:
    weights = {"w": torch.tensor([[2.0, -1.0, 0.5], [0.0, 1.5, -0.25]])}
    rule = Hydra(learning_rate=0.01)
    within, all_of_them = (
        Mask({"w": torch.tensor([[True, True, True], [last, True, True]])}) for last in (False, True)
    )
    learning = ScoresInTraining(rule, weights, within)
    start = learning.tensors()["score/w"].clone()
    assert torch.allclose(start, math.sqrt(6 / 3) * weights["w"] / 2)
    gradients = torch.tensor([[1.0, -2.0, 3.0], [4.0, 0.0, -1.0]])

    # The same by autograd: forward the choice of the two largest |s|, backward as if it were |s|.
    scores = start.clone().requires_grad_()
    chosen = scores.abs() >= scores.abs().flatten().topk(2).values[-1]
    effective = weights["w"] * (chosen + scores.abs() - scores.abs().detach())
    (effective * gradients).sum().backward()

    learning.step_({"w": gradients})
    state = learning.tensors()
    assert torch.allclose(state["exp_avg/w"], 0.1 * scores.grad)
    # Adam's first step is the learning rate along the sign. Where a larger weight lowers the loss, its score gains.
    assert torch.allclose(state["score/w"], start - 0.01 * scores.grad.sign(), atol=1e-6)
    assert (state["score/w"].abs() - start.abs())[0].sign().tolist() == [-1, -1, -1]

    again = ScoresInTraining(rule, {"w": torch.zeros(2, 3)}, all_of_them)
    again.load_({name: value.clone() for name, value in state.items()})
    assert torch.equal(again.within["w"], within["w"])
    for each in (learning, again):
        each.step_({"w": -gradients})
    assert all(torch.equal(value, again.tensors()[name]) for name, value in learning.tensors().items())
    # As checkpoints were before they told what may be kept.
    again.load_({name: value for name, value in learning.tensors().items() if not name.startswith("within/")})
    assert torch.equal(again.within["w"], all_of_them["w"])


def two_neurons() -> nn.Sequential:
    net = nn.Sequential(nn.Linear(1, 2), nn.ReLU(), nn.Linear(2, 2)).double()
    net[0].weight.data = torch.tensor([[1.0], [-2.0]], dtype=torch.float64)
    net[0].bias.data = torch.tensor([0.0, 1.0], dtype=torch.float64)
    return net


@pytest.mark.parametrize("weight", [0.0, math.nan, math.inf])
def test_stability_needs_a_finite_weight(weight: float) -> None:
    with pytest.raises(ValueError, match=f"regulariser.weight must be above 0 and finite, but is {weight}"):
        NRS(weight=weight)


def test_stability_by_hand() -> None:
    net = two_neurons()
    graph, x = trace(net, (1,)), torch.full((1, 1), 0.5, dtype=torch.float64)
    boxes = dict(enumerate(interval_bounds(graph, input_box(x, 0.1, 0.0, 1.0))))
    # Bounds [0.4, 0.6] and [-0.2, 0.2]: products 0.24 and -0.04; the mean of two neurons.
    penalty = NRS(weight=0.02).penalty(graph, Batch(x, torch.zeros(1), Box(x, x), 1.0, boxes))
    assert penalty.item() == pytest.approx(-0.01 * (math.tanh(1.24) + math.tanh(0.96)))
    penalty.backward()
    # l u = (w c + b)^2 - (w r)^2, so d/dw = 2 c (w c + b) - 2 w r^2 = 0.48 and 0.04.
    slopes = [1 - math.tanh(1.24) ** 2, 1 - math.tanh(0.96) ** 2]
    assert net[0].weight.grad.flatten().tolist() == pytest.approx([-0.01 * slopes[0] * 0.48, -0.01 * slopes[1] * 0.04])
    assert net[0].bias.grad.tolist() == pytest.approx([-0.01 * slopes[0] * 1.0, 0.0])
    assert net[2].weight.grad is None


def test_stability_is_measured_in_units_of_the_normalisation_before_it_which_is_a_constant() -> None:
    plain = two_neurons()
    net = nn.Sequential(plain[0], nn.BatchNorm1d(2, eps=0.0).double(), plain[1], plain[2]).eval()
    net[1].weight.data = torch.tensor([2.0, 1e-9], dtype=torch.float64)
    graph, x = trace(net, (1,)), torch.full((1, 1), 0.5, dtype=torch.float64)
    bounds = interval_bounds(graph, input_box(x, 0.1, 0.0, 1.0))
    penalty = NRS(weight=2.0).penalty(graph, Batch(x, torch.zeros(1), Box(x, x), 1.0, dict(enumerate(bounds))))
    # The scale of 2 cancels; the one of nearly 0 counts as more than it is.
    assert penalty.item() == pytest.approx(-(math.tanh(1.24) + math.tanh(1.0)))
    penalty.backward()
    # Through the bounds only: d/dgamma of gamma^2 0.24 / 4 at gamma = 2.
    assert net[1].weight.grad[0].item() == pytest.approx(-(1 - math.tanh(1.24) ** 2) * 0.24)


@pytest.mark.parametrize("name", REGULARISERS)
def test_every_regulariser_is_a_finite_scalar_and_says_whether_it_reads_boxes(name: str) -> None:
    graph, x = trace(two_neurons(), (1,)), torch.full((3, 1), 0.5, dtype=torch.float64)
    regulariser = REGULARISERS[name]()
    box = input_box(x, 0.1, 0.0, 1.0)
    boxes = dict(enumerate(interval_bounds(graph, box)))
    penalty = regulariser.penalty(graph, Batch(x, torch.zeros(3), box, 0.5, boxes))
    assert penalty.shape == ()
    assert bool(penalty.isfinite())
    assert regulariser.reads_boxes == (penalty.item() != 0)
    assert regulariser.description


@pytest.mark.parametrize("name", INITIALISATIONS)
def test_the_deviation_goes_by_the_inputs_that_are_kept(name: str) -> None:
    net = nn.Sequential(nn.Conv2d(8, 300, 5), nn.Flatten(), nn.Linear(300, 60))
    drawn = torch.Generator().manual_seed(0)
    mask = Mask({key: torch.rand(w.shape, generator=drawn) < 0.3 for key, w in prunable_weights(net).items()})
    few, none = mask["0.weight"].clone(), mask["2.weight"].clone()
    few[:150] &= torch.rand(few[:150].shape, generator=drawn) < 0.1
    none[7] = False
    mask = Mask({"0.weight": few, "2.weight": none})
    INITIALISATIONS[name]().initialise_(net, mask, drawn)
    for key, weight in prunable_weights(net).items():
        assert not weight[~mask[key]].any()
        inputs = mask[key].flatten(1).sum(1).view(-1, *[1] * (weight.dim() - 1))
        standard = weight.detach() * inputs / math.sqrt(2 * math.pi)
        for units in (slice(0, 150), slice(150, 300)) if key == "0.weight" else (slice(None),):
            assert standard[units][mask[key][units]].std().item() == pytest.approx(1, rel=0.05)
