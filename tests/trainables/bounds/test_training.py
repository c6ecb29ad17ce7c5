import copy
from collections.abc import Callable

import pytest
import torch
from torch import nn

from sparsevlr.spaces.architectures import ARCHITECTURES
from sparsevlr.spaces.architectures.layers import Residual
from sparsevlr.trainables.bounds import (
    Box,
    UnsupportedLayer,
    input_box,
    interval_bounds,
    margin_lower_bounds,
    natural_and_interval,
    trace,
)

Build = Callable[..., nn.Sequential]


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_training_mode_matches_torch_and_contains_the_natural_pass(small_network: Build, name: str) -> None:
    network = small_network(name, (1, 6, 6), 4).train()
    reference = copy.deepcopy(network)
    x = torch.rand(8, 1, 6, 6, dtype=torch.float64)
    box = input_box(x, 0.05, 0, 1)
    graph = trace(network, (1, 6, 6))
    logits, centre, radius = natural_and_interval(graph, x, *box)
    assert logits is not None
    assert torch.allclose(logits, reference(x))
    # Statistics moved exactly once, exactly as torch moves them.
    for name_, value in reference.state_dict().items():
        assert torch.allclose(network.state_dict()[name_], value), name_
    features = logits.detach().new_zeros(0)
    hook = reference[-1].register_forward_pre_hook(lambda module, inputs: features.set_(inputs[0].detach()))
    reference(x)
    hook.remove()
    assert bool((features >= centre - radius - 1e-9).all())
    assert bool((features <= centre + radius + 1e-9).all())
    assert bool((radius >= 0).all())


@pytest.mark.parametrize("name", ["cnn7", "resnet-small", "mlp"])
def test_gradients_of_the_training_pass(small_network: Build, name: str) -> None:
    """Against finite differences in random directions of all parameters at once, through the batch statistics."""
    network = small_network(name, (1, 6, 6), 3).train()
    graph = trace(network, (1, 6, 6))
    x, labels = torch.rand(6, 1, 6, 6, dtype=torch.float64), torch.randint(3, (6,))
    box = input_box(x, 0.01, 0, 1)

    def loss() -> torch.Tensor:
        logits, centre, radius = natural_and_interval(graph, x, *box)
        assert logits is not None
        margins = margin_lower_bounds(graph.last_linear, Box(centre, radius), labels)
        return nn.functional.cross_entropy(logits, labels) + nn.functional.cross_entropy(-margins, labels)

    parameters = list(network.parameters())
    gradients = torch.autograd.grad(loss(), parameters)
    assert all(bool(gradient.abs().sum() > 0) for gradient in gradients if gradient.dim() > 1)
    directions = [torch.randn_like(parameter) for parameter in parameters]
    step = 1e-7
    values = []
    for sign in (1, -2):
        with torch.no_grad():
            for parameter, direction in zip(parameters, directions, strict=True):
                parameter.add_(direction, alpha=sign * step)
            values.append(loss().item())
    slope = sum(float((g * d).sum()) for g, d in zip(gradients, directions, strict=True))
    assert (values[0] - values[1]) / (2 * step) == pytest.approx(slope, rel=1e-3, abs=1e-4)


def test_eval_mode_agrees_with_interval_bounds_without_a_natural_pass(small_network: Build) -> None:
    network = small_network("cnn7", (1, 6, 6), 3)
    graph = trace(network, (1, 6, 6))
    box = input_box(torch.rand(4, 1, 6, 6, dtype=torch.float64), 0.1, 0, 1)
    before = copy.deepcopy(network.state_dict())
    logits, centre, radius = natural_and_interval(graph, None, *box)
    assert logits is None
    expected = interval_bounds(graph, box)[graph.features]
    assert torch.equal(centre, expected.centre)
    assert torch.equal(radius, expected.radius)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_running_mean_over_all_batches_where_momentum_is_none() -> None:
    network = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4, momentum=None), nn.Linear(4, 2)).train()
    reference, graph = copy.deepcopy(network), trace(network, (3,))
    for _ in range(3):
        x = torch.rand(5, 3)
        natural_and_interval(graph, x, x, torch.zeros_like(x))
        reference(x)
    assert torch.allclose(network[1].running_mean, reference[1].running_mean)
    assert torch.allclose(network[1].running_var, reference[1].running_var)


def test_an_in_place_relu_leaves_the_other_branch_alone() -> None:
    network = nn.Sequential(
        nn.Linear(3, 3), Residual(nn.Sequential(nn.ReLU(inplace=True), nn.Linear(3, 3)), nn.Identity()), nn.Linear(3, 2)
    )
    x = torch.rand(4, 3)
    logits, centre, radius = natural_and_interval(trace(network, (3,)), x, x, torch.zeros_like(x))
    assert logits is not None
    assert torch.allclose(logits, network[-1](centre), atol=1e-6)
    assert torch.equal(radius, torch.zeros_like(radius))


def test_batchnorm_in_training_needs_the_natural_pass() -> None:
    network = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2)).train()
    x = torch.rand(5, 3)
    with pytest.raises(ValueError, match="give x, or put the network in eval mode"):
        natural_and_interval(trace(network, (3,)), None, x, torch.zeros_like(x))
    with pytest.raises(ValueError, match="more than one value per channel"):
        natural_and_interval(trace(network, (3,)), x[:1], x[:1], torch.zeros_like(x[:1]))


def test_dropout_in_training_is_refused() -> None:
    network = nn.Sequential(nn.Linear(3, 4), nn.Dropout(0.5), nn.Linear(4, 2)).train()
    x = torch.rand(5, 3)
    with pytest.raises(UnsupportedLayer, match="Dropout"):
        natural_and_interval(trace(network, (3,)), x, x, torch.zeros_like(x))


def test_a_network_of_one_layer() -> None:
    network = nn.Sequential(nn.Linear(3, 2))
    x = torch.rand(5, 3)
    logits, centre, radius = natural_and_interval(trace(network, (3,)), x, x, torch.ones_like(x))
    assert logits is not None
    assert torch.equal(logits, network(x))
    assert torch.equal(centre, x)
    assert torch.equal(radius, torch.ones_like(x))
