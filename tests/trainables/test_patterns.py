"""Patterns against brute force."""

import itertools
from collections.abc import Mapping

import pytest
import torch
from torch import Tensor, nn

from sparsevlr.spaces.architectures import ARCHITECTURES
from sparsevlr.spaces.architectures.layers import Residual
from sparsevlr.trainables.bounds import Graph, trace
from sparsevlr.trainables.mask import Mask, prunable_weights
from sparsevlr.trainables.pruning import DISTRIBUTIONS, PATTERNS
from sparsevlr.trainables.pruning.groups import group_means
from sparsevlr.trainables.pruning.liveness import most_weights_left, over_readers

SHAPE = (1, 8, 8)


def select(
    pattern: str, scores: Mapping[str, Tensor], kept: int, graph: Graph, distribution: str = "global", **options: object
) -> dict[str, Tensor]:
    return PATTERNS[pattern](**options).select(scores, kept, DISTRIBUTIONS[distribution](), graph)


def built(architecture: str, **options: object) -> nn.Sequential:
    torch.manual_seed(2)
    return ARCHITECTURES[architecture](width=0.125, **options).build(SHAPE, 4)


def drawn(net: nn.Module, seed: int = 0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.rand(weight.shape, generator=generator) for name, weight in prunable_weights(net).items()}


def columns(weight: Tensor, m: int) -> list[Tensor]:
    """The groups of N:M, as views."""
    flat = weight.flatten(2) if weight.dim() > 2 else weight.unsqueeze(2)
    return [
        flat[row, start : start + m, tap]
        for row, tap in itertools.product(range(flat.shape[0]), range(flat.shape[2]))
        for start in range(0, flat.shape[1], m)
    ]


@pytest.mark.parametrize(("n", "m"), [(2, 4), (1, 4), (2, 3)])
def test_n_m_keeps_the_best_of_each_group(n: int, m: int) -> None:
    net = nn.Sequential(nn.Conv2d(12, 5, (2, 3)), nn.ReLU(), nn.Flatten(), nn.Linear(5 * 7 * 6, 12), nn.Linear(12, 4))
    graph, scores = trace(net, (12, 8, 8)), drawn(net)
    groups = [group for name, values in scores.items() for group in columns(values, m)]
    allowed = sum(min(n, len(group)) for group in groups)
    chosen = select("n-m", scores, allowed, graph, n=n, m=m)
    for name, values in scores.items():
        for kept, group in zip(columns(chosen[name], m), columns(values, m), strict=True):
            assert kept.nonzero().flatten().tolist() == sorted(group.argsort(descending=True)[:n].tolist())
    # Fewer: the lowest of these go. More: the best of the others come.
    fewer, more = (select("n-m", scores, allowed + step, graph, n=n, m=m) for step in (-30, 30))
    assert all(bool((fewer[name] <= chosen[name]).all() and (chosen[name] <= more[name]).all()) for name in scores)
    assert sum(int(kept.sum()) for kept in fewer.values()) == allowed - 30
    assert sum(int(kept.sum()) for kept in more.values()) == allowed + 30


@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
def test_n_m_holds_at_every_sparsity_of_its_limits(distribution: str) -> None:
    net = built("cnn-small")
    graph, scores = trace(net, SHAPE), drawn(net)
    total = sum(values.numel() for values in scores.values())
    low, _ = PATTERNS["n-m"]().limits(graph)
    for sparsity in (low, 0.7, 0.95):
        chosen = select("n-m", scores, round((1 - sparsity) * total), graph, distribution)
        for values in chosen.values():
            assert all(int(group.sum()) <= 2 for group in columns(values, 4))


