"""What every architecture promises, for every shape and class count."""

import pytest
import torch
from torch import nn

from sparsevlr.spaces import SpecError
from sparsevlr.spaces.architectures import (
    ARCHITECTURES,
    Architecture,
    Reshape,
    Residual,
    architecture_options,
    build_architecture,
)

LAYERS = (
    nn.Linear,
    nn.Conv2d,
    nn.BatchNorm1d,
    nn.BatchNorm2d,
    nn.ReLU,
    nn.Flatten,
    nn.AvgPool2d,
    nn.Identity,
    nn.Sequential,
    Residual,
    Reshape,
)
SHAPES = [(1,), (2,), (30,), (6, 100), (1, 24), (2, 3), (1, 8, 8), (3, 32, 32), (2, 1, 5), (1, 2, 2), (1, 1, 1)]

pytestmark = pytest.mark.parametrize("name", ARCHITECTURES)


def small(name: str) -> dict[str, float]:
    return {"width": 0.125} if "width" in (architecture_options(name) or {}) else {}


@pytest.mark.parametrize("classes", [2, 10])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_builds_a_bounded_network_for_any_input(name: str, shape: tuple[int, ...], classes: int) -> None:
    network = build_architecture(name, small(name), shape, classes)

    assert isinstance(network, nn.Sequential)
    assert isinstance(network[-1], nn.Linear)
    assert all(isinstance(layer, LAYERS) for layer in network.modules())
    assert network(torch.rand(4, *shape)).shape == (4, classes)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_no_weight_sees_only_padding(name: str, shape: tuple[int, ...]) -> None:
    """A weight that never meets the input would be pruned for free, and flatter the sparsity."""
    # Wide enough that no whole path dies at random; positive weights keep every ReLU open.
    network = build_architecture(name, small(name), shape, 2).double().eval()
    for parameter in network.parameters():
        parameter.data = torch.rand_like(parameter) + 0.1
    network(torch.rand(2, *shape, dtype=torch.double) + 0.1).sum().backward()

    for layer in network.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            assert layer.weight.grad is not None
            assert bool((layer.weight.grad != 0).all()), layer


def test_is_a_frozen_option_set_with_a_description(name: str) -> None:
    kind = ARCHITECTURES[name]

    assert issubclass(kind, Architecture)
    assert kind.description
    assert "\n" not in kind.description
    options = architecture_options(name)
    assert options is not None
    assert kind() == kind(**options)
    with pytest.raises(AttributeError):
        kind().width = 2.0  # type: ignore[attr-defined]


def test_same_random_state_gives_the_same_network(name: str) -> None:
    states = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        states.append(build_architecture(name, small(name), (1, 8, 8), 3)[-1].weight)

    assert torch.equal(states[0], states[1])
    assert not torch.equal(states[0], states[2])


def test_width_multiplies_the_layers(name: str) -> None:
    counts = [
        sum(p.numel() for p in build_architecture(name, {"width": width}, (1, 8, 8), 3).parameters())
        for width in (0.125, 0.25)
    ]
    assert counts[0] < counts[1]


@pytest.mark.parametrize("width", [0, -1, float("nan"), float("inf"), "wide", True, None])
def test_refuses_an_impossible_width(name: str, width: object) -> None:
    with pytest.raises(SpecError, match=r"architecture\.width must be a number above 0 .* got "):
        build_architecture(name, {"width": width}, (4,), 2)


def test_refuses_an_unknown_option_and_names_the_closest(name: str) -> None:
    with pytest.raises(SpecError, match=f"'{name}' has no option 'widht'; did you mean 'width'"):
        build_architecture(name, {"widht": 1.0}, (4,), 2)


@pytest.mark.parametrize(("shape", "classes"), [((), 2), ((1, 2, 3, 4), 2), ((0,), 2), ((4,), 1)])
def test_refuses_what_is_no_classification(name: str, shape: tuple[int, ...], classes: int) -> None:
    with pytest.raises(SpecError, match=r"must be|needs at least 2 classes"):
        build_architecture(name, {}, shape, classes)
