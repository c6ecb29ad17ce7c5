import pytest
import torch
from torch import Tensor, nn

from sparsevlr.trainables.bounds import input_box
from sparsevlr.trainables.verification import Pgd, random_starts
from sparsevlr.trainables.verification.pgd import margin_loss

Problem = tuple[nn.Sequential, Tensor, Tensor]


def test_points_lie_in_the_box_and_found_ones_break_the_network(problem: Problem) -> None:
    network, x, y = problem
    box = input_box(x, 0.1, 0, 1)
    points, found = Pgd(restarts=2).attack(network, box, y, random_starts(torch.arange(200), (2,), 2, seed=0))
    assert bool((points >= box.lower).all())
    assert bool((points <= box.upper).all())
    assert torch.equal(network(points).argmax(1) != y, found)
    assert 0 < int(found.sum()) < 200
    assert not points.requires_grad
    assert all(parameter.grad is None and parameter.requires_grad for parameter in network.parameters())


def test_linear_networks_are_attacked_exactly() -> None:
    """Two classes: the worst corner is known, and signed gradient steps must reach it from any start."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(5, 2)).double()
    with torch.no_grad():
        network[0].bias.copy_(-network[0].weight.sum(1) / 2)
    x = torch.rand(100, 5, dtype=torch.float64)
    labels = network(x).argmax(1)
    box = input_box(x, 0.1, 0, 1)
    difference = network[0].weight[1 - labels] - network[0].weight[labels]
    broken = network(box.centre + box.radius * difference.sign()).argmax(1) != labels
    starts = random_starts(torch.arange(100), (5,), 1, seed=1).double()
    _, found = Pgd(steps=10).attack(network, box, labels, starts)
    assert torch.equal(found, broken)
    assert 0 < int(broken.sum()) < 100


def test_more_starts_never_find_less(problem: Problem) -> None:
    network, x, y = problem
    box, starts = input_box(x, 0.05, 0, 1), random_starts(torch.arange(200), (2,), 4, seed=0)
    counts = [int(Pgd(steps=2).attack(network, box, y, starts[:restarts])[1].sum()) for restarts in (1, 2, 4)]
    assert counts == sorted(counts)


def test_starts_depend_on_seed_and_sample_alone() -> None:
    starts = random_starts(torch.arange(10), (3, 2), 2, seed=5)
    assert starts.shape == (2, 10, 3, 2)
    assert bool((starts.abs() <= 1).all())
    assert starts.std().item() == pytest.approx(3**-0.5, abs=0.1)
    picked = random_starts(torch.tensor([7, 2]), (3, 2), 2, seed=5)
    assert torch.equal(picked, starts[:, [7, 2]])
    assert not torch.equal(random_starts(torch.arange(10), (3, 2), 2, seed=6), starts)
    assert random_starts(torch.arange(0), (3, 2), 2, seed=5).shape == (2, 0, 3, 2)


def test_works_without_gradients_enabled_around_it(problem: Problem) -> None:
    network, x, y = problem
    starts = random_starts(torch.arange(200), (2,), 1, seed=0)
    box = input_box(x, 0.1, 0, 1)
    expected = Pgd().attack(network, box, y, starts)[1]
    with torch.no_grad():
        assert torch.equal(Pgd().attack(network, box, y, starts)[1], expected)


def test_a_point_that_was_found_is_kept_though_the_next_step_leaves_it() -> None:
    class Ridge(nn.Module):
        """Class 1 only within 0.01 of 0.305, a ridge that any step from 0.3 jumps over."""

        def forward(self, x: Tensor) -> Tensor:
            height = 0.01 - (x[:, 0] - 0.305).abs()
            return torch.stack([torch.zeros_like(height), height], 1)

    # The first is found at its start, the second by the step, which takes the first off the ridge.
    box = input_box(torch.tensor([[0.3], [0.2]]), 0.2, 0, 1)
    labels = torch.zeros(2, dtype=torch.int64)
    points, found = Pgd(steps=1).attack(Ridge(), box, labels, torch.zeros(1, 2, 1))
    assert found.tolist() == [True, True]
    assert Ridge()(points).argmax(1).tolist() == [1, 1]


def test_a_gradient_that_is_nan_gives_no_false_counterexample() -> None:
    class Root(nn.Module):
        """Constant logits whose gradient is NaN."""

        def forward(self, x: Tensor) -> Tensor:
            first = 1 + (x * 0).sum(1).sqrt() * 0
            return torch.stack([first, first - 1], 1)

    box = input_box(torch.full((3, 2), 0.5), 0.1, 0, 1)
    points, found = Pgd().attack(Root(), box, torch.zeros(3, dtype=torch.int64), torch.zeros(1, 3, 2))
    assert not bool(found.any())
    assert bool(torch.isfinite(points).all())


def test_margin_loss() -> None:
    loss = margin_loss(torch.tensor([[1.0, 3.0, 2.0], [5.0, 0.0, 1.0]]), torch.tensor([1, 2]))
    assert loss.tolist() == [-1.0, 4.0]


@pytest.mark.parametrize("options", [{"steps": 0}, {"restarts": 0}, {"step_size": 0.0}, {"step_size": 3.0}])
def test_impossible_options(options: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="PGD needs"):
        Pgd(**options)  # type: ignore[arg-type]
