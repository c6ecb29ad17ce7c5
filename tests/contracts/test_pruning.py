"""Every score, distribution, pattern and schedule keeps the promises of its base class."""

import itertools
from collections.abc import Iterator
from dataclasses import fields

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from sparsevlr.spaces.architectures import ARCHITECTURES
from sparsevlr.trainables.bounds import Box, Graph, trace
from sparsevlr.trainables.certified_training import IBP, Batch, CertifiedLoss
from sparsevlr.trainables.mask import Mask, prunable_weights
from sparsevlr.trainables.pruning import (
    DISTRIBUTIONS,
    PATTERNS,
    SCHEDULES,
    SCORES,
    Candidates,
    connects,
    first_due,
    kept_weights,
    prune,
    settled_from,
)
from sparsevlr.trainables.pruning.groups import group_mask, group_means

TRIPLES = list(itertools.product(SCORES, DISTRIBUTIONS, PATTERNS))
BY_WEIGHT = ("unstructured", "n-m")
"""Patterns that reach any sparsity exactly; the others do so by whole groups."""
LARGEST_STEP = {"block": 3 * 9, "filter": 9 + 7 * 4}
"""Of the network below: the most weights that one more group brings along, a filter itself and what reads it."""


def network(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(1, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(12, 7), nn.ReLU(), nn.Linear(7, 3))


def candidates(
    net: nn.Sequential, shape: tuple[int, ...] = (1, 4, 4), seed: int = 0, loss: CertifiedLoss | None = None
) -> Candidates:
    def batches(count: int, ramp: float) -> Iterator[Batch]:
        drawn = torch.Generator().manual_seed(seed)
        for _ in range(count):
            x = torch.rand(8, *shape, generator=drawn)
            y = torch.randint(net[-1].out_features, (8,), generator=drawn)
            yield Batch(x, y, Box(x, torch.full_like(x, 0.1 * ramp)), ramp)

    return Candidates(trace(net, shape), torch.Generator().manual_seed(seed), loss or IBP(), batches)


def pruned(
    score: str, distribution: str, pattern: str, sparsity: float, mask: Mask | None = None, seed: int = 0
) -> Mask:
    net = network()
    return prune(
        candidates(net, seed=seed),
        mask or Mask.dense(net),
        score=SCORES[score](),
        distribution=DISTRIBUTIONS[distribution](),
        pattern=PATTERNS[pattern](),
        sparsity=sparsity,
    )


def reachable(pattern: str, sparsity: float) -> float:
    """The sparsity, or the greatest that the pattern can reach in the network."""
    return min(sparsity, PATTERNS[pattern]().limits(trace(network(), (1, 4, 4)))[1])


def assert_reached(mask: Mask, pattern: str, sparsity: float) -> None:
    kept = kept_weights(mask.total, sparsity)
    if pattern in BY_WEIGHT or sparsity == 0:
        assert mask.kept == kept
    else:
        assert kept - LARGEST_STEP[pattern] < mask.kept <= kept
        assert mask.kept > 0


@pytest.mark.parametrize(("score", "distribution", "pattern"), TRIPLES)
@pytest.mark.parametrize("sparsity", [0.0, 0.1, 1 / 3, 0.5, 0.9, 0.99])
def test_reaches_the_sparsity(score: str, distribution: str, pattern: str, sparsity: float) -> None:
    sparsity = reachable(pattern, sparsity)
    assert_reached(pruned(score, distribution, pattern, sparsity), pattern, sparsity)


@pytest.mark.parametrize(("score", "distribution", "pattern"), TRIPLES)
def test_pruned_weights_never_come_back_on_the_way_up(score: str, distribution: str, pattern: str) -> None:
    mask = None
    for step, sparsity in enumerate([0.1, 0.11, 0.35, 0.36, 0.8, 0.81, 0.97]):
        sparsity = reachable(pattern, sparsity)
        new = pruned(score, distribution, pattern, sparsity, mask, seed=step)
        # Where the last step had to go below its budget, it may have done for this one.
        if new is not mask:
            assert_reached(new, pattern, sparsity)
        if mask is not None:
            assert all(bool((new[name] <= mask[name]).all()) for name in new)
        mask = new


@pytest.mark.parametrize(("score", "distribution", "pattern"), TRIPLES)
def test_a_sparser_mask_stays_as_it_is(score: str, distribution: str, pattern: str) -> None:
    mask = pruned(score, distribution, pattern, reachable(pattern, 0.9))
    assert pruned(score, distribution, pattern, 0.5, mask) is mask


@pytest.mark.parametrize(("score", "distribution", "pattern"), TRIPLES)
def test_masks_are_reproducible(score: str, distribution: str, pattern: str) -> None:
    first, second = (pruned(score, distribution, pattern, reachable(pattern, 0.7), seed=3) for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)


def narrow(architecture: str, classes: int = 4, shape: tuple[int, ...] = (1, 8, 8)) -> nn.Sequential:
    torch.manual_seed(1)
    options = {"batchnorm": True} if "batchnorm" in {f.name for f in fields(ARCHITECTURES[architecture])} else {}
    return ARCHITECTURES[architecture](width=0.125, **options).build(shape, classes)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
def test_every_architecture_can_be_pruned_as_far_as_the_pattern_says(
    architecture: str, pattern: str, distribution: str
) -> None:
    net = narrow(architecture)
    graph = trace(net, (1, 8, 8))
    chosen, total = PATTERNS[pattern](), Mask.dense(net).total
    least, most = chosen.limits(graph)
    mask = Mask.dense(net)
    for sparsity in (min(most, max(least, 0.5)), min(most, 0.995), most):
        mask = prune(
            candidates(net, (1, 8, 8)),
            mask,
            score=SCORES["random"](),
            distribution=DISTRIBUTIONS[distribution](),
            pattern=chosen,
            sparsity=sparsity,
        )
        kept = kept_weights(total, sparsity)
        assert 0 < mask.kept <= kept
        assert mask.kept == kept or pattern not in BY_WEIGHT


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("score", SCORES)
def test_scores_are_finite_and_shaped_like_the_weights(score: str, architecture: str) -> None:
    seen = candidates(narrow(architecture), (1, 8, 8))
    weights, scores = seen.weights, SCORES[score]().scores(seen)
    assert scores.keys() == weights.keys()
    for name, values in scores.items():
        assert values.shape == weights[name].shape
        assert bool(values.isfinite().all())


class Broken(CertifiedLoss):
    """Its gradient is infinite in some weights and NaN in others."""

    def loss(self, graph: Graph, batch: Batch) -> torch.Tensor:
        first, *_, last = (w for w in prunable_weights(graph.network).values())
        return (first * 1e38).sum() * 1e38 + torch.log(last * 0.0).sum() * 0.0


@pytest.mark.parametrize("score", SCORES)
def test_scores_are_finite_where_gradients_are_not(score: str) -> None:
    for values in SCORES[score]().scores(candidates(network(), loss=Broken())).values():
        assert bool(values.isfinite().all())


@pytest.mark.parametrize("score", ["snip", "taylor"])
def test_a_gradient_that_is_not_finite_says_nothing(score: str) -> None:
    for values in SCORES[score]().scores(candidates(network(), loss=Broken())).values():
        assert bool((values == 0).all())


@pytest.mark.parametrize("score", ["snip", "taylor", "stability"])
def test_scores_are_finite_where_a_weight_has_gone_astray(score: str) -> None:
    net = network()
    with torch.no_grad():
        net[3].weight[0, 0] = torch.inf
    for values in SCORES[score]().scores(candidates(net)).values():
        assert bool(values.isfinite().all())


@pytest.mark.parametrize("score", SCORES)
def test_scores_leave_no_trace_in_the_network(score: str) -> None:
    net = narrow("resnet-small")
    for index, module in enumerate(net.modules()):
        module.training = index % 3 > 0
    net[0].weight.requires_grad_(False)
    net[0].weight.grad = torch.ones_like(net[0].weight)
    state = {name: value.clone() for name, value in net.state_dict().items()}
    modes = [module.training for module in net.modules()]
    before = torch.get_rng_state()
    with torch.no_grad():
        SCORES[score]().scores(candidates(net, (1, 8, 8)))
    assert all(torch.equal(value, state[name]) for name, value in net.state_dict().items())
    assert [module.training for module in net.modules()] == modes
    assert [p.requires_grad for p in net.parameters()] == [False] + [True] * (len(list(net.parameters())) - 1)
    assert [p.grad is None for p in net.parameters()] == [False] + [True] * (len(list(net.parameters())) - 1)
    assert torch.equal(net[0].weight.grad, torch.ones_like(net[0].weight))
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
@pytest.mark.parametrize("kept", [0, 1, 5, 42, 131, 132])
def test_allocations_sum_up_and_fit(distribution: str, kept: int) -> None:
    scores = {name: weight.abs() for name, weight in prunable_weights(network()).items()}
    allocation = DISTRIBUTIONS[distribution]().allocate(scores, kept)
    assert sum(allocation.values()) == kept
    assert all(0 <= allocation[name] <= scores[name].numel() for name in scores)


@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
@given(data=st.data())
def test_allocations_count_on_no_weight_that_is_pruned(distribution: str, data: st.DataObject) -> None:
    scores = {name: weight.detach().abs() for name, weight in prunable_weights(network()).items()}
    rooms = {name: data.draw(st.integers(0, score.numel())) for name, score in scores.items()}
    for name, score in scores.items():
        score.view(-1)[rooms[name] :] = -torch.inf
    kept = data.draw(st.integers(0, sum(rooms.values())))
    allocation = DISTRIBUTIONS[distribution]().allocate(scores, kept)
    assert sum(allocation.values()) == kept
    assert all(0 <= allocation[name] <= rooms[name] for name in scores)


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("shape", [(5, 7), (4, 8), (3, 5, 3, 2)])
def test_groups_are_numbered_without_gaps_and_lead_there_and_back(pattern: str, shape: tuple[int, ...]) -> None:
    scores = torch.rand(shape)
    index = PATTERNS[pattern]().groups(scores)
    assert index.shape == shape
    assert index.unique().tolist() == list(range(int(index.max()) + 1))
    means = group_means(scores, index)
    for number, mean in enumerate(means.tolist()):
        assert mean == pytest.approx(float(scores[index == number].double().mean()))
    chosen = means > means.median()
    assert torch.equal(group_mask(chosen, index), means[index] > means.median())


@pytest.mark.parametrize("pattern", PATTERNS)
def test_ties_keep_the_lower_index(pattern: str) -> None:
    net = nn.Sequential(nn.Linear(8, 8, bias=False), nn.ReLU(), nn.Linear(8, 2, bias=False))
    with torch.no_grad():
        net[0].weight.fill_(1.0)
        net[2].weight.fill_(1.0)
    mask = prune(
        candidates(net, (8,)),
        Mask.dense(net),
        score=SCORES["magnitude"](),
        distribution=DISTRIBUTIONS["uniform"](),
        pattern=PATTERNS[pattern](),
        sparsity=0.5,
    )
    index = PATTERNS[pattern]().groups(mask["0.weight"])
    stays = torch.stack([mask["0.weight"][index == group].any() for group in range(int(index.max()) + 1)])
    expected = stays.sort(descending=True).values if pattern != "n-m" else torch.tensor([1, 1, 0, 0] * 16).bool()
    assert torch.equal(stays, expected)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_schedules_rise_from_at_least_0_to_1(schedule: str) -> None:
    fractions = [SCHEDULES[schedule]().due(step, 1000).sparsity for step in range(1001)]
    assert all(0 <= fraction <= 1 for fraction in fractions)
    assert fractions == sorted(fractions)
    assert fractions[-1] == 1
    assert SCHEDULES[schedule].description


OPTIONS = {
    "at-init": st.just({}),
    "iterative": st.fixed_dictionaries({"rounds": st.integers(1, 12), "rewind_to": st.floats(0, 1, exclude_max=True)}),
    "drop-and-grow": st.fixed_dictionaries(
        {
            "initial": st.floats(0, 1, exclude_min=True),
            "end": st.floats(0, 1, exclude_min=True),
            "updates": st.integers(1, 40),
        }
    ),
    "one-shot": st.fixed_dictionaries({"at": st.floats(0, 1, exclude_max=True)}),
    "gradual": st.tuples(st.floats(0, 1), st.floats(0, 1), st.integers(1, 40))
    .filter(lambda drawn: abs(drawn[0] - drawn[1]) > 1e-9)
    .map(lambda drawn: {"start": min(drawn[:2]), "end": max(drawn[:2]), "updates": drawn[2]}),
}


@pytest.mark.parametrize("schedule", SCHEDULES)
@given(data=st.data())
def test_a_schedule_prunes_nothing_before_it_is_first_due_and_something_from_then_on(
    schedule: str, data: st.DataObject
) -> None:
    chosen, steps = SCHEDULES[schedule](**data.draw(OPTIONS[schedule])), data.draw(st.integers(1, 200))
    first = first_due(chosen, steps)
    assert 0 <= first <= steps
    for step in range(steps + 1):
        assert (chosen.due(step, steps).sparsity > 0) == (step >= first)


@pytest.mark.parametrize("schedule", SCHEDULES)
@given(data=st.data())
def test_a_schedule_is_settled_with_its_last_decision(schedule: str, data: st.DataObject) -> None:
    chosen, steps = SCHEDULES[schedule](**data.draw(OPTIONS[schedule])), data.draw(st.integers(1, 200))
    dues = [chosen.due(step, steps) for step in range(steps + 1)]
    decisions = [
        step
        for step in range(1, steps + 1)
        if dues[step].rewind or dues[step].exchange or dues[step].sparsity > dues[step - 1].sparsity
    ]
    assert settled_from(chosen, steps) == max(decisions, default=0)


@pytest.mark.parametrize("schedule", SCHEDULES)
@given(data=st.data())
def test_a_schedule_asks_for_nothing_impossible(schedule: str, data: st.DataObject) -> None:
    chosen, steps = SCHEDULES[schedule](**data.draw(OPTIONS[schedule])), data.draw(st.integers(1, 200))
    dues = [chosen.due(step, steps) for step in range(steps + 1)]
    assert all(0 <= due.position <= 1 for due in dues)
    assert dues[-1].position == pytest.approx(1)
    assert chosen.restarts or all(due.position == step / steps for step, due in enumerate(dues))
    # A state is remembered before it is gone back to, and what training ends with has been trained.
    kept = [step for step, due in enumerate(dues) if due.keep]
    rewound = [step for step, due in enumerate(dues) if due.rewind]
    assert not rewound or kept[0] <= rewound[0]
    assert len(kept) <= 1
    assert not dues[-1].rewind
    assert dues[-1].exchange is None or dues[-1].exchange.share == 0
    for target in (0.0, 0.5, 0.99):
        sparsities = [due.of(target) for due in dues]
        assert sparsities == sorted(sparsities)
        assert sparsities[0] >= 0
        assert sparsities[-1] == target
    if chosen.once:
        assert {due.sparsity for due in dues} <= {0.0, 1.0}


def test_magnitude_removes_the_smallest_and_global_looks_across_layers() -> None:
    net = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False))
    with torch.no_grad():
        net[0].weight.copy_(torch.tensor([[4.0, -3.0], [0.1, 5.0]]))
        net[1].weight.copy_(torch.tensor([[0.2, -0.3], [0.4, 9.0]]))
    arguments = {"score": SCORES["magnitude"](), "pattern": PATTERNS["unstructured"](), "sparsity": 0.5}
    by_network = prune(candidates(net, (2,)), Mask.dense(net), distribution=DISTRIBUTIONS["global"](), **arguments)
    assert by_network["0.weight"].tolist() == [[True, True], [False, True]]
    assert by_network["1.weight"].tolist() == [[False, False], [False, True]]
    by_layer = prune(candidates(net, (2,)), Mask.dense(net), distribution=DISTRIBUTIONS["uniform"](), **arguments)
    assert by_layer["0.weight"].tolist() == [[True, False], [False, True]]
    assert by_layer["1.weight"].tolist() == [[False, False], [True, True]]


