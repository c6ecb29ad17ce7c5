import itertools
import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from sparsevlr.trainables.bounds import input_box, trace
from sparsevlr.trainables.certified_training import INITIALISATIONS, LOSSES, Batch, SmoothedRamp
from sparsevlr.trainables.mask import Mask
from sparsevlr.trainables.optimizers import OPTIMIZERS, Adam


def small() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3)).double()


def batch(epsilon: float, ramp: float) -> Batch:
    x = torch.rand(5, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    return Batch(x, torch.tensor([0, 1, 2, 0, 1]), *input_box(x, epsilon, 0.0, 1.0), ramp)


@pytest.mark.parametrize("name", LOSSES)
def test_at_epsilon_0_a_loss_is_plain_cross_entropy(name: str) -> None:
    net, data = small(), batch(0.0, 0.0)
    loss = LOSSES[name]().loss(trace(net, (4,)), data)
    assert loss.item() == pytest.approx(F.cross_entropy(net(data.x), data.y).item(), rel=1e-12)


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("ramp", [0.3, 1.0])
def test_gradients_agree_with_finite_differences(name: str, ramp: float) -> None:
    net, data = small(), batch(0.07, ramp)
    graph, loss = trace(net, (4,)), LOSSES[name]()
    parameters = list(net.parameters())

    def value(*new: torch.Tensor) -> torch.Tensor:
        for parameter, values in zip(parameters, new, strict=True):
            parameter.data = values.detach()
        return loss.loss(graph, data)

    analytic = torch.autograd.grad(loss.loss(graph, data), parameters)
    for index, parameter in enumerate(parameters):
        flat = parameter.detach().clone().flatten()
        for position in range(0, flat.numel(), 3):
            ends = []
            for step in (1e-6, -1e-6):
                moved = flat.clone()
                moved[position] += step
                news = [p.detach().clone() for p in parameters]
                news[index] = moved.view_as(parameter)
                ends.append(value(*news).item())
                value(*[p if i != index else flat.view_as(parameter) for i, p in enumerate(news)])
            numeric = (ends[0] - ends[1]) / 2e-6
            assert analytic[index].flatten()[position].item() == pytest.approx(numeric, abs=1e-6, rel=1e-4)


def test_the_robust_loss_exceeds_the_loss_at_every_point_of_the_box() -> None:
    net, data = small(), batch(0.1, 1.0)
    robust = LOSSES["ibp"](kappa_start=0.0).loss(trace(net, (4,)), data)
    generator = torch.Generator().manual_seed(0)
    for _ in range(200):
        signs = torch.randint(0, 3, data.x.shape, generator=generator) - 1
        natural = F.cross_entropy(net(data.centre + signs * data.radius), data.y)
        assert natural <= robust


def test_kappa_falls_along_the_ramp() -> None:
    loss = LOSSES["ibp"](kappa_start=1.0, kappa_end=0.25)
    assert [loss.kappa(ramp) for ramp in (0.0, 0.5, 1.0)] == [1.0, 0.625, 0.25]


def test_the_ramp_is_smooth_monotone_and_ends_at_1() -> None:
    ramp = SmoothedRamp(100, 500)
    values = [ramp.value(step) for step in range(0, 601)]
    assert values[:101] == [0.0] * 101
    assert values[500:] == [1.0] * 101
    assert values == sorted(values)
    slopes = [after - before for before, after in itertools.pairwise(values[100:501])]
    # One slope from the middle on, reached without a jump.
    assert max(slopes[100:]) == pytest.approx(min(slopes[100:]), rel=1e-9)
    assert slopes[99] == pytest.approx(slopes[100], rel=0.05)
    # By hand: alpha = 1 / (0.75 * 4 / 64 + 0.25 / 64) = 256 / 13, and alpha 0.25^4 = 1 / 13.
    assert ramp.value(200) == pytest.approx(1 / 13)


def test_ramps_and_losses_refuse_impossible_values() -> None:
    with pytest.raises(ValueError, match="start < end"):
        SmoothedRamp(5, 5)
    with pytest.raises(ValueError, match="kappa_end"):
        LOSSES["ibp"](kappa_end=1.5)


def test_the_initialisation_has_the_published_deviation() -> None:
    net = nn.Sequential(nn.Conv2d(4, 64, 5), nn.Flatten(), nn.Linear(64, 500))
    INITIALISATIONS["ibp"]().initialise_(net, Mask.dense(net), torch.Generator().manual_seed(0))
    assert net[0].weight.std().item() == pytest.approx(math.sqrt(2 * math.pi) / 100, rel=0.03)
    assert net[2].weight.std().item() == pytest.approx(math.sqrt(2 * math.pi) / 64, rel=0.03)
    assert bool((net[0].bias == 0).all())


def test_the_learning_rate_drops_twice() -> None:
    optimizer = Adam(learning_rate=1.0, drop=0.1, first_drop=0.5, second_drop=0.75)
    assert [optimizer.rate(progress) for progress in (0, 0.49, 0.5, 0.75, 1)] == pytest.approx([1, 1, 0.1, 0.01, 0.01])


@pytest.mark.parametrize(
    "options",
    [
        {"learning_rate": 0.0},
        {"drop": 0.0},
        {"first_drop": 0.9, "second_drop": 0.8},
        {"clip": -1.0},
        {"weight_decay": -1.0},
    ],
)
def test_impossible_optimizers_are_refused(options: dict[str, float]) -> None:
    for optimizer in OPTIMIZERS.values():
        with pytest.raises(ValueError, match="optimizer"):
            optimizer(**options)
