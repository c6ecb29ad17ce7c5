"""Tightness of interval bounds: known answers, and backward bounds that no point beats."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from sparsevlr.spaces.architectures import ARCHITECTURES
from sparsevlr.spaces.architectures.layers import Residual
from sparsevlr.trainables.bounds import (
    Box,
    Graph,
    as_intervals,
    crown_ibp_bounds,
    input_box,
    interval_bounds,
    trace,
    widths_before_relus,
)
from sparsevlr.trainables.bounds.tightness import Widths

Build = Callable[..., nn.Sequential]


def all_widths(graph: Graph, box: Box, neurons: int = 10**6) -> list[Widths]:
    return list(widths_before_relus(graph, box, neurons=neurons, generator=torch.Generator()).values())


def values(graph: Graph, x: Tensor) -> list[Tensor]:
    """What every node gives."""
    found = [x]
    for node in graph.nodes[1:]:
        found.append(node.layer(*(found[index].clone() for index in node.inputs)))
    return found


def test_two_hidden_layers_by_hand(two_hidden_layers: nn.Sequential) -> None:
    """One input t in [-1, 1], u = relu(t), v = relu(-t), then u + v - 1/2: intervals say [-1/2, 3/2]. Backwards
    u <= (t + 1) / 2 and v <= (1 - t) / 2, so it is at most 1/2, and u, v >= 0."""
    box = input_box(torch.zeros(3, 1, dtype=torch.float64), 1.0, -1, 1)
    assert all_widths(trace(two_hidden_layers, (1,)), box) == [Widths(12.0, 12.0), Widths(3.0, 6.0)]
    point = input_box(torch.zeros(3, 1, dtype=torch.float64), 0.0, -1, 1)
    assert all_widths(trace(two_hidden_layers, (1,)), point) == [Widths(0.0, 0.0)] * 2


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_no_point_beats_the_bounds_and_they_are_never_looser(small_network: Build, name: str) -> None:
    shape = (1, 6, 6)
    graph = trace(small_network(name, shape, 4), shape)
    box = input_box(torch.rand(3, *shape, dtype=torch.float64), 0.1, 0, 1)
    everything = {
        index: torch.ones(3, *node.shape, dtype=torch.bool) for index, node in enumerate(graph.nodes) if index
    }
    spread = torch.rand(500, *box.centre.shape, dtype=torch.float64) * 2 - 1
    spread[:250] = spread[:250].sign()
    with torch.no_grad():
        reached = values(graph, (box.centre + spread * box.radius).flatten(0, 1))
    backward, interval = crown_ibp_bounds(graph, box, everything), as_intervals(interval_bounds(graph, box))
    for value, tight, wide in zip(reached, backward, interval, strict=True):
        points = value.view(500, *tight.lower.shape)
        assert bool((points >= tight.lower - 1e-9).all())
        assert bool((points <= tight.upper + 1e-9).all())
        assert bool((tight.lower >= wide.lower).all())
        assert bool((tight.upper <= wide.upper).all())
    first, *others = all_widths(graph, box)
    assert first.backward == first.interval
    assert all(0 < one.backward <= one.interval for one in others)
    assert any(one.backward < 0.99 * one.interval for one in others)


def test_the_ratio_is_the_propagation_tightness_where_no_relu_is_unstable(randomised: Build) -> None:
    network = randomised(
        nn.Linear(5, 6), nn.ReLU(), Residual(nn.Sequential(nn.Linear(6, 6)), nn.Identity()), nn.ReLU(), nn.Linear(6, 3)
    )
    graph, x = trace(network, (5,)), torch.rand(2, 5, dtype=torch.float64)
    box = input_box(x, 1e-6, 0, 1)
    before_last = nn.Sequential(*list(network)[:3])
    exact = 0.0
    for sample in range(2):
        jacobian = torch.autograd.functional.jacobian(lambda one: before_last(one[None])[0], x[sample])
        exact += float(2 * (jacobian.abs() * box.radius[sample]).sum())
    found = all_widths(graph, box)[-1]
    assert found.backward == pytest.approx(exact, rel=1e-6)
    assert found.backward < 0.9 * found.interval


def test_scale_does_not_enter(randomised: Build) -> None:
    network = randomised(nn.Linear(5, 6), nn.ReLU(), nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 3))
    graph, box = trace(network, (5,)), input_box(torch.rand(4, 5, dtype=torch.float64), 0.2, 0, 1)
    before = all_widths(graph, box)
    with torch.no_grad():
        for parameter in network[0].parameters():
            parameter *= 8.0
    after = all_widths(graph, box)
    assert [one.backward / one.interval for one in after] == pytest.approx(
        [one.backward / one.interval for one in before]
    )
    assert after[1].interval == pytest.approx(8 * before[1].interval)


def test_so_many_neurons_of_each_layer_are_drawn(randomised: Build) -> None:
    network = randomised(nn.Linear(5, 40), nn.ReLU(), nn.Linear(40, 6), nn.ReLU(), nn.Linear(6, 3))
    graph, box = trace(network, (5,)), input_box(torch.rand(4, 5, dtype=torch.float64), 0.2, 0, 1)
    interval = [bound.radius.detach().sum(0) for bound in interval_bounds(graph, box)]
    drawn = torch.randperm(40, generator=torch.Generator())[:7]
    first, second = all_widths(graph, box, neurons=7)
    assert first.interval == pytest.approx(float(2 * interval[1][drawn].sum()))
    assert second.interval == pytest.approx(float(2 * interval[3].sum()))