@pytest.mark.parametrize(
    ("schedule", "options"),
    [
        ("one-shot", {"at": 1.0}),
        ("one-shot", {"at": -0.1}),
        ("gradual", {"start": 0.5, "end": 0.5}),
        ("gradual", {"end": 1.1}),
        ("iterative", {"rewind_to": 1.0}),
        ("drop-and-grow", {"end": 0.0}),
        ("drop-and-grow", {"initial": 0.0}),
        ("drop-and-grow", {"drop_fraction": 1.0}),
    ],
)
def test_impossible_schedules_are_refused(schedule: str, options: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="fraction"):
        SCHEDULES[schedule](**options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"updates": 0}, "updates must be at least 1"),
        ({"grow_batches": 0}, "grow_batches must be at least 1"),
        ({"grow": "magnitude"}, "grow must be gradient or random"),
        ({"grow_epsilon": "full"}, "grow_epsilon must be ramp or target"),
    ],
)
def test_impossible_explorations_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SCHEDULES["drop-and-grow"](**options)
    with pytest.raises(ValueError, match="rounds must be at least 1"):
        SCHEDULES["iterative"](rounds=0)


def test_rounds_keep_the_same_factor_and_run_the_ramp_again() -> None:
    schedule = SCHEDULES["iterative"](rounds=3, rewind_to=0.5)
    dues = [schedule.due(step, 12) for step in range(13)]
    assert [due.of(0.96) for due in dues[::4]] == pytest.approx([0.0, 0.8, 0.96, 0.96])
    assert [due.position for due in dues] == pytest.approx(
        [0, 0.25, 0.5, 0.75, 0.5, 0.625, 0.75, 0.875, 0.5, 0.625, 0.75, 0.875, 1]
    )
    assert [step for step, due in enumerate(dues) if due.keep] == [2]
    assert [step for step, due in enumerate(dues) if due.rewind] == [4, 8]


