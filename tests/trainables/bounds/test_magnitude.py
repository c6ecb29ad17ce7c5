from collections.abc import Callable

import pytest
import torch
from torch import nn

from sparsevlr.spaces.architectures import ARCHITECTURES
from sparsevlr.trainables.bounds import as_intervals, input_box, interval_bounds, magnitudes, trace


def _magnitude(network: nn.Sequential, x: torch.Tensor, epsilon: float) -> torch.Tensor:
    graph = trace(network, tuple(x.shape[1:]))
    with torch.no_grad():
        return magnitudes(graph, as_intervals(interval_bounds(graph, input_box(x, epsilon, -1, 1))))


def test_terms_that_cancel_out_count() -> None:
    """`8 t - 8 t + 1` is 1, of terms that sum to 9 at t = 1/2."""
    network = nn.Sequential(nn.Linear(1, 2), nn.Linear(2, 1)).double()
    network.load_state_dict(
        {
            "0.weight": torch.tensor([[8.0], [8.0]]),
            "0.bias": torch.zeros(2),
            "1.weight": torch.tensor([[1.0, -1.0]]),
            "1.bias": torch.ones(1),
        }
    )
    assert _magnitude(network, torch.full((1, 1), 0.5).double(), 0.0).item() == 9
    assert _magnitude(network, torch.full((1, 1), -0.5).double(), 0.25).item() == 13


@pytest.mark.parametrize(("bias", "expected"), [(-2.0, 1.0), (-1.0, 4.0), (-1 - 1e-12, 4.0)])
def test_a_relu_that_is_off_counts_only_where_rounding_may_have_switched_it_off(bias: float, expected: float) -> None:
    network = nn.Sequential(nn.Linear(1, 1), nn.ReLU(), nn.Linear(1, 1)).double()
    with torch.no_grad():
        network[0].weight.fill_(2)
        network[0].bias.fill_(bias)
        network[2].weight.fill_(1.5)
        network[2].bias.fill_(1)
    assert _magnitude(network, torch.full((1, 1), 0.5).double(), 0.0).item() == pytest.approx(expected)


def test_batchnorm_counts_mean_and_bias_apart() -> None:
    """`(x - 100) + 100` at x = 1/2."""
    norm = nn.BatchNorm1d(1, eps=0.0)
    norm.running_mean.fill_(100)
    nn.init.constant_(norm.bias, 100)
    network = nn.Sequential(norm, nn.Linear(1, 1, bias=False)).double().eval()
    nn.init.ones_(network[1].weight)
    assert _magnitude(network, torch.full((1, 1), 0.5).double(), 0.0).item() == 200.5


@pytest.mark.parametrize("keep", [1.0, 0.3])
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_no_logit_is_larger(small_network: Callable[..., nn.Sequential], name: str, keep: float) -> None:
    network = small_network(name, (1, 6, 6), 4, keep=keep)
    x = torch.rand(5, 1, 6, 6, dtype=torch.float64)
    found = _magnitude(network, x, 0.1)
    position = torch.rand(100, *x.shape, dtype=torch.float64) * 0.2 - 0.1
    with torch.no_grad():
        logits = network((x + position).clamp(-1, 1).flatten(0, 1)).view(100, 5, 4)
    assert bool((logits.abs().amax((0, 2)) <= found).all())
    assert bool((found < 1e4 * logits.abs().amax((0, 2))).all())
