"""Verdicts by L2, where they are known."""

import math

import numpy as np
import pytest
import torch
from milp_oracle import smallest_margins
from torch import Tensor, nn

from sparsevlr.trainables.bounds import input_region
from sparsevlr.trainables.verification import (
    VERIFIERS,
    CascadeOptions,
    Cause,
    Pgd,
    Verdict,
    Verification,
    random_starts,
    verified_over_grid,
    verify,
)

Problem = tuple[nn.Sequential, Tensor, Tensor]
EPSILON = 0.06
STAGES = ("ibp", "pgd", "crown-ibp", "crown", "alpha-crown")


def by_l2(network: nn.Module, x: Tensor, y: Tensor, epsilon: float, **options: object) -> Verification:
    cascade = CascadeOptions(**{"stages": STAGES, "audit": None, "pgd_restarts": 4} | options)  # type: ignore[arg-type]
    return verify(network, x, y, epsilon=epsilon, low=0, high=1, norm="l2", options=cascade)


def linear() -> tuple[nn.Sequential, Tensor, Tensor, Tensor]:
    """Network, inputs far from the ends of their range, labels, and the L2 distance to the nearest other class."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(6, 4)).double()
    x = torch.rand(40, 6, dtype=torch.float64) * 0.2 + 0.4
    with torch.no_grad():
        network[0].bias.copy_(-network[0].weight.sum(1) / 2)
        logits = network(x)
    labels = logits.argmax(1)
    margins = logits.gather(1, labels[:, None]) - logits
    norms = (network[0].weight[labels][:, None] - network[0].weight).detach().norm(dim=2)
    ways = (margins / norms).scatter(1, labels[:, None], torch.inf)
    return network.eval(), x, labels, ways.amin(1)


@pytest.mark.parametrize("stage", [name for name in VERIFIERS if name != "exact"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_a_linear_network_is_verified_up_to_its_distance_to_another_class(stage: str, dtype: torch.dtype) -> None:
    network, x, labels, distance = linear()
    network, x = network.to(dtype), x.to(dtype)
    for sample in range(0, 40, 5):
        one, label = x[sample : sample + 1], labels[sample : sample + 1]
        for factor, verdict in ((0.98, Verdict.verified), (1.02, Verdict.unknown)):
            found = by_l2(network, one, label, factor * distance[sample].item(), stages=(stage,))
            assert found.verdict.tolist() == [verdict]
        assert by_l2(network, one, label, 1.02 * distance[sample].item(), stages=("pgd",)).stage.tolist() == ["pgd"]


def test_every_verdict_is_as_a_grid_says(problem: Problem) -> None:
    """Counterexamples are within epsilon; what is verified keeps its class all over the disc."""
    network, x, y = problem
    found = by_l2(network, x, y, EPSILON)
    radii, angles = torch.linspace(0, EPSILON, 25), torch.linspace(0, 2 * math.pi, 181)
    disc = (radii[:, None, None] * torch.stack([angles.cos(), angles.sin()], 1)).flatten(0, 1)
    with torch.no_grad():
        classes = network((x[:, None] + disc).clamp(0, 1).flatten(0, 1)).argmax(1).view(200, -1)
    holds = (classes == y[:, None]).all(1).numpy()
    assert set(found.verdict) == {Verdict.verified, Verdict.falsified, Verdict.unknown}
    assert holds[found.verdict == Verdict.verified].all()
    assert not holds[found.stage == "natural"].any()
    assert found.n_unknown < 20
    for sample, point in found.counterexamples.items():
        inside = torch.from_numpy(point).double()
        assert (inside - x[sample].double()).norm().item() <= EPSILON
        assert bool(((inside >= 0) & (inside <= 1)).all())
        assert int(network(torch.from_numpy(point)[None]).argmax(1)) != int(y[sample])
    # The box around the disc has more to verify, the one within it less.
    around = verify(network, x, y, epsilon=EPSILON, low=0, high=1, options=CascadeOptions(stages=STAGES))
    assert (found.verdict[around.verdict == Verdict.verified] == Verdict.verified).all()
    assert found.n_verified > around.n_verified


def test_nothing_is_verified_that_the_oracle_breaks_in_the_box_within() -> None:
    """The box of radius epsilon / sqrt(n) lies in the ball; its exact margin is none below that of the ball."""
    torch.manual_seed(1)
    checked = 0
    for _ in range(12):
        network = nn.Sequential(
            nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 3)
        ).double().eval()  # fmt: skip
        x = torch.rand(1, 4, dtype=torch.float64) * 0.4 + 0.3
        label = network(x).argmax(1)
        for epsilon in (0.05, 0.1, 0.2, 0.4):
            found = by_l2(network, x, label, epsilon)
            lower, upper = (x[0] - epsilon / 2).numpy(), (x[0] + epsilon / 2).numpy()
            margins = smallest_margins(network, lower, upper, int(label))
            least = np.delete(margins, int(label)).min()
            if found.verdict[0] == Verdict.verified:
                assert found.margin[0] <= least + 1e-6
                assert least > 0
            checked += int(abs(least) < 0.2)
    assert checked > 10


def test_counterexamples_in_float32_are_within_epsilon_however_it_rounds() -> None:
    torch.manual_seed(2)
    network = nn.Sequential(nn.Flatten(), nn.Linear(784, 2)).eval()
    with torch.no_grad():
        network[1].weight.mul_(10)
        network[1].bias.copy_(-network[1].weight.sum(1) / 2)
        x = torch.rand(50, 1, 28, 28)
        labels = network(x).argmax(1)
    found = by_l2(network, x, labels, 0.7, stages=("pgd",))
    assert found.n_falsified > 10
    for sample, point in found.counterexamples.items():
        assert np.linalg.norm(point.astype(np.float64) - x[sample].double().numpy()) <= 0.7


def test_the_attack_reaches_the_sphere(problem: Problem) -> None:
    _, x, _ = problem
    ball = input_region(x, EPSILON, 0.0, 1.0, norm="l2")
    pgd = Pgd(steps=10, step_size=2.0)
    start = random_starts(torch.arange(200), (2,), 1, seed=0)[0]
    points = pgd.ascend(lambda inputs: inputs.sum(), ball, start)
    free = ((x > EPSILON) & (x < 1 - EPSILON)).all(1)
    assert torch.allclose(points[free], (x + EPSILON / math.sqrt(2))[free], atol=1e-3)


def test_the_exact_stage_leaves_balls_alone_and_says_why(problem: Problem) -> None:
    network, x, y = problem
    found = by_l2(network, x, y, EPSILON, stages=("exact",))
    left = found.verdict == Verdict.unknown
    assert left.any()
    assert set(found.cause[left]) == {Cause.failure}
    assert "the exact stage is for boxes (norm linf)" in found.reason[left][0]


def test_over_a_grid_verified_accuracy_falls(problem: Problem) -> None:
    network, x, y = problem
    grid = [0.01, 0.03, EPSILON]
    accuracies = verified_over_grid(network, x, y, grid, low=0, high=1, norm="l2")
    assert accuracies[0] > accuracies[1] > accuracies[2] > 0
    boxes = verified_over_grid(network, x, y, grid, low=0, high=1)
    assert (accuracies >= boxes).all()


def test_other_norms_are_refused(problem: Problem) -> None:
    network, x, y = problem
    with pytest.raises(ValueError, match="norm must be one of linf, l2, got 'l1'"):
        verify(network, x, y, epsilon=0.1, low=0, high=1, norm="l1")  # type: ignore[arg-type]


def _identity(first: list[list[float]], last: list[list[float]], bias: list[float]) -> nn.Sequential:
    network = nn.Sequential(nn.Linear(len(first[0]), len(first), bias=False), nn.ReLU(), nn.Linear(len(first), 2))
    with torch.no_grad():
        network[0].weight.copy_(torch.tensor(first))
        network[2].weight.copy_(torch.tensor(last))
        network[2].bias.copy_(torch.tensor(bias))
    return network.eval()


EXTREME = {
    "squares of radii overflow": (_identity([[1.0, 0.0], [0.0, 1.0]], [[1.0, 0.0], [0.0, 1.0]], [0.0, 0.0]), 2e19),
    "radii overflow": (_identity([[1.0, 0.0], [0.0, 1.0]], [[1.0, 0.0], [0.0, 1.0]], [0.0, 0.0]), 1e39),
    "infinite": (_identity([[1.0, 0.0], [0.0, 1.0]], [[1.0, 0.0], [0.0, 1.0]], [0.0, 0.0]), math.inf),
    "squares of weights overflow": (
        _identity([[2e10, 1e10], [0.0, 1e10]], [[2e10, 0.0], [0.0, 0.0]], [0.0, 3e20]),
        0.25,
    ),
    "squares underflow": (_identity([[1e-24, 0.0]], [[-1e24], [0.0]], [0.95, 0.0]), 0.9),
    "some underflow beside others": (
        _identity([[1.0, 0.0], [0.0, 1e-24]], [[0.0, -1e24], [0.0, 0.0]], [0.6, 0.0]),
        0.9,
    ),
}


@pytest.mark.parametrize("stage", [name for name in VERIFIERS if name != "exact"])
@pytest.mark.parametrize("name", EXTREME)
def test_no_size_of_radii_and_weights_proves_what_is_false(name: str, stage: str) -> None:
    network, epsilon = EXTREME[name]
    x = torch.tensor([[0.9, 0.1]])
    with torch.no_grad():
        label = network(x).argmax(1)
        other = network(torch.tensor([[0.1, 0.9], [1.0, 1.0], [0.9, 1.0], [0.0, 0.0], [0.7, 0.0]])).argmax(1)
    assert bool((other != label).any())
    assert by_l2(network, x, label, epsilon, stages=(stage,), audit=0).n_verified == 0


def test_counterexamples_in_float64_never_leave_the_range() -> None:
    """Half the sum of the ends of a box, and half its width, may miss the ends by a bit."""
    network = nn.Sequential(nn.Linear(4, 2, bias=False)).double().eval()
    with torch.no_grad():
        network[0].weight.copy_(torch.tensor([[1.0, 1, -1, -1], [-1, -1, 1, 1]]))
    x = torch.rand(200, 4, dtype=torch.float64) * 0.8 + 0.1
    y = network(x).argmax(1)
    for stage in ("pgd", "exact"):
        options = CascadeOptions(stages=(stage,))
        found = verify(network, x, y, epsilon=1.7, low=0.1, high=0.9, options=options)
        points = np.stack(list(found.counterexamples.values()))
        assert len(points) > 150
        assert points.min() >= 0.1
        assert points.max() <= 0.9