def test_exchanges_lie_between_the_parts_of_the_exploration_and_shrink() -> None:
    schedule = SCHEDULES["drop-and-grow"](end=0.5, updates=4, drop_fraction=0.4)
    dues = [schedule.due(step, 80) for step in range(81)]
    exchanges = {step: due.exchange.share for step, due in enumerate(dues) if due.exchange is not None}
    # Half a cosine: 0.2 (1 + cos(pi / 4)), 0.2, 0.2 (1 - cos(pi / 4)).
    assert exchanges == pytest.approx({10: 0.2 + 0.1 * 2**0.5, 20: 0.2, 30: 0.2 - 0.1 * 2**0.5})


SMALL = {"block": {"size": 2}}


def exchanges(
    architecture: str, pattern: str, distribution: str, grow: str, count: int = 3
) -> tuple[Graph, list[Mask], int, int]:
    """Masks from a first one through exchanges, weights drawn anew before each; the weights asked for, of how many."""
    net = narrow(architecture)
    seen = candidates(net, (1, 8, 8))
    # At its limit a pattern keeps one group per layer and has none to exchange; blocks of 4 are there at once.
    chosen, first = PATTERNS[pattern](**SMALL.get(pattern, {})), Mask.dense(net)
    sparsity = min(0.8, 0.8 * chosen.limits(seen.graph)[1])
    masks = [
        prune(
            seen,
            first,
            score=SCORES["random"](),
            distribution=DISTRIBUTIONS["erk"](),
            pattern=chosen,
            sparsity=sparsity,
        )
    ]
    over = DISTRIBUTIONS[distribution]()
    kept = kept_weights(first.total, sparsity)
    rule = SCHEDULES["drop-and-grow"](end=1.0, updates=8, drop_fraction=0.5, grow=grow)
    for update in range(1, count + 1):
        masks[-1].apply_(net)
        exchange = rule.due(update, 8).exchange
        masks.append(exchange.exchange(candidates(net, (1, 8, 8), seed=update), masks[-1], chosen, over, kept, 0.5))
    return seen.graph, masks, kept, first.total