@pytest.mark.parametrize("size", [1, 2, 3])
def test_block_keeps_the_best_blocks_that_fit(size: int) -> None:
    net = nn.Sequential(nn.Conv2d(5, 7, (2, 3)), nn.Flatten(), nn.Linear(7 * 7 * 6, 2))
    graph = trace(net, (5, 8, 8))
    scores = {name: values for name, values in drawn(net).items() if name == "0.weight"}
    (weight,) = scores.values()
    blocks = [
        (slice(row, row + size), slice(column, column + size))
        for row in range(0, 7, size)
        for column in range(0, 5, size)
    ]
    best = max(blocks, key=lambda block: float(weight[block].double().mean()))
    with pytest.raises(ValueError, match=f"leaves at least {weight[best].numel()} weights, more than the 5 asked for"):
        select("block", scores, 5, graph, size=size)
    for kept in (54, 61, 100, 200):
        expected = torch.zeros_like(weight, dtype=torch.bool)
        for block in sorted(blocks, key=lambda block: -float(weight[block].double().mean())):
            if int(expected.sum()) + weight[block].numel() > kept:
                break
            expected[block] = True
        assert torch.equal(select("block", scores, kept, graph, size=size)["0.weight"], expected)


@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_block_leaves_no_room_for_the_next_block_of_any_layer(architecture: str, distribution: str) -> None:
    net = built(architecture)
    graph, scores, pattern = trace(net, SHAPE), drawn(net), PATTERNS["block"]()
    total = sum(values.numel() for values in scores.values())
    # One block of each layer stays, and a fifth of the rest.
    least = total - round(pattern.limits(graph)[1] * total)
    kept = least + (total - least) // 5
    chosen = select("block", scores, kept, graph, distribution)
    spare = kept - sum(int(values.sum()) for values in chosen.values())
    assert spare >= 0
    for name, values in scores.items():
        index = pattern.groups(values)
        out = [group for group in range(int(index.max()) + 1) if not bool(chosen[name][index == group].any())]
        assert all(bool(chosen[name][index == group].all()) for group in set(index.unique().tolist()) - set(out))
        if out:
            best = max(out, key=lambda group: float(group_means(values, index)[group]))
            assert int((index == best).sum()) > spare


def activations(graph: Graph, x: Tensor) -> list[Tensor]:
    values = [x]
    for node in graph.nodes[1:]:
        values.append(node.layer(*(values[source] for source in node.inputs)))
    return values


@torch.no_grad()
def varying(graph: Graph, mask: Mapping[str, Tensor]) -> list[Tensor]:
    """Brute force: the values of each node that differ between two inputs, the second above the first everywhere.

    With positive weights everything that depends on the input grows with it, and no ReLU hides it.
    """
    for module in graph.network.modules():
        for name, parameter in module.named_parameters(recurse=False):
            parameter.copy_(torch.rand_like(parameter) + 0.1)
            if name == "weight" and isinstance(module, nn.Linear | nn.Conv2d):
                parameter.div_(parameter[0].numel() / 8)
    Mask(mask).apply_(graph.network)
    graph.network.double().eval()
    low, high = (torch.full((1, *graph.nodes[0].shape), value, dtype=torch.float64) for value in (0.5, 1.5))
    pairs = zip(activations(graph, low), activations(graph, high), strict=True)
    return [(after != before)[0] for before, after in pairs]


ALL = [
    *(pytest.param(name, {}, id=name) for name in ARCHITECTURES),
    *(
        pytest.param(name, {"batchnorm": on}, id=f"{name}-{on}")
        for name in ("mlp", "cnn7", "resnet-small", "cnn1d")
        for on in (True, False)
    ),
]


@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
@pytest.mark.parametrize(("architecture", "options"), ALL)
def test_filter_takes_along_exactly_what_reads_no_input_any_more(
    architecture: str, options: dict[str, object], distribution: str
) -> None:
    net = built(architecture, **options)
    graph, scores = trace(net, SHAPE), drawn(net)
    total = sum(values.numel() for values in scores.values())
    for density in (0.5, 0.15, most_weights_left(graph) / total):
        mask = select("filter", scores, round(density * total), graph, distribution)
        assert sum(int(kept.sum()) for kept in mask.values()) <= round(density * total)
        varies = varying(graph, mask)
        name_of = {id(weight): name for name, weight in prunable_weights(net).items()}
        for node in graph.nodes[1:]:
            if not isinstance(node.layer, nn.Linear | nn.Conv2d):
                continue
            kept = mask[name_of[id(node.layer.weight)]]
            read = varies[node.inputs[0]]
            read = read.flatten(1).any(1) if read.dim() > 1 else read
            rows = kept.flatten(1).any(1)
            assert bool(rows.all()) if node.layer is graph.last_linear else bool(rows.any())
            ends = [1] * (kept.dim() - 2)
            assert torch.equal(kept, (rows.view(-1, 1, *ends) & read.view(1, -1, *ends)).expand_as(kept))


