"""Small random networks of every registered architecture, in float64."""

from collections.abc import Callable
from dataclasses import fields

import pytest
import torch
from torch import nn

from sparsevlr.spaces.architectures import ARCHITECTURES

Build = Callable[..., nn.Sequential]


def randomise_(network: nn.Module) -> None:
    """Statistics and affine parameters that a trained BatchNorm could have: a fresh one is the identity."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.3)
            module.running_var.uniform_(0.3, 2)
            if module.affine:
                nn.init.normal_(module.weight)
                nn.init.normal_(module.bias, 0, 0.3)


@pytest.fixture
def randomised() -> Build:
    def build(*layers: nn.Module) -> nn.Sequential:
        network = nn.Sequential(*layers).double().eval()
        randomise_(network)
        return network

    return build


@pytest.fixture
def small_network() -> Build:
    """`build(name, shape, classes, flip_batchnorm, keep)`; `keep` is the share of weights that stay nonzero."""

    def build(
        name: str, shape: tuple[int, ...], classes: int, *, flip_batchnorm: bool = False, keep: float = 1.0
    ) -> nn.Sequential:
        kind = ARCHITECTURES[name]
        options = {field.name: field.default for field in fields(kind)}
        small = {"width": 0.1, "hidden": (16, 12)}
        changed = {option: small[option] for option in options if option in small}
        if flip_batchnorm:
            changed["batchnorm"] = not options["batchnorm"]
        network = kind(**changed).build(shape, classes).double().eval()
        randomise_(network)
        with torch.no_grad():
            for module in network.modules():
                if isinstance(module, nn.Linear | nn.Conv2d):
                    module.weight *= torch.rand_like(module.weight) < keep
        return network

    return build


@pytest.fixture
def two_hidden_layers() -> nn.Sequential:
    """Of one input t: u = relu(t), v = relu(-t), s = relu(u + v - 1/2) and logits (1 - s, 0)."""
    network = nn.Sequential(nn.Linear(1, 2), nn.ReLU(), nn.Linear(2, 1), nn.ReLU(), nn.Linear(1, 2)).double()
    network.load_state_dict(
        {
            "0.weight": torch.tensor([[1.0], [-1.0]]),
            "0.bias": torch.zeros(2),
            "2.weight": torch.ones(1, 2),
            "2.bias": torch.tensor([-0.5]),
            "4.weight": torch.tensor([[-1.0], [0.0]]),
            "4.bias": torch.tensor([1.0, 0.0]),
        }
    )
    return network


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)