def is_of(pattern: str, graph: Graph, mask: Mask) -> bool:
    """Whether a mask is one that the pattern allows."""
    if pattern == "n-m":
        return all(
            bool((part.sum(1) <= 2).all())
            for values in mask.values()
            for part in (values.flatten(2) if values.dim() > 2 else values.unsqueeze(2)).split(4, dim=1)
        )
    if pattern == "filter":
        # Selecting what it keeps already takes nothing more along: whole filters, and no weight that reads none.
        scores = {name: values.double().masked_fill(~values, -torch.inf) for name, values in mask.items()}
        again = PATTERNS["filter"]().select(scores, mask.kept, DISTRIBUTIONS["global"](), graph)
        rows = {name: values.flatten(2).any(2) if values.dim() > 2 else values for name, values in mask.items()}
        whole = all(torch.equal(r, r.any(1, keepdim=True) & r.any(0, keepdim=True)) for r in rows.values())
        return whole and all(torch.equal(again[name], mask[name]) for name in mask)
    for values in mask.values():
        means = group_means(values.double(), PATTERNS[pattern](**SMALL.get(pattern, {})).groups(values))
        if not bool(((means == 0) | (means == 1)).all()):
            return False
    return True


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize(("distribution", "grow"), [("erk", "gradient"), ("global", "random"), ("lamp", "gradient")])
def test_an_exchange_keeps_the_sparsity_and_the_pattern(
    architecture: str, pattern: str, distribution: str, grow: str
) -> None:
    graph, masks, kept, total = exchanges(architecture, pattern, distribution, grow)
    for mask in masks:
        assert is_of(pattern, graph, mask)
        assert connects(graph, mask)
        assert all(bool(values.any()) for values in mask.values()) or pattern == "filter"
        if pattern in BY_WEIGHT:
            assert mask.kept == kept
        else:
            # Whole groups, as little below as they allow.
            assert 0.6 * kept < mask.kept <= kept
    if distribution == "erk" and pattern in BY_WEIGHT:
        assert all(mask[name].sum() == masks[0][name].sum() for mask in masks for name in mask)
    changes = [sum(int((old[n] & ~new[n]).sum()) for n in old) for old, new in itertools.pairwise(masks)]
    assert sum(changes) > 0
    assert max(changes) <= 0.5 * kept or pattern not in BY_WEIGHT
    assert total > kept


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("grow", ["gradient", "random"])
def test_exchanges_are_reproducible(pattern: str, grow: str) -> None:
    (_, first, *_), (_, second, *_) = (exchanges("resnet-small", pattern, "erk", grow) for _ in range(2))
    assert all(torch.equal(first[-1][name], second[-1][name]) for name in first[-1])
