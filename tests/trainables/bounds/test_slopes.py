"""Optimised slopes: between CROWN and what is seen, near an independent implementation, and worth it."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from sparsevlr.spaces.architectures import ARCHITECTURES
from sparsevlr.trainables.bounds import (
    Box,
    Graph,
    crown_bounds,
    crown_margins,
    input_box,
    optimised_margins,
    trace,
)
from sparsevlr.trainables.verification.auto_lirpa import Method, lirpa_margins

Build = Callable[..., nn.Sequential]


def _optimised(graph: Graph, box: Box, labels: Tensor, iterations: int = 15, enough: float = torch.inf) -> Tensor:
    bounds = crown_bounds(graph, box, tighten=True)
    wanted = torch.full_like(box.centre.flatten(1)[:, 0], enough)
    return optimised_margins(graph, box, bounds, labels, wanted, iterations=iterations)


@pytest.mark.parametrize("shape", [(1, 6, 6), (3, 10)], ids=str)
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_lies_between_crown_and_what_is_seen(small_network: Build, name: str, shape: tuple[int, ...]) -> None:
    network = small_network(name, shape, 4)
    graph = trace(network, shape)
    x, labels = torch.rand(3, *shape, dtype=torch.float64), torch.randint(4, (3,))
    box = input_box(x, 0.1, 0, 1)
    found = _optimised(graph, box, labels)
    assert not found.requires_grad
    assert all(parameter.grad is None for parameter in network.parameters())
    spread = torch.rand(600, *x.shape, dtype=torch.float64) * 2 - 1
    spread[:300] = spread[:300].sign()
    with torch.no_grad():
        logits = network((box.centre + spread * box.radius).flatten(0, 1)).view(600, 3, 4)
    seen = (logits.gather(2, labels[None, :, None].expand(600, -1, 1)) - logits).amin(0)
    assert bool((found >= crown_margins(graph, box, labels)).all())
    assert bool((found <= seen + 1e-9).all())


def _random(seed: int) -> tuple[Graph, Box, Tensor]:
    torch.manual_seed(seed)
    network = nn.Sequential(nn.Linear(6, 24), nn.ReLU(), nn.Linear(24, 24), nn.ReLU(), nn.Linear(24, 3)).eval()
    return trace(network, (6,)), input_box(torch.rand(8, 6), 0.3, 0, 1), torch.arange(8) % 3


def test_is_much_tighter_than_crown_and_nearly_as_tight_as_with_all_bounds_optimised() -> None:
    graph, box, labels = _random(0)
    others = torch.ones(8, 3).scatter(1, labels[:, None], 0).bool()
    crown = crown_margins(graph, box, labels)[others].detach()
    ours = _optimised(graph, box, labels, iterations=20)[others]
    theirs = lirpa_margins(graph, box, labels, Method.alpha_crown, iterations=20)[others]
    assert (ours - crown).mean() > 0.5 * (theirs - crown).mean() > 0


def test_what_is_enough_is_left_as_it_is() -> None:
    graph, box, labels = _random(1)
    crown = crown_margins(graph, box, labels).detach()
    others = torch.ones(8, 3).scatter(1, labels[:, None], 0).bool()
    level = float(crown[others].median())
    found = _optimised(graph, box, labels, enough=level)
    assert torch.equal(found[crown > level], crown[crown > level])
    below = (crown <= level) & others
    assert bool((found[below] > crown[below]).any())
    assert torch.equal(_optimised(graph, box, labels, enough=-torch.inf), crown)


def test_a_margin_does_not_depend_on_the_batch() -> None:
    graph, box, labels = _random(3)
    enough = 0.2 * float(crown_margins(graph, box, labels).detach().abs().max())
    together = _optimised(graph, box, labels, enough=enough)
    for sample in range(8):
        alone = _optimised(graph, box.pick(slice(sample, sample + 1)), labels[sample : sample + 1], enough=enough)
        assert torch.allclose(alone[0], together[sample], atol=1e-5)


def test_more_steps_are_no_looser() -> None:
    graph, box, labels = _random(2)
    margins = [_optimised(graph, box, labels, iterations=steps) for steps in (1, 5, 25)]
    assert bool((margins[1] >= margins[0]).all())
    assert bool((margins[2] >= margins[1]).all())
    assert bool((margins[2] > margins[0] + 1e-3).any())
