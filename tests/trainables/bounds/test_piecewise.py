from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from sparsevlr.spaces.architectures import ARCHITECTURES, Residual
from sparsevlr.trainables.bounds import PiecewiseLinear, crown_bounds, input_box, reduce_margins, trace


def _values(problem: PiecewiseLinear, x: Tensor) -> tuple[Tensor, Tensor]:
    """Margins `(points, classes)` at inputs `(points, n)`, and what each ReLU reads, `(points, u)`."""
    read = x.new_zeros(len(x), len(problem.constant))
    for block in problem.blocks:
        known = torch.cat([x, read.relu()], 1)
        read[:, block] = known @ problem.weight[block].T + problem.constant[block]
    return torch.cat([x, read.relu()], 1) @ problem.margins.T + problem.margin_constants, read


def _check(network: nn.Sequential, shape: tuple[int, ...], classes: int) -> PiecewiseLinear:
    """It is the same function all over the box, within its bounds, and each variable reads earlier blocks alone."""
    graph = trace(network, shape)
    box = input_box(torch.rand(1, *shape, dtype=torch.float64), 0.15, 0, 1)
    with torch.no_grad():
        bounds = crown_bounds(graph, box, tighten=True)
        problem = reduce_margins(graph, box, bounds, 1)
        points = box.centre + box.radius * (torch.rand(300, *shape, dtype=torch.float64) * 2 - 1)
        logits = network(points)
        margins, read = _values(problem, points.flatten(1))
    scale = logits.abs().max()
    assert bool(((margins - (logits[:, 1:2] - logits)).abs() <= 1e-12 * scale).all())
    assert bool((read >= problem.lower - 1e-9).all())
    assert bool((read <= problem.upper + 1e-9).all())
    inputs = len(problem.centre)
    for block in problem.blocks:
        assert not bool(problem.weight[block, inputs + block.start :].any())
    assert [block.start for block in problem.blocks] == [0, *(block.stop for block in problem.blocks)][:-1]
    assert bool((problem.upper > 0).all())
    assert bool((problem.lower < 0).all())
    return problem


@pytest.mark.parametrize("keep", [1.0, 0.3])
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_every_architecture(small_network: Callable[..., nn.Sequential], name: str, keep: float) -> None:
    _check(small_network(name, (1, 6, 6), 4, keep=keep), (1, 6, 6), 4)


@pytest.mark.parametrize("pool", [nn.MaxPool2d(2), nn.MaxPool2d(3, 1, padding=1), nn.MaxPool2d(2, 1, dilation=2)])
def test_maxima_become_relus(randomised: Callable[..., nn.Sequential], pool: nn.MaxPool2d) -> None:
    features = pool(torch.zeros(1, 3, 6, 6)).numel()
    network = randomised(
        nn.Conv2d(2, 3, 3, padding=1),
        nn.BatchNorm2d(3),
        pool,
        Residual(nn.Sequential(nn.Conv2d(3, 3, 3, padding=1), nn.ReLU(), nn.Conv2d(3, 3, 1)), nn.Identity()),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(features, 6),
        nn.ReLU(),
        nn.Linear(6, 3),
    )
    problem = _check(network, (2, 6, 6), 3)
    assert len(problem.blocks) > 4


def test_a_stable_network_has_no_variables(randomised: Callable[..., nn.Sequential]) -> None:
    network = randomised(nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 2))
    with torch.no_grad():
        network[0].bias.copy_(torch.tensor([9.0, -9.0, 9.0, -9.0, 9.0]))
    assert _check(network, (3,), 2).weight.shape == (0, 3)