def test_filter_by_hand() -> None:
    net = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 2), nn.ReLU(), nn.Linear(2, 2))
    scores = {
        "0.weight": torch.tensor([[5.0, 5.0], [1.0, 2.0], [4.0, 4.0]]),
        "2.weight": torch.tensor([[6.0, 6.0, 6.0], [3.0, 3.0, 3.0]]),
        "4.weight": torch.tensor([[0.0, 0.0], [0.0, 0.0]]),
    }
    graph = trace(net, (2,))
    # The second neuron takes its 2 weights and 2 that read it: of 16 weights 12 are left.
    for kept in (15, 14, 13, 12):
        mask = select("filter", scores, kept, graph)
        assert mask["0.weight"].tolist() == [[True, True], [False, False], [True, True]]
        assert mask["2.weight"].tolist() == [[True, False, True]] * 2
        assert bool(mask["4.weight"].all())
    # The second of the next layer, of mean 3, and the 2 weights that read it, go: 11 is just enough for the rest.
    mask = select("filter", scores, 11, graph)
    assert bool(mask["0.weight"].all())
    assert mask["2.weight"].tolist() == [[True, True, True], [False, False, False]]
    # Without both 8 are left.
    mask = select("filter", scores, 10, graph)
    assert mask["0.weight"].tolist() == [[True, True], [False, False], [True, True]]
    assert mask["2.weight"].tolist() == [[True, False, True], [False, False, False]]
    assert mask["4.weight"].tolist() == [[True, False]] * 2
    # One neuron and one neuron: 2 + 1 + 2 weights are the fewest.
    assert sum(int(kept.sum()) for kept in select("filter", scores, 5, graph).values()) == 5
    assert PATTERNS["filter"]().limits(graph) == (0.0, 1 - 5 / 16)
    with pytest.raises(ValueError, match="at least 5 weights, more than the 4 asked for"):
        select("filter", scores, 4, graph)


def test_a_sum_keeps_a_channel_alive_until_all_its_branches_are_dead() -> None:
    block = Residual(nn.Sequential(nn.Conv2d(2, 2, 1)), nn.Identity())
    net = nn.Sequential(nn.Conv2d(1, 2, 1), block, nn.ReLU(), nn.Flatten(), nn.Linear(8, 2))
    graph = trace(net, (1, 2, 2))
    scores = {
        "0.weight": torch.tensor([3.0, 2.0]).view(2, 1, 1, 1),
        "1.body.0.weight": torch.tensor([[1.0, 1.0], [4.0, 4.0]]).view(2, 2, 1, 1),
        "4.weight": torch.zeros(2, 8),
    }
    # Of 22 weights the body's first filter takes only its own 2: the shortcut still feeds the channel.
    mask = select("filter", scores, 20, graph)
    assert mask["1.body.0.weight"].flatten(1).tolist() == [[False, False], [True, True]]
    assert bool(mask["4.weight"].all())
    # Without the shortcut's second channel, the body's second filter still feeds that one.
    mask = select("filter", scores, 18, graph)
    assert mask["0.weight"].flatten().tolist() == [True, False]
    assert mask["1.body.0.weight"].flatten(1).tolist() == [[False, False], [True, False]]
    assert bool(mask["4.weight"].all())
    # Neither channel can go any more: what can always be reached is 1 + 1 * 2 + 2 * 8.
    assert PATTERNS["filter"]().limits(graph)[1] == 1 - (1 + 1 + 16) / 22


