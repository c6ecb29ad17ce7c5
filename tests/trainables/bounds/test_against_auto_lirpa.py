"""The project's bounds and auto_LiRPA's are written independently: where both apply they must agree."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from sparsevlr.spaces.architectures import ARCHITECTURES
from sparsevlr.spaces.architectures.layers import Residual
from sparsevlr.trainables.bounds import (
    Graph,
    Norm,
    Region,
    crown_ibp_margins,
    crown_margins,
    input_box,
    input_region,
    interval_bounds,
    margin_lower_bounds,
    trace,
)
from sparsevlr.trainables.verification.auto_lirpa import Method, lirpa_margins
from sparsevlr.trainables.verification.base import Unsupported

Build = Callable[..., nn.Sequential]


def _ibp(graph: Graph, box: Region, labels: Tensor) -> Tensor:
    return margin_lower_bounds(graph.last_linear, interval_bounds(graph, box)[graph.features], labels)


EPSILON: dict[Norm, float] = {"linf": 0.05, "l2": 0.3}
OWN: dict[Method, Callable[[Graph, Region, Tensor], Tensor]] = {
    Method.ibp: _ibp,
    Method.crown_ibp: crown_ibp_margins,
    Method.crown: lambda graph, box, labels: crown_margins(graph, box, labels, tighten=False),
}


def _assert_agree(
    network: nn.Sequential, shape: tuple[int, ...], method: Method, *, norm: Norm = "linf", may_skip: bool = False
) -> None:
    graph = trace(network, shape)
    classes = graph.last_linear.out_features
    x, labels = torch.rand(3, *shape, dtype=torch.float64), torch.randint(classes, (3,))
    box = input_region(x, EPSILON[norm], 0, 1, norm=norm)
    try:
        theirs = lirpa_margins(graph, box, labels, method)
    except Unsupported as reason:
        # Skips must come from auto_LiRPA's own limits: one that is absent or broken is no second opinion at all.
        if not may_skip or "auto_LiRPA's" not in str(reason):
            raise
        pytest.skip(str(reason))
    own = OWN[method](graph, box, labels).detach()
    assert own.dtype == theirs.dtype == torch.float64
    assert (own - theirs).abs().max() <= 1e-5 * own.abs().max()


@pytest.mark.parametrize("method", OWN)
@pytest.mark.parametrize("shape", [(1, 6, 6), (3, 10)], ids=str)
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_architectures(small_network: Build, name: str, shape: tuple[int, ...], method: Method) -> None:
    _assert_agree(small_network(name, shape, 4), shape, method)


@pytest.mark.parametrize("method", OWN)
@pytest.mark.parametrize("name", ["mlp", "cnn-small"])
def test_balls(small_network: Build, name: str, method: Method) -> None:
    _assert_agree(small_network(name, (1, 6, 6), 4), (1, 6, 6), method, norm="l2")


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_intervals_over_balls_are_no_looser(small_network: Build, name: str) -> None:
    """Where the edge of the input cuts a kernel off, auto_LiRPA takes the norm of all of it."""
    graph = trace(small_network(name, (1, 6, 6), 4), (1, 6, 6))
    x, labels = torch.rand(3, 1, 6, 6, dtype=torch.float64), torch.randint(4, (3,))
    ball = input_region(x, EPSILON["l2"], 0, 1, norm="l2")
    own, theirs = _ibp(graph, ball, labels).detach(), lirpa_margins(graph, ball, labels, Method.ibp)
    assert bool((own >= theirs - 1e-9).all())
    assert bool((own <= crown_ibp_margins(graph, input_region(x, 0.0, 0, 1, norm="l2"), labels) + 1e-9).all())


@pytest.mark.parametrize("method", OWN)
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_masked_architectures(small_network: Build, name: str, method: Method) -> None:
    _assert_agree(small_network(name, (1, 6, 6), 4, keep=0.2, flip_batchnorm=False), (1, 6, 6), method)


@pytest.mark.parametrize("method", OWN)
@pytest.mark.parametrize(
    "layers",
    [
        pytest.param([nn.Conv2d(2, 3, 3), nn.ReLU(), nn.MaxPool2d(2)], id="max"),
        pytest.param([nn.Conv2d(2, 3, 3), nn.ReLU(), nn.MaxPool2d(2, 1)], id="overlapping max"),
        pytest.param([nn.Conv2d(2, 3, 3), nn.ReLU(), nn.AvgPool2d(2)], id="average"),
        pytest.param([nn.Conv2d(2, 3, 3), nn.ReLU(), nn.AvgPool2d(3, 1)], id="overlapping average"),
        pytest.param([nn.Conv2d(2, 4, 3, dilation=2, stride=2), nn.ReLU(), nn.Conv2d(4, 4, 1, groups=2)], id="dilated"),
        pytest.param([nn.Conv2d(2, 3, 3, bias=False), nn.BatchNorm2d(3, affine=False), nn.ReLU()], id="bare"),
        pytest.param(
            [
                nn.Conv2d(2, 3, 3),
                Residual(nn.Sequential(nn.Conv2d(3, 3, 1), nn.ReLU(), nn.Dropout(0.5)), nn.Conv2d(3, 3, 1)),
            ],
            id="residual",
        ),
    ],
)
def test_other_layers(randomised: Build, layers: list[nn.Module], method: Method) -> None:
    body = nn.Sequential(*layers, nn.Flatten()).double().eval()
    features = body(torch.zeros(2, 2, 6, 6, dtype=torch.float64)).shape[1]
    network = randomised(*body, nn.Linear(features, 7, bias=False), nn.ReLU(), nn.Linear(7, 3, bias=False))
    _assert_agree(network, (2, 6, 6), method, may_skip=True)


def test_two_layers_by_hand() -> None:
    """The same figures as those derived for the project's own bounds."""
    network = nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 2)).double()
    network.load_state_dict(
        {
            "0.weight": torch.tensor([[2.0, 1.0], [1.0, -1.0]]),
            "0.bias": torch.tensor([1.0, -1.0]),
            "2.weight": torch.tensor([[1.0, -1.0], [0.0, 0.0]]),
            "2.bias": torch.tensor([1.0, 0.0]),
        }
    )
    graph = trace(network, (2,))
    box, labels = input_box(torch.zeros(2, 2, dtype=torch.float64), 1.0, -1, 1), torch.tensor([0, 1])
    expected = {
        Method.ibp: [[0, 0], [-5, 0]],
        Method.crown_ibp: [[0, -1.5], [-5, 0]],
        Method.crown: [[0, -1.5], [-5, 0]],
    }
    for method, margins in expected.items():
        found = lirpa_margins(graph, box, labels, method)
        assert torch.allclose(found, torch.tensor(margins, dtype=torch.float64))
