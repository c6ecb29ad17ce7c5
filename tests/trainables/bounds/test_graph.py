import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize, prune

from sparsevlr.spaces.architectures.layers import Reshape, Residual
from sparsevlr.trainables.bounds import Add, Box, UnsupportedLayer, interval_bounds, trace


def test_nodes_are_the_live_layers_in_order() -> None:
    body = nn.Sequential(nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3))
    network = nn.Sequential(
        Reshape((3, 4, 4)),
        nn.Identity(),
        Residual(body, nn.Identity()),
        nn.Sequential(nn.ReLU(), nn.MaxPool2d(2)),
        nn.Flatten(),
        nn.Linear(12, 2),
    )
    graph = trace(network, (48,))
    kinds = [type(node.layer) for node in graph.nodes[1:]]
    assert kinds == [Reshape, nn.Conv2d, nn.BatchNorm2d, Add, nn.ReLU, nn.MaxPool2d, nn.Flatten, nn.Linear]
    assert [node.shape for node in graph.nodes] == [(48,), *[(3, 4, 4)] * 5, (3, 2, 2), (12,), (2,)]
    assert graph.nodes[4].inputs == (3, 1)
    assert graph.nodes[2].layer is body[0]
    assert graph.last_linear is network[-1]
    assert graph.nodes[graph.features].shape == (12,)


def test_a_module_that_stands_at_two_places_is_two_nodes() -> None:
    relu = nn.ReLU()
    network = nn.Sequential(nn.Linear(2, 3), relu, nn.Linear(3, 3), relu, nn.Linear(3, 2)).double()
    graph = trace(network, (2,))
    assert [type(node.layer) for node in graph.nodes[1:]] == [nn.Linear, nn.ReLU, nn.Linear, nn.ReLU, nn.Linear]
    x = torch.randn(9, 2, dtype=torch.float64)
    assert torch.allclose(interval_bounds(graph, Box(x, torch.zeros_like(x)))[-1].centre, network(x))


def test_bounds_follow_weights_that_change_after_tracing() -> None:
    network = nn.Sequential(nn.Linear(2, 2)).double()
    graph = trace(network, (2,))
    x = torch.rand(3, 2, dtype=torch.float64)
    with torch.no_grad():
        network[0].weight.mul_(-3)
    assert torch.equal(interval_bounds(graph, Box(x, torch.zeros_like(x)))[-1].centre, network(x))


def test_tracing_changes_nothing() -> None:
    network = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.ReLU(), nn.Flatten(), nn.Linear(8, 2)).train()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    trace(network, (1, 4, 4))
    assert network.training
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


class _Masked(nn.Linear):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.linear(x, self.weight * 0, self.bias)


class _Zero(nn.Module):
    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        return weight * 0


def _pruned() -> nn.Module:
    return prune.l1_unstructured(nn.Linear(4, 4), "weight", amount=0.5)


def _parametrised() -> nn.Module:
    layer = nn.Linear(4, 4)
    parametrize.register_parametrization(layer, "weight", _Zero())
    return layer


def _overridden() -> nn.Module:
    layer = nn.Linear(4, 4)
    layer.forward = lambda x: x * 0  # type: ignore[method-assign]
    return layer


@pytest.mark.parametrize("layer", [_pruned(), _parametrised(), _overridden(), _Masked(4, 4)])
def test_weights_masked_in_the_forward_are_refused(layer: nn.Module) -> None:
    """The weights that bounds read would not be those that the network computes with."""
    with pytest.raises(UnsupportedLayer, match=r"network\.0 is a \w+ that cannot be bounded.*plain weights"):
        trace(nn.Sequential(layer, nn.Linear(4, 2)), (4,))


def test_a_pruned_layer_is_taken_once_its_mask_is_in_the_weights() -> None:
    layer = _pruned()
    prune.remove(layer, "weight")
    trace(nn.Sequential(layer, nn.Linear(4, 2)), (4,))


def test_a_hook_on_the_whole_network_is_refused() -> None:
    network = nn.Sequential(nn.Linear(4, 2))
    network.register_forward_hook(lambda module, inputs, output: output * 2)
    with pytest.raises(UnsupportedLayer, match="network is a Sequential"):
        trace(network, (4,))


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        (nn.Sigmoid(), r"network\.0 is a Sigmoid .*supported are plain .*ReLU"),
        (nn.BatchNorm2d(1, track_running_stats=False), "track_running_stats=True"),
        (nn.Conv2d(1, 1, 3, padding="same"), "given in numbers"),
        (nn.Conv2d(1, 1, 3, padding=1, padding_mode="reflect"), "zero padding"),
        (nn.Conv2d(1, 1, (3, 1), padding=(2, 1)), "padding .* of less than the kernel's extent"),
        (nn.AvgPool2d(2, divisor_override=-4), "divisor_override must be above 0"),
        (nn.MaxPool2d(2, ceil_mode=True), "ceil_mode"),
        (nn.Flatten(0), "start_dim >= 1"),
    ],
)
def test_unsupported_layers_are_named(layer: nn.Module, message: str) -> None:
    with pytest.raises(UnsupportedLayer, match=message):
        trace(nn.Sequential(layer, nn.Flatten(), nn.Linear(16, 2)), (1, 4, 4))


def test_a_network_must_end_in_a_linear_layer() -> None:
    with pytest.raises(UnsupportedLayer, match=r"must end in an nn\.Linear .*ends in ReLU"):
        trace(nn.Sequential(nn.Linear(4, 2), nn.ReLU()), (4,))


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        (nn.Linear(5, 3), r"network\.0 \(Linear\) cannot take inputs of shape \(4,\): expected 5 features"),
        (nn.Conv2d(1, 1, 3), r"network\.0 \(Conv2d\) cannot take inputs of shape \(4,\)"),
        (nn.BatchNorm1d(3), "expected 3 channels"),
        (nn.BatchNorm2d(4), "expected 4D input"),
        (Residual(nn.Sequential(nn.Linear(4, 3)), nn.Identity()), r"agree in shape, got \(3,\) and \(4,\)"),
    ],
)
def test_shapes_that_do_not_fit_are_named(layer: nn.Module, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        trace(nn.Sequential(layer, nn.Linear(3, 2)), (4,))


@pytest.mark.parametrize("layer", [nn.Conv2d(1, 1, 3), nn.MaxPool2d(2)])
def test_maps_without_channels_are_refused(layer: nn.Module) -> None:
    with pytest.raises(ValueError, match=r"of shape \(6, 6\): expected \(channels, height, width\)"):
        trace(nn.Sequential(layer, nn.Flatten(), nn.Linear(9, 2)), (6, 6))
