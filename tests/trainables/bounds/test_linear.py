from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from sparsevlr.spaces.architectures.layers import Reshape, Residual
from sparsevlr.trainables.bounds import (
    Graph,
    crown_ibp_margins,
    crown_margins,
    input_box,
    interval_bounds,
    linear,
    margin_lower_bounds,
    trace,
)

Build = Callable[..., nn.Sequential]


def test_two_layers_by_hand() -> None:
    """Over [-1, 1]^2 with a, b the inputs: h_0 = relu(2a + b + 1) from [-2, 4], h_1 = relu(a - b - 1) from [-3, 1].

    The margin of class 0 is h_0 - h_1 + 1, at least (2a + b + 1) - (a - b - 1 + 3) / 4 + 1 = 7a/4 + 5b/4 + 3/2,
    whose minimum is -3/2. That of class 1 is -h_0 + h_1 - 1, at least -(4/6)(2a + b + 3) + 0 - 1, minimum -5.
    """
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
    box = input_box(torch.zeros(2, 2, dtype=torch.float64), 1.0, -1, 1)
    expected = torch.tensor([[0, -1.5], [-5, 0]], dtype=torch.float64)
    for bound in (crown_ibp_margins, crown_margins):
        assert torch.allclose(bound(graph, box, torch.tensor([0, 1])), expected)


def test_second_hidden_layer_by_hand(two_hidden_layers: nn.Sequential) -> None:
    """One input t in [-1, 1]; u = relu(t), v = relu(-t), then s = relu(u + v - 1/2) and logits (1 - s, 0).

    Intervals give u + v in [0, 2], so s <= relu on [-1/2, 3/2], and the chord is (3/4)(u + v). CROWN-IBP then uses
    u <= (t + 1)/2 and v <= (1 - t)/2, so s <= 3/4 and the margin is at least 1/4. CROWN finds u + v <= 1, so the
    chord of s on [-1/2, 1/2] is (1/2)(u + v) <= 1/2: the margin is at least 1/2, which is exact.
    """
    graph = trace(two_hidden_layers, (1,))
    box, labels = input_box(torch.zeros(1, 1, dtype=torch.float64), 1.0, -1, 1), torch.tensor([0])
    assert margin_lower_bounds(graph.last_linear, interval_bounds(graph, box)[-2], labels)[0, 1].item() == -0.5
    assert crown_ibp_margins(graph, box, labels)[0, 1].item() == pytest.approx(0.25)
    for tighten in (True, False):
        assert crown_margins(graph, box, labels, tighten=tighten)[0, 1].item() == pytest.approx(0.5)


LAYERS: dict[str, list[nn.Module]] = {
    "strided": [nn.Conv2d(2, 3, 3, stride=2, padding=1), nn.ReLU(), nn.Conv2d(3, 4, 2, stride=3)],
    "uneven": [nn.Conv2d(2, 3, (2, 4), stride=(3, 2), padding=(1, 0)), nn.BatchNorm2d(3)],
    "dilated": [nn.Conv2d(2, 3, 3, dilation=2, stride=2, padding=1)],
    "grouped": [nn.Conv2d(2, 6, 3, groups=2, bias=False), nn.ReLU(), nn.Conv2d(6, 6, 3, groups=3, dilation=(1, 2))],
    "average": [nn.Conv2d(2, 3, 3), nn.ReLU(), nn.AvgPool2d(2)],
    "overlapping average": [nn.AvgPool2d(3, 2, padding=1), nn.Conv2d(2, 3, 2), nn.ReLU()],
    "uncounted average": [nn.AvgPool2d((3, 2), (2, 1), padding=1, count_include_pad=False, ceil_mode=True)],
    "max": [nn.Conv2d(2, 3, 3), nn.MaxPool2d(2)],
    "max after relu": [nn.Conv2d(2, 3, 3), nn.ReLU(), nn.MaxPool2d(3, 2, padding=1), nn.Conv2d(3, 2, 2), nn.ReLU()],
    "overlapping max": [nn.MaxPool2d((3, 2), (1, 2)), nn.Conv2d(2, 3, 2), nn.ReLU(), nn.MaxPool2d(2, 1, dilation=2)],
    "residual": [
        nn.Conv2d(2, 3, 3),
        nn.ReLU(),
        Residual(nn.Sequential(nn.Conv2d(3, 3, 3, padding=1), nn.ReLU(), nn.BatchNorm2d(3)), nn.Identity()),
        nn.ReLU(),
        Residual(nn.Sequential(nn.Conv2d(3, 3, 1), nn.ReLU()), nn.Conv2d(3, 3, 1, bias=False)),
    ],
    "linear over rows": [nn.Linear(8, 5), nn.ReLU(), nn.BatchNorm2d(2), nn.Dropout(0.5)],
    "batchnorm of sequences": [Reshape((8, 16)), nn.BatchNorm1d(8), nn.ReLU(), nn.BatchNorm1d(8, affine=False)],
    "in place": [nn.Conv2d(2, 3, 3), nn.ReLU(inplace=True), nn.Conv2d(3, 3, 3), nn.ReLU(inplace=True)],
}


