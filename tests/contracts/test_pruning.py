"""Every score, distribution and schedule keeps the promises of its base class."""

import itertools
from collections.abc import Iterator

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from sparsevlr.trainables.bounds import trace
from sparsevlr.trainables.certified_training import IBP, Batch
from sparsevlr.trainables.mask import Mask, prunable_weights
from sparsevlr.trainables.pruning import DISTRIBUTIONS, SCHEDULES, SCORES, Candidates, first_due, kept_weights, prune

PAIRS = list(itertools.product(SCORES, DISTRIBUTIONS))


def network(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(1, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(12, 7), nn.ReLU(), nn.Linear(7, 3))


def candidates(net: nn.Sequential, shape: tuple[int, ...] = (1, 4, 4), seed: int = 0) -> Candidates:
    def batches(count: int, ramp: float) -> Iterator[Batch]:
        drawn = torch.Generator().manual_seed(seed)
        for _ in range(count):
            x = torch.rand(8, *shape, generator=drawn)
            y = torch.randint(net[-1].out_features, (8,), generator=drawn)
            yield Batch(x, y, x, torch.full_like(x, 0.1 * ramp), ramp)

    return Candidates(trace(net, shape), torch.Generator().manual_seed(seed), IBP(), batches)


def pruned(score: str, distribution: str, sparsity: float, mask: Mask | None = None, seed: int = 0) -> Mask:
    net = network()
    return prune(
        candidates(net, seed=seed),
        mask or Mask.dense(net),
        score=SCORES[score](),
        distribution=DISTRIBUTIONS[distribution](),
        sparsity=sparsity,
    )


@pytest.mark.parametrize(("score", "distribution"), PAIRS)
@pytest.mark.parametrize("sparsity", [0.0, 0.1, 1 / 3, 0.5, 0.9, 0.99])
def test_reaches_the_sparsity_exactly(score: str, distribution: str, sparsity: float) -> None:
    mask = pruned(score, distribution, sparsity)
    assert mask.kept == kept_weights(mask.total, sparsity) == round((1 - sparsity) * mask.total)


@pytest.mark.parametrize(("score", "distribution"), PAIRS)
def test_pruned_weights_never_come_back_on_the_way_up(score: str, distribution: str) -> None:
    mask = None
    for step, sparsity in enumerate([0.1, 0.11, 0.35, 0.36, 0.8, 0.81, 0.97]):
        new = pruned(score, distribution, sparsity, mask, seed=step)
        assert new.kept == kept_weights(new.total, sparsity)
        if mask is not None:
            assert all(bool((new[name] <= mask[name]).all()) for name in new)
        mask = new


@pytest.mark.parametrize(("score", "distribution"), PAIRS)
def test_a_sparser_mask_stays_as_it_is(score: str, distribution: str) -> None:
    mask = pruned(score, distribution, 0.9)
    assert pruned(score, distribution, 0.5, mask) is mask


@pytest.mark.parametrize(("score", "distribution"), PAIRS)
def test_masks_are_reproducible(score: str, distribution: str) -> None:
    first, second = pruned(score, distribution, 0.7, seed=3), pruned(score, distribution, 0.7, seed=3)
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("score", SCORES)
def test_scores_are_finite_and_shaped_like_the_weights(score: str) -> None:
    seen = candidates(network())
    weights, scores = seen.weights, SCORES[score]().scores(seen)
    assert scores.keys() == weights.keys()
    for name, values in scores.items():
        assert values.shape == weights[name].shape
        assert bool(values.isfinite().all())


@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
@pytest.mark.parametrize("kept", [0, 1, 5, 42, 131, 132])
def test_allocations_sum_up_and_fit(distribution: str, kept: int) -> None:
    scores = {name: weight.abs() for name, weight in prunable_weights(network()).items()}
    allocation = DISTRIBUTIONS[distribution]().allocate(scores, kept)
    assert sum(allocation.values()) == kept
    assert all(0 <= allocation[name] <= scores[name].numel() for name in scores)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_schedules_rise_from_at_least_0_to_1(schedule: str) -> None:
    fractions = [SCHEDULES[schedule]().due(step, 1000).sparsity for step in range(1001)]
    assert all(0 <= fraction <= 1 for fraction in fractions)
    assert fractions == sorted(fractions)
    assert fractions[-1] == 1
    assert SCHEDULES[schedule].description


OPTIONS = {
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


def test_magnitude_removes_the_smallest_and_global_looks_across_layers() -> None:
    net = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False))
    with torch.no_grad():
        net[0].weight.copy_(torch.tensor([[4.0, -3.0], [0.1, 5.0]]))
        net[1].weight.copy_(torch.tensor([[0.2, -0.3], [0.4, 9.0]]))
    arguments = {"score": SCORES["magnitude"](), "sparsity": 0.5}
    by_network = prune(candidates(net, (2,)), Mask.dense(net), distribution=DISTRIBUTIONS["global"](), **arguments)
    assert by_network["0.weight"].tolist() == [[True, True], [False, True]]
    assert by_network["1.weight"].tolist() == [[False, False], [False, True]]
    by_layer = prune(candidates(net, (2,)), Mask.dense(net), distribution=DISTRIBUTIONS["uniform"](), **arguments)
    assert by_layer["0.weight"].tolist() == [[True, False], [False, True]]
    assert by_layer["1.weight"].tolist() == [[False, False], [True, True]]


def test_ties_keep_the_lower_index() -> None:
    net = nn.Sequential(nn.Linear(4, 1, bias=False))
    with torch.no_grad():
        net[0].weight.fill_(1.0)
    mask = prune(
        candidates(net, (4,)),
        Mask.dense(net),
        score=SCORES["magnitude"](),
        distribution=DISTRIBUTIONS["global"](),
        sparsity=0.5,
    )
    assert mask["0.weight"].tolist() == [[True, True, False, False]]


@pytest.mark.parametrize(
    ("schedule", "options"),
    [
        ("one-shot", {"at": 1.0}),
        ("one-shot", {"at": -0.1}),
        ("gradual", {"start": 0.5, "end": 0.5}),
        ("gradual", {"end": 1.1}),
    ],
)
def test_impossible_schedules_are_refused(schedule: str, options: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="fraction"):
        SCHEDULES[schedule](**options)