@torch.no_grad()
def test_biases_and_batchnorm_of_dead_filters_need_not_be_zero() -> None:
    net = built("cnn7").eval()
    graph, scores = trace(net, SHAPE), drawn(net)
    mask = select("filter", scores, sum(values.numel() for values in scores.values()) // 3, graph)
    Mask(mask).apply_(net)
    x = torch.rand(5, *SHAPE)
    before = net(x)
    dead = 0
    for node, after in itertools.pairwise(graph.nodes):
        if isinstance(node.layer, nn.Linear | nn.Conv2d) and isinstance(after.layer, nn.BatchNorm1d | nn.BatchNorm2d):
            gone = node.layer.weight.flatten(1).count_nonzero(1) == 0
            dead += int(gone.sum())
            for values in (node.layer.bias, after.layer.weight, after.layer.bias, after.layer.running_mean):
                values[gone] = 7.0
    assert dead > 0
    assert torch.equal(net(x), before)


@pytest.mark.parametrize(
    ("network", "message"),
    [
        (lambda: [nn.Conv2d(2, 4, 3, groups=2), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 3)], "grouped convolution"),
        (lambda: [nn.Linear(8, 3), nn.Flatten(), nn.Linear(2 * 8 * 3, 3)], "over more than a vector"),
        (lambda: [nn.Flatten(), *map(nn.Sequential, [nn.Linear(128, 128)] * 2), nn.Linear(128, 3)], "used twice"),
    ],
)
def test_layers_without_filters_are_refused(network: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PATTERNS["filter"]().limits(trace(nn.Sequential(*network()), (2, 8, 8)))


def test_n_m_stays_n_m_within_the_mask_of_a_parent() -> None:
    net = nn.Sequential(nn.Conv2d(12, 16, 3), nn.ReLU(), nn.Flatten(), nn.Linear(16 * 36, 12), nn.Linear(12, 4))
    graph, scores = trace(net, (12, 8, 8)), drawn(net)
    total = sum(values.numel() for values in scores.values())
    left = select("block", scores, round(0.4 * total), graph)
    within = {name: values.masked_fill(~left[name], -torch.inf) for name, values in scores.items()}
    chosen = select("n-m", within, round(0.3 * total), graph)
    assert all(int(group.sum()) <= 2 for kept in chosen.values() for group in columns(kept, 4))
    assert all(bool((kept <= left[name]).all()) for name, kept in chosen.items())
    assert sum(int(kept.sum()) for kept in chosen.values()) < round(0.3 * total)


@pytest.mark.parametrize(
    ("pattern", "options"),
    [
        ("n-m", {"n": 4, "m": 4}),
        ("n-m", {"n": 0}),
        ("block", {"size": 0}),
    ],
)
def test_impossible_options_are_refused(pattern: str, options: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"pattern\.(n|size)"):
        PATTERNS[pattern](**options)


def test_what_reads_an_output_is_found_through_convolutions_sums_and_flattening() -> None:
    inner = nn.Sequential(nn.Conv2d(3, 5, 3, padding=1), nn.ReLU(), nn.Conv2d(5, 3, 3, padding=1))
    net = nn.Sequential(
        nn.Conv2d(1, 3, 3),
        nn.ReLU(),
        Residual(inner, nn.Identity()),
        nn.Conv2d(3, 4, 2),
        nn.Flatten(),
        nn.Linear(4 * 25, 6),
    )
    values = drawn(net)
    first, inside, back, last, logits = (values[name].double() for name in values)
    found = over_readers(trace(net, SHAPE), values)
    # The sum's channels are read by the convolution behind it, whichever branch they come from.
    expected = [
        [float(inside[:, channel].sum() + last[:, channel].sum()) for channel in range(3)],
        [float(back[:, channel].sum()) for channel in range(5)],
        [float(last[:, channel].sum()) for channel in range(3)],
        [float(logits.view(6, 4, 25)[:, channel].sum()) for channel in range(4)],
        [0.0] * 6,
    ]
    assert first.shape[0] == 3
    for name, wanted in zip(values, expected, strict=True):
        assert found[name].tolist() == pytest.approx(wanted)