def _case(randomised: Build, name: str, samples: int = 3) -> tuple[Graph, Tensor, Tensor]:
    body = nn.Sequential(*LAYERS[name], nn.Flatten()).double().eval()
    features = body(torch.zeros(2, 2, 8, 8, dtype=torch.float64)).shape[1]
    network = randomised(*body, nn.Linear(features, 9), nn.ReLU(), nn.Linear(9, 4))
    return trace(network, (2, 8, 8)), torch.rand(samples, 2, 8, 8, dtype=torch.float64), torch.randint(4, (samples,))


@pytest.mark.parametrize("name", LAYERS)
def test_every_layer_and_option(randomised: Build, name: str) -> None:
    """Sound on sampled points; exact where the box is a point, which a wrong coefficient or bias cannot be."""
    graph, x, labels = _case(randomised, name)
    network = graph.network
    methods = (
        lambda box: margin_lower_bounds(graph.last_linear, interval_bounds(graph, box)[graph.features], labels),
        lambda box: crown_ibp_margins(graph, box, labels),
        lambda box: crown_margins(graph, box, labels),
        lambda box: crown_margins(graph, box, labels, tighten=False),
    )
    with torch.no_grad():
        point = network(x)
        for method in methods:
            exact = point.gather(1, labels[:, None]) - point
            assert torch.allclose(method(input_box(x, 0.0, 0, 1)), exact, atol=1e-9)
        box = input_box(x, 0.1, 0, 1)
        spread = torch.rand(200, *x.shape, dtype=x.dtype) * 2 - 1
        spread[:100] = spread[:100].sign()
        logits = network((box.centre + spread * box.radius).flatten(0, 1)).view(200, len(x), 4)
        smallest = (logits.gather(2, labels[None, :, None].expand(200, -1, 1)) - logits).amin(0)
        for method in methods:
            assert bool((method(box) <= smallest + 1e-9).all())


def test_coefficients_are_those_of_the_network_where_it_is_linear(randomised: Build) -> None:
    """Without an unstable neuron the network is affine over the box, and CROWN gives its exact minimum."""
    graph, x, labels = _case(randomised, "residual")
    box = input_box(x, 1e-7, 0, 1)
    slopes = []
    for sample in range(len(x)):
        jacobian = torch.autograd.functional.jacobian(
            lambda inputs, label=labels[sample]: graph.network(inputs[None])[0][label] - graph.network(inputs[None])[0],
            x[sample],
        )
        slopes.append((jacobian.abs() * box.radius[sample]).flatten(1).sum(1))
    logits = graph.network(box.centre)
    exact = logits.gather(1, labels[:, None]) - logits - torch.stack(slopes)
    assert torch.allclose(crown_margins(graph, box, labels), exact, atol=1e-12)


@pytest.mark.parametrize("name", ["residual", "max after relu", "grouped"])
@pytest.mark.parametrize("tighten", [True, False])
def test_bounds_do_not_depend_on_the_batch(
    randomised: Build, name: str, tighten: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    graph, x, labels = _case(randomised, name, samples=5)
    box = input_box(x, 0.05, 0, 1)
    together = crown_margins(graph, box, labels, tighten=tighten)
    alone = [
        crown_margins(graph, box.pick(slice(i, i + 1)), labels[i : i + 1], tighten=tighten) for i in range(len(labels))
    ]
    assert torch.allclose(together, torch.cat(alone), atol=1e-12)
    order = torch.tensor([3, 1, 4, 0, 2])
    shuffled = crown_margins(graph, box.pick(order), labels[order], tighten=tighten)
    assert torch.allclose(together[order], shuffled, atol=1e-12)
    monkeypatch.setattr(linear, "CHUNK_ELEMENTS", 700)
    assert torch.allclose(together, crown_margins(graph, box, labels, tighten=tighten), atol=1e-12)
    assert torch.allclose(
        crown_ibp_margins(graph, box, labels)[:1], crown_ibp_margins(graph, box.pick(slice(1)), labels[:1])
    )


def test_tightening_never_loosens_the_intermediate_bounds(randomised: Build) -> None:
    graph, x, _ = _case(randomised, "residual")
    box = input_box(x, 0.1, 0, 1)
    intervals = interval_bounds(graph, box)
    crown = linear.crown_bounds(graph, box, tighten=True)
    tighter = 0
    for interval, bound in zip(intervals, crown, strict=True):
        assert bool((bound.lower >= interval.lower - 1e-12).all())
        assert bool((bound.upper <= interval.upper + 1e-12).all())
        tighter += int((bound.upper < interval.upper - 1e-6).sum())
    assert tighter > 0


def test_nan_weights_give_nan_bounds_and_never_a_proof(randomised: Build) -> None:
    graph, x, labels = _case(randomised, "average")
    with torch.no_grad():
        graph.nodes[1].layer.weight[0, 0, 0, 0] = torch.nan
    for bound in (crown_ibp_margins, crown_margins):
        found = bound(graph, input_box(x, 0.1, 0, 1), labels)
        assert not bool((found > 0).any())


def test_no_samples(randomised: Build) -> None:
    graph, x, labels = _case(randomised, "average")
    assert crown_margins(graph, input_box(x[:0], 0.1, 0, 1), labels[:0]).shape == (0, 4)
