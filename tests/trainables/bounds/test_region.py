"""Boxes and balls of inputs, by what is known of them exactly."""

import pytest
import torch
from torch import Tensor, nn

from sparsevlr.spaces.architectures.layers import Reshape
from sparsevlr.trainables.bounds import (
    NORMS,
    Ball,
    Box,
    Norm,
    Region,
    crown_bounds,
    crown_ibp_margins,
    crown_margins,
    input_region,
    interval_bounds,
    margin_bounds,
    margin_lower_bounds,
    margins,
    trace,
)


def region_of(norm: Norm, samples: int = 5, features: int = 6) -> Region:
    """Inputs on the edge of their range among them, and one feature that is held."""
    x = torch.rand(samples, features, dtype=torch.float64)
    x[0, :2], x[1, 3] = 0.0, 1.0
    scale = torch.rand(features, dtype=torch.float64) + 0.5
    scale[4] = 0.0
    return input_region(x, 0.3, 0.0, 1.0, scale, norm)


def within(region: Region, points: Tensor) -> Tensor:
    """`(batch,)`, told anew."""
    inside = (points >= 0) & (points <= 1) & ((points - region.centre).abs() <= region.radius + 1e-12)
    if isinstance(region, Ball):
        scaled = (points - region.centre)[:, region.radius[0] > 0] / region.radius[:, region.radius[0] > 0]
        return inside.all(1) & (scaled.norm(dim=1) <= 1 + 1e-12)
    return inside.all(1)


@pytest.mark.parametrize("norm", NORMS)
def test_projections_lie_within_and_leave_alone_what_does(norm: Norm) -> None:
    region = region_of(norm)
    for _ in range(50):
        points = region.project(region.centre + 3 * torch.randn_like(region.centre))
        assert bool(within(region, points).all())
        assert torch.allclose(region.project(points), points, atol=1e-15)


@pytest.mark.parametrize("norm", NORMS)
def test_nothing_within_is_lower_than_the_lowest(norm: Norm) -> None:
    region, rows = region_of(norm), torch.randn(8, 6, dtype=torch.float64)
    owner = torch.tensor([0, 1, 2, 3, 4, 0, 1, 2])
    least = (rows * region.lowest(rows, owner)).sum(1)
    here = region.pick(owner)
    for rate in (0.1, 1.0, 10.0):
        points = here.centre.clone()
        for _ in range(200):
            points = here.climb()(points + 0.1 * torch.randn_like(points), -rows, rate)
            assert bool((least <= (rows * points).sum(1) + 1e-12).all())
    # It is reached where no edge of the range is in the way.
    free = input_region(torch.full((8, 6), 0.5, dtype=torch.float64), 0.3, 0.0, 1.0, 1.0, norm)
    lowest = free.lowest(rows, slice(None))
    assert bool(within(free, lowest).all())
    assert torch.allclose(free.project(lowest), lowest, atol=1e-12)
    assert torch.allclose(free.climb()(free.centre.clone(), -rows, 1.0), lowest, atol=1e-12)


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("norm", NORMS)
def test_a_part_lies_within_the_whole(norm: Norm, share: float) -> None:
    region = region_of(norm)
    part = region.part_around(region.centre + 2 * torch.randn_like(region.centre), share)
    assert type(part) is type(region)
    assert torch.equal(part.radius, share * region.radius)
    for _ in range(50):
        assert bool(within(region, part.project(part.centre + torch.randn_like(part.centre))).all())
    if share == 1:
        assert torch.allclose(part.centre, region.centre)


def test_a_ball_is_its_norm_without_scales_and_moves_with_them() -> None:
    x = torch.full((1, 2), 0.5)
    ball = input_region(x, 0.25, 0.0, 1.0, norm="l2")
    assert torch.allclose(ball.project(torch.tensor([[3.5, 4.5]])), torch.tensor([[0.65, 0.7]]))
    wide = input_region(x, 0.25, 0.0, 1.0, torch.tensor([1.0, 0.0]), "l2")
    assert torch.equal(wide.project(torch.tensor([[3.5, 4.5]])), torch.tensor([[0.75, 0.5]]))
    corner = input_region(torch.zeros(1, 2), 0.25, 0.0, 1.0, norm="l2")
    assert torch.equal(corner.lower, torch.zeros(1, 2))
    assert torch.equal(corner.project(-torch.ones(1, 2)), torch.zeros(1, 2))


LINEAR = {
    "linear": ([nn.Linear(8, 3)], (8,)),
    "flattened": ([nn.Flatten(), nn.Dropout(0.5), nn.Linear(8, 3)], (2, 4)),
    "convolution": ([nn.Conv2d(2, 3, 2, padding=1), nn.Flatten(), nn.Linear(27, 3)], (2, 2, 2)),
    "rearranged": ([Reshape((2, 2, 2)), nn.Conv2d(2, 3, 2), nn.Flatten(), nn.Linear(3, 3)], (8,)),
    "pooled": ([nn.AvgPool2d(2), nn.Flatten(), nn.Linear(2, 3)], (2, 2, 2)),
    "normalised": ([nn.Flatten(), nn.BatchNorm1d(8), nn.Linear(8, 3)], (2, 4)),
}


