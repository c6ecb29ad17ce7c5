"""The regularisers of Shi et al. by hand."""

import math

import pytest
import torch
from torch import nn

from sparsevlr.trainables.bounds import Graph, input_box, interval_boxes, trace
from sparsevlr.trainables.certified_training import REGULARISERS, Batch


def network(weights: list[float], biases: list[float]) -> nn.Sequential:
    net = nn.Sequential(nn.Linear(1, len(weights)), nn.ReLU(), nn.Linear(len(weights), 2)).double()
    net[0].weight.data = torch.tensor(weights, dtype=torch.float64)[:, None]
    net[0].bias.data = torch.tensor(biases, dtype=torch.float64)
    return net


def batch(graph: Graph, radius: float, ramp: float, x: float = 0.5) -> Batch:
    inputs = torch.full((2, 1), x, dtype=torch.float64)
    box = input_box(inputs, radius, 0.0, 1.0)
    return Batch(inputs, torch.zeros(2, dtype=torch.long), box, ramp, dict(enumerate(interval_boxes(graph, box))))


def test_tightness_by_hand() -> None:
    # Radii 0.8 and 0.4, mean 0.6, over a radius of 0.1 at the input: 0.5 - 1/6 is missing, relative to 0.5.
    net = network([8.0, -4.0], [0.0, 0.0])
    graph = trace(net, (1,))
    tight = REGULARISERS["shi"](balance=0.0)
    penalty = tight.penalty(graph, batch(graph, 0.1, 0.25))
    assert penalty.item() == pytest.approx(0.75 * 0.5 * (0.5 - 1 / 6) / 0.5)
    penalty.backward()
    # Wider weights loosen the bounds: d/dw of -0.1 / mean(0.1 |w|) is 1 / (2 * 36) sign(w).
    assert net[0].weight.grad.flatten().tolist() == pytest.approx([0.75 / 72, -0.75 / 72])
    for allowed in ([1.4, 2.4], [0.1, 0.0], [0.0, 0.0]):
        net = network(allowed, [0.0, 0.0])
        graph = trace(net, (1,))
        penalty = tight.penalty(graph, batch(graph, 0.1, 0.25))
        assert penalty.item() == 0
        penalty.backward()
        assert bool((net[0].weight.grad == 0).all())


def test_balance_by_hand() -> None:
    # Centres 3, -1, and 0.5, which is unstable: means 3 to 1; around 2.5 / 3 the squares are 169/36 to 121/36.
    net = network([1.0, 1.0, 10.0], [2.5, -1.5, -4.5])
    graph = trace(net, (1,))
    balanced = REGULARISERS["shi"](tightness=0.0)
    penalty = balanced.penalty(graph, batch(graph, 0.1, 0.5))
    assert penalty.item() == pytest.approx(0.5 * 0.5 * (0.5 - 1 / 3) / 0.5)
    strict = REGULARISERS["shi"](tightness=0.0, tolerance=1.0).penalty(graph, batch(graph, 0.1, 0.5))
    assert strict.item() == pytest.approx(0.5 * 0.5 * ((1 - 1 / 3) + (1 - 121 / 169)))
    # It pushes the active neuron down and the inactive one further away, until both weigh the same.
    penalty.backward()
    assert net[0].bias.grad[0] > 0 > -net[0].bias.grad[1]
    assert net[0].bias.grad[2] == 0


def test_without_stable_neurons_the_penalty_is_greatest_and_has_no_gradient() -> None:
    net = network([1.0, 1.0], [-0.5, -0.5])
    graph = trace(net, (1,))
    penalty = REGULARISERS["shi"](tightness=0.0).penalty(graph, batch(graph, 0.1, 0.5))
    assert penalty.item() == pytest.approx(0.5 * 0.5 * 2)
    penalty.backward()
    assert bool((net[0].weight.grad == 0).all())


def test_it_acts_on_the_ramp_only() -> None:
    graph = trace(network([8.0, -4.0], [0.0, 0.0]), (1,))
    shi = REGULARISERS["shi"]()
    values = [shi.penalty(graph, batch(graph, 0.1, ramp)).item() for ramp in (0.0, 0.2, 0.6, 1.0)]
    assert values[0] == values[3] == 0
    assert values[1] == pytest.approx(2 * values[2]) != 0


def test_gradients_agree_with_finite_differences() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Linear(4, 9), nn.BatchNorm1d(9), nn.ReLU(), nn.Linear(9, 8), nn.ReLU(), nn.Linear(8, 2)
    ).double()  # fmt: skip
    net.eval()
    net[3].weight.data *= 4
    x = torch.rand(6, 4, dtype=torch.float64)
    graph, box = trace(net, (4,)), input_box(x, 0.05, 0.0, 1.0)

    def penalty() -> torch.Tensor:
        boxes = dict(enumerate(interval_boxes(graph, box)))
        return REGULARISERS["shi"](tolerance=1.0).penalty(graph, Batch(x, torch.zeros(6), box, 0.3, boxes))

    weights = [net[0].weight, net[1].weight, net[3].weight]
    gradients = torch.autograd.grad(penalty(), weights)
    assert all(bool(gradient.any()) for gradient in gradients)
    for weight, gradient in zip(weights, gradients, strict=True):
        direction, ends = torch.randn_like(weight), []
        for step in (1e-7, -2e-7):
            weight.data.add_(direction, alpha=step)
            ends.append(penalty().item())
        weight.data.add_(direction, alpha=1e-7)
        assert (gradient * direction).sum().item() == pytest.approx((ends[0] - ends[1]) / 2e-7, rel=1e-4, abs=1e-6)


@pytest.mark.parametrize(
    "options", [{"tightness": -1.0}, {"balance": math.inf}, {"tolerance": 0.0}, {"tolerance": 2.0}]
)
def test_impossible_options_are_refused_by_name(options: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=f"regulariser.{next(iter(options))} "):
        REGULARISERS["shi"](**options)
