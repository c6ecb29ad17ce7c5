"""Masks that leave a way through the network, against brute force."""

import itertools
from dataclasses import fields

import pytest
import torch
from torch import nn

from sparsevlr.spaces.architectures import ARCHITECTURES
from sparsevlr.trainables.bounds import Graph, trace
from sparsevlr.trainables.errors import Disconnected
from sparsevlr.trainables.mask import Mask, prunable_weights
from sparsevlr.trainables.pruning import DISTRIBUTIONS, PATTERNS, connects, kept_weights
from sparsevlr.trainables.pruning.connection import best_path, select

SHAPE = (1, 8, 8)


def built(architecture: str) -> nn.Sequential:
    torch.manual_seed(1)
    options = {"batchnorm": True} if "batchnorm" in {f.name for f in fields(ARCHITECTURES[architecture])} else {}
    return ARCHITECTURES[architecture](width=0.25, **options).build(SHAPE, 4)


def drawn(net: nn.Module, seed: int = 0) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.rand(weight.shape, generator=generator) for name, weight in prunable_weights(net).items()}


@torch.no_grad()
def varies(graph: Graph, mask: dict[str, torch.Tensor]) -> bool:
    """Brute force: with positive weights, whether any logit differs between two inputs, one above the other."""
    for module in graph.network.modules():
        for name, parameter in module.named_parameters(recurse=False):
            parameter.fill_(1.0)
            if name == "weight" and isinstance(module, nn.Linear | nn.Conv2d):
                parameter.div_(parameter[0].numel() ** 0.5)
    Mask(mask).apply_(graph.network)
    graph.network.double().eval()
    low, high = (torch.full((1, *SHAPE), value, dtype=torch.float64) for value in (1.0, 9.0))
    return not torch.equal(graph.network(low), graph.network(high))


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_connected_is_what_depends_on_the_input(architecture: str) -> None:
    net = built(architecture)
    graph = trace(net, SHAPE)
    answers = set()
    for seed, density in itertools.product(range(8), (0.003, 0.01, 0.05)):
        mask = {name: values < density for name, values in drawn(net, seed).items()}
        answers.add(connects(graph, mask))
        assert connects(graph, mask) == varies(graph, mask)
    assert answers == {True, False}


@pytest.mark.parametrize("sparsity", [0.995])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
def test_no_layer_is_empty_and_no_network_cut_off(
    architecture: str, pattern: str, distribution: str, sparsity: float
) -> None:
    net = built(architecture)
    graph, chosen = trace(net, SHAPE), PATTERNS[pattern]()
    sparsity = min(sparsity, chosen.limits(graph)[1])
    kept = kept_weights(Mask.dense(net).total, sparsity)
    # With the worst of scores for it: as for any magnitude score, one layer is far below the others.
    scores = drawn(net)
    list(scores.values())[1].mul_(1e-3)
    mask = select(chosen, scores, kept, DISTRIBUTIONS[distribution](), graph)
    count = sum(int(values.sum()) for values in mask.values())
    assert count == kept if pattern in ("unstructured", "n-m") else 0 < count <= kept
    assert all(bool(values.any()) for values in mask.values()) or pattern == "filter"
    assert varies(graph, mask)


def test_the_path_takes_the_place_of_the_least_valuable() -> None:
    net = nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 1))
    graph = trace(net, (2,))
    scores = {
        "0.weight": torch.tensor([[9.0, 8.0], [1.0, 2.0]]),
        "2.weight": torch.tensor([[3.0, 7.0], [0.5, 6.0]]),
        "4.weight": torch.tensor([[4.0, 5.0]]),
    }
    # The first neuron is written and the second read. The best path begins with 9, which leaves 3 and 0.5 to go on.
    path = {
        "0.weight": [[True, False], [False, False]],
        "2.weight": [[True, False], [False, False]],
        "4.weight": [[True, False]],
    }
    assert {name: values.tolist() for name, values in best_path(graph, scores).items()} == path
    mask = select(PATTERNS["unstructured"](), scores, 5, DISTRIBUTIONS["global"](), graph)
    assert mask["0.weight"].tolist() == [[True, True], [False, False]]
    assert mask["2.weight"].tolist() == [[True, True], [False, False]]
    assert mask["4.weight"].tolist() == [[True, False]]
    with pytest.raises(ValueError, match="at least 3 weights, more than the 2 asked for"):
        select(PATTERNS["unstructured"](), scores, 2, DISTRIBUTIONS["global"](), graph)
    assert PATTERNS["unstructured"]().limits(graph) == (0.0, 1 - 3 / 10)


def test_a_selection_that_connects_is_left_alone() -> None:
    net = built("cnn-small")
    graph, scores = trace(net, SHAPE), drawn(net)
    for pattern in ("unstructured", "n-m", "block"):
        plain = PATTERNS[pattern]().select(scores, 500, DISTRIBUTIONS["erk"](), graph)
        mask = select(PATTERNS[pattern](), scores, 500, DISTRIBUTIONS["erk"](), graph)
        assert all(torch.equal(mask[name], plain[name]) for name in plain)


def test_a_weight_that_reads_nothing_but_padding_is_no_way() -> None:
    net = nn.Sequential(nn.Conv2d(1, 1, 3, padding=1), nn.Flatten(), nn.Linear(1, 2))
    graph = trace(net, (1, 1, 1))
    scores = drawn(net)
    scores["0.weight"][0, 0, 0, 0] = 9.0
    mask = select(PATTERNS["unstructured"](), scores, 2, DISTRIBUTIONS["uniform"](), graph)
    assert mask["0.weight"].flatten().nonzero().tolist() == [[4]]


def test_where_no_path_is_left_the_error_says_so() -> None:
    net = nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 2))
    graph, scores = trace(net, (2,)), {}
    scores["0.weight"] = torch.tensor([[1.0, 1.0], [-torch.inf, -torch.inf]])
    scores["2.weight"] = torch.tensor([[-torch.inf, 1.0], [-torch.inf, 1.0]])
    with pytest.raises(Disconnected, match=r"must have a path .* no choice of 4 weights .* lower sparsity"):
        select(PATTERNS["unstructured"](), scores, 2, DISTRIBUTIONS["global"](), graph)
