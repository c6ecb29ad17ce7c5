import itertools
import math

import pytest
import torch
from torch import nn

from sparsevlr.trainables.certified_training import INITIALISATIONS, LOSSES, RAMPS, SmoothedRamp
from sparsevlr.trainables.mask import Mask
from sparsevlr.trainables.optimizers import OPTIMIZERS, Adam


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


def test_the_linear_ramp_is_a_line() -> None:
    ramp = RAMPS["linear"](100, 500)
    assert [ramp.value(step) for step in (0, 100, 200, 400, 500, 600)] == [0, 0, 0.25, 0.75, 1, 1]


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


def test_the_learning_rate_falls_along_half_a_cosine() -> None:
    optimizer = Adam(learning_rate=2.0, schedule="cosine")
    assert [optimizer.rate(progress) for progress in (0, 1 / 3, 0.5, 1)] == pytest.approx([2, 1.5, 1, 0])


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_optimizers_move_weights_as_their_papers_say(name: str) -> None:
    """Two steps by hand, gradient 1 then 3, weight 2, decay 0.5."""
    weight = nn.Parameter(torch.tensor([2.0], dtype=torch.float64))
    torch_optimizer = OPTIMIZERS[name](learning_rate=0.1, weight_decay=0.5).build([weight])
    value, first, second = 2.0, 0.0, 0.0
    for step, slope in enumerate([1.0, 3.0], start=1):
        weight.grad = torch.tensor([slope], dtype=torch.float64)
        torch_optimizer.step()
        gradient = slope if name == "adamw" else slope + 0.5 * value
        value *= 1 - 0.1 * 0.5 if name == "adamw" else 1
        first, second = 0.9 * first + 0.1 * gradient, 0.999 * second + 0.001 * gradient**2
        mean, size = first / (1 - 0.9**step), math.sqrt(second / (1 - 0.999**step))
        # The first steps of RAdam, up to the fifth, know too little of the variance to divide by it.
        value -= 0.1 * mean / (1 if name == "radam" else size + 1e-8)
        assert weight.item() == pytest.approx(value)


def test_the_l1_penalty_spares_pruned_weights() -> None:
    weights = [nn.Parameter(torch.tensor([2.0, -3.0, 0.0])), nn.Parameter(torch.tensor([1.0]))]
    weights[0].grad = torch.tensor([1.0, 1.0, 0.0])
    Adam(l1=0.25).add_l1_(weights)
    assert weights[0].grad.tolist() == [1.25, 0.75, 0.0]
    assert weights[1].grad is None
    Adam().add_l1_(weights)
    assert weights[0].grad.tolist() == [1.25, 0.75, 0.0]


@pytest.mark.parametrize(
    "options",
    [
        {"learning_rate": 0.0},
        {"drop": 0.0},
        {"first_drop": 0.9, "second_drop": 0.8},
        {"clip": -1.0},
        {"weight_decay": -1.0},
        {"l1": -1e-9},
        {"average": 1.0},
        {"l1": math.inf},
        {"learning_rate": math.nan},
        {"schedule": "linear"},
    ],
)
def test_impossible_optimizers_are_refused(options: dict[str, float]) -> None:
    for optimizer in OPTIMIZERS.values():
        with pytest.raises(ValueError, match="optimizer"):
            optimizer(**options)
