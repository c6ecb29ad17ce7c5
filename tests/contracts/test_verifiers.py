"""What every registered verifier owes: on networks whose exact margins are known, unknown is allowed, wrong is not."""

import copy
import itertools
from collections.abc import Callable
from dataclasses import fields, replace

import pytest
import torch
from torch import Tensor, nn

from sparsevlr.spaces.architectures.layers import Residual
from sparsevlr.trainables.bounds import NORMS, Ball, Graph, Norm, Region, input_box, input_region, trace
from sparsevlr.trainables.verification import VERIFIERS, MarginBounds, Unsupported, Verifier, proved


@pytest.fixture(params=VERIFIERS)
def verifier(request: pytest.FixtureRequest) -> Verifier:
    kind = VERIFIERS[request.param]
    # Few iterations of a search are as sound as many.
    return kind(**{field.name: 2 for field in fields(kind) if field.name == "iterations"})  # type: ignore[arg-type]


def _network(*layers: tuple[list[list[float]], list[float]]) -> nn.Sequential:
    """Linear layers of the given weights and biases, ReLU between them."""
    parts: list[nn.Module] = []
    for weight, bias in layers:
        linear = nn.Linear(len(weight[0]), len(bias))
        with torch.no_grad():
            linear.weight.copy_(torch.tensor(weight))
            linear.bias.copy_(torch.tensor(bias))
        parts += [linear, nn.ReLU()]
    return nn.Sequential(*parts[:-1])


def _linear() -> nn.Sequential:
    return _network(([[1.0, 2.0], [-1.0, 1.0], [0.0, 0.0]], [0.0, 0.0, 0.25]))


def _absolute() -> nn.Sequential:
    """Logits `(|a| + |b|, 1)`: nonlinear, with its kinks inside most boxes."""
    return _network(
        ([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0]], [0.0] * 4),
        ([[1.0, 1.0, 1.0, 1.0], [0.0] * 4], [0.0, 1.0]),
    )


def _parity() -> nn.Sequential:
    """A two-layer XOR with a second hidden layer, so that intermediate bounds matter."""
    return _network(
        ([[1.0, 1.0], [1.0, 1.0]], [0.0, -1.0]),
        ([[1.0, -2.0], [-1.0, 2.0]], [0.0, 1.0]),
        ([[1.0, 0.0], [0.0, 1.0]], [0.0, 0.0]),
    )


CASES = [
    pytest.param(build, [a, b], epsilon, id=f"{build.__name__[1:]} at ({a}, {b}), epsilon {epsilon}")
    for build in (_linear, _absolute, _parity)
    for a, b in ((0.5, 0.5), (0.0, 1.0), (0.9, 0.2))
    for epsilon in (0.0, 0.05, 0.3)
]


def _exact(network: nn.Sequential, region: Region, labels: Tensor) -> Tensor:
    """The smallest margins over a grid on each region, its corners included; the exact ones are no larger."""
    line = torch.linspace(-1, 1, 101)
    grid = torch.tensor(list(itertools.product(line.tolist(), line.tolist())))
    everywhere = region.pick(torch.arange(len(labels)).repeat_interleave(len(grid)))
    points = everywhere.project(everywhere.centre + grid.repeat(len(labels), 1) * everywhere.radius)
    logits = network(points).view(len(labels), len(grid), -1)
    return (logits.gather(2, labels[:, None, None].expand(-1, len(grid), 1)) - logits).amin(1)


def _bound(verifier: Verifier, graph: Graph, region: Region, labels: Tensor) -> MarginBounds:
    if not verifier.in_double:
        return verifier.margins(graph, region, labels)
    graph = trace(copy.deepcopy(graph.network).double(), graph.nodes[0].shape)
    precise = region._replace(centre=region.centre.double(), radius=region.radius.double())
    try:
        found = verifier.margins(graph, precise, labels)
    except Unsupported as reason:
        if not isinstance(region, Ball):
            raise
        pytest.skip(str(reason))
    return replace(found, lower=found.lower.float(), scale=found.scale.float())


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize(("build", "point", "epsilon"), CASES)
def test_never_wrong(
    verifier: Verifier, build: Callable[[], nn.Sequential], point: list[float], epsilon: float, norm: Norm
) -> None:
    network = build().eval()
    with torch.no_grad():
        labels = torch.arange(len(network(torch.tensor(point))))
        region = input_region(torch.tensor([point]).repeat(len(labels), 1), epsilon, 0, 1, norm=norm)
        found = _bound(verifier, trace(network, (2,)), region, labels)
        exact = _exact(network, region, labels)
        assert found.lower.shape == exact.shape
        assert found.scale.shape == labels.shape
        assert bool((found.lower <= exact + 1e-5).all())
        assert bool((found.lower.diagonal() == 0).all())
        assert not bool((proved(found.lower, found.scale, labels).all(1) & (exact < 0).any(1)).any())
        if epsilon == 0:
            assert torch.allclose(found.lower, exact, atol=1e-5)


def test_a_wide_margin_is_proved(verifier: Verifier) -> None:
    """Not required of a sound verifier in general; but one that cannot prove a linear network proves nothing."""
    x, labels = torch.tensor([[0.8, 0.8]]), torch.tensor([0])
    found = _bound(verifier, trace(_linear(), (2,)), input_box(x, 0.05, 0, 1), labels)
    assert bool(proved(found.lower, found.scale, labels).all())


def test_margins_do_not_depend_on_the_batch(verifier: Verifier) -> None:
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(1, 3, 3), nn.ReLU(), Residual(nn.Sequential(nn.Conv2d(3, 3, 1), nn.ReLU()), nn.Identity())
    )
    network = nn.Sequential(*network, nn.Flatten(), nn.Linear(27, 8), nn.ReLU(), nn.Linear(8, 3)).eval()
    graph, x, labels = trace(network, (1, 5, 5)), torch.rand(4, 1, 5, 5), torch.randint(3, (4,))
    box = input_box(x, 0.1, 0, 1)
    together = _bound(verifier, graph, box, labels)
    alone = [_bound(verifier, graph, box.pick(slice(i, i + 1)), labels[i : i + 1]) for i in range(4)]
    assert torch.allclose(together.lower, torch.cat([found.lower for found in alone]), atol=1e-5)
    assert torch.allclose(together.scale, torch.cat([found.scale for found in alone]), atol=1e-5)


def test_nan_weights_prove_nothing(verifier: Verifier) -> None:
    network = _parity()
    with torch.no_grad():
        network[2].weight[0, 0] = torch.nan
    labels = torch.tensor([0])
    found = _bound(verifier, trace(network, (2,)), input_box(torch.tensor([[0.9, 0.1]]), 0.01, 0, 1), labels)
    assert not bool(proved(found.lower, found.scale, labels).all())


def test_the_network_is_left_as_it_was(verifier: Verifier) -> None:
    network = nn.Sequential(nn.Linear(2, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 2)).train()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    _bound(verifier, trace(network, (2,)), input_box(torch.rand(3, 2), 0.1, 0, 1), torch.tensor([0, 1, 0]))
    assert network.training
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert all(parameter.grad is None and parameter.requires_grad for parameter in network.parameters())


@pytest.mark.parametrize("name", VERIFIERS)
def test_documented(name: str) -> None:
    kind = VERIFIERS[name]
    assert kind.description
    for heading in ("Requires:", "Returns:", "Sound:", "Complete:", "Reference:"):
        assert heading in (kind.__doc__ or ""), f"{kind.__name__} lacks {heading}"