@pytest.mark.parametrize("name", LINEAR)
def test_crown_is_exact_for_a_linear_network_over_a_ball(name: str) -> None:
    """The least margin over a ball is that of its centre less epsilon times the L2 norm of the coefficients."""
    layers, shape = LINEAR[name]
    network = nn.Sequential(*layers).double().eval()
    for layer in network:
        if isinstance(layer, nn.BatchNorm1d):
            nn.init.uniform_(layer.weight, -2, 2)
    x, labels = torch.rand(4, *shape, dtype=torch.float64), torch.tensor([0, 1, 2, 0])
    # In a range that cuts nothing off: intervals would know of it.
    graph, ball = trace(network, shape), input_region(x, 0.4, -9.0, 9.0, norm="l2")
    coefficients = torch.autograd.functional.jacobian(lambda one: network(one[None])[0], x[0]).flatten(1)
    logits = network(x).detach()
    margins = logits.gather(1, labels[:, None]) - logits
    exact = margins - 0.4 * (coefficients[labels][:, None] - coefficients).norm(dim=2)
    for bound in (crown_ibp_margins, crown_margins):
        assert torch.allclose(bound(graph, ball, labels), exact, atol=1e-12)
    interval = margin_lower_bounds(graph.last_linear, interval_bounds(graph, ball)[graph.features], labels)
    assert bool((interval <= exact + 1e-12).all())
    if name in ("linear", "flattened"):
        assert torch.allclose(interval.detach(), exact, atol=1e-12)


BEFORE_RELU = {
    "rearranged first": [nn.Flatten(), nn.Linear(8, 5)],
    "scaled after": [nn.Flatten(), nn.Linear(8, 5), nn.BatchNorm1d(5)],
    "scaled before": [nn.Flatten(), nn.BatchNorm1d(8), nn.Linear(8, 5)],
    "pooled before": [nn.AvgPool2d((1, 2)), nn.Flatten(), nn.Linear(4, 5)],
    "convolution": [nn.Conv2d(1, 2, 2, padding=1), nn.Flatten()],
}


@pytest.mark.parametrize("name", BEFORE_RELU)
def test_crown_knows_the_range_before_the_first_relu_exactly(name: str) -> None:
    first = nn.Sequential(*BEFORE_RELU[name]).double().eval()
    for layer in first:
        if isinstance(layer, nn.BatchNorm1d):
            nn.init.uniform_(layer.weight, -2, 2)
    x = torch.rand(3, 1, 2, 4, dtype=torch.float64)
    width = first(x).shape[1]
    network = nn.Sequential(*first, nn.ReLU(), nn.Linear(width, 4), nn.ReLU(), nn.Linear(4, 2)).double().eval()
    graph, ball = trace(network, (1, 2, 4)), input_region(x, 0.4, 0.0, 1.0, norm="l2")
    coefficients = torch.autograd.functional.jacobian(lambda one: first(one[None])[0], x[0]).flatten(1)
    lower, upper = crown_bounds(graph, ball, tighten=False)[len(first)]
    assert torch.allclose(lower.flatten(1), first(x) - 0.4 * coefficients.norm(dim=1))
    assert torch.allclose(upper.flatten(1), first(x) + 0.4 * coefficients.norm(dim=1))


@pytest.mark.parametrize("limit", [margins.CLASS_TABLE_LIMIT, 2])
def test_margins_over_a_ball(limit: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(margins, "CLASS_TABLE_LIMIT", limit)
    last, labels = nn.Linear(6, 5).double(), torch.tensor([0, 3, 4, 1, 1])
    ball = region_of("l2")
    found = margin_bounds(last, ball, labels)
    differences = last.weight[labels][:, None] - last.weight
    assert torch.allclose(found.radius, (differences * ball.radius[:, None]).norm(dim=2))
    assert torch.equal(found.lower.gather(1, labels[:, None]), torch.zeros(5, 1, dtype=torch.float64))


def test_pruned_weights_have_finite_gradients_over_a_ball() -> None:
    """The norm of a row of zeros has no gradient; a row that is pruned must not make all others NaN."""
    first = nn.Linear(6, 4).double()
    with torch.no_grad():
        first.weight[1] = 0.0
    graph = trace(nn.Sequential(first, nn.ReLU(), nn.Linear(4, 3).double()), (6,))
    ball = region_of("l2")
    lower = margin_lower_bounds(
        graph.last_linear, interval_bounds(graph, ball)[graph.features], torch.zeros(5, dtype=torch.long)
    )
    (gradient,) = torch.autograd.grad(lower.sum(), first.weight)
    assert bool(gradient.isfinite().all())
    assert bool(gradient[0].any())


def test_boxes_between_layers_are_boxes() -> None:
    graph = trace(nn.Sequential(nn.Flatten(), nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 3)).double(), (6,))
    bounds = interval_bounds(graph, region_of("l2"))
    assert [type(bound) for bound in bounds] == [Ball, Ball, Box, Box, Box]
