"""Scores against answers worked out by hand."""

import math
from collections.abc import Iterator

import pytest
import torch
from torch import nn

from sparsevlr.trainables.bounds import Box, Graph, trace
from sparsevlr.trainables.certified_training import IBP, Batch, CertifiedLoss
from sparsevlr.trainables.pruning import SCORES, Candidates


class MeanLogit(CertifiedLoss):
    """A loss whose gradient can be seen."""

    def loss(self, graph: Graph, batch: Batch) -> torch.Tensor:
        return graph.network(batch.x).mean()


def given(net: nn.Sequential, inputs: list[list[float]], loss: CertifiedLoss, radius: float = 0.0) -> Candidates:
    """One batch of one sample for each of the inputs."""

    def batches(count: int, ramp: float) -> Iterator[Batch]:
        for values in inputs[:count]:
            x = torch.tensor([values])
            yield Batch(x, torch.zeros(1, dtype=torch.long), Box(x, torch.full_like(x, radius * ramp)), ramp)

    return Candidates(trace(net, (len(inputs[0]),)), torch.Generator(), loss, batches)


def linear(*weights: list[list[float]]) -> nn.Sequential:
    layers: list[nn.Module] = []
    for rows in weights:
        layer = nn.Linear(len(rows[0]), len(rows), bias=False)
        layer.weight.data = torch.tensor(rows)
        layers += [layer, nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def test_snip_takes_the_mean_gradient_and_taylor_the_mean_square() -> None:
    seen = given(linear([[2.0, -3.0]]), [[1.0, 2.0], [3.0, -4.0]], MeanLogit())
    # The gradients of the batches are the inputs: w g is (2, -6) and (6, 12).
    assert SCORES["snip"](batches=2).scores(seen)["0.weight"].tolist() == [[4.0, 3.0]]
    assert SCORES["taylor"](batches=2).scores(seen)["0.weight"].tolist() == [[20.0, 90.0]]
    assert SCORES["snip"](batches=1).scores(seen)["0.weight"].tolist() == [[2.0, 6.0]]


def test_snip_is_the_effect_on_the_certified_loss_at_the_asked_epsilon() -> None:
    net = linear([[0.4, -0.3], [0.2, 0.5]], [[0.7, -0.6], [0.1, 0.9]]).double()
    for ramp in (0.0, 0.5, 1.0):

        def loss() -> float:
            x = torch.tensor([[0.6, 0.2]]).double()
            batch = Batch(x, torch.zeros(1, dtype=torch.long), Box(x, torch.full_like(x, 0.1 * ramp)), ramp)  # noqa: B023
            return float(IBP().loss(trace(net, (2,)), batch).detach())

        def batches(count: int, at: float) -> Iterator[Batch]:
            x = torch.tensor([[0.6, 0.2]]).double()
            for _ in range(count):
                yield Batch(x, torch.zeros(1, dtype=torch.long), Box(x, torch.full_like(x, 0.1 * at)), at)

        seen = Candidates(trace(net, (2,)), torch.Generator(), IBP(), batches)
        scores = SCORES["snip"](ramp=ramp).scores(seen)
        for name, weight in seen.weights.items():
            for place in range(weight.numel()):
                flat, step = weight.data.view(-1), 1e-6
                value = float(flat[place])
                flat[place] = value + step
                above = loss()
                flat[place] = value - step
                slope = (above - loss()) / (2 * step)
                flat[place] = value
                assert float(scores[name].view(-1)[place]) == pytest.approx(abs(value * slope), abs=1e-8)


def test_stability_takes_off_what_pruning_gains() -> None:
    # One ReLU that reads 2 x for x in [-0.5, 1.5]: l u = -3, and d(l u)/dw = 2 w (c^2 - r^2) = -3.
    seen = given(linear([[2.0]], [[1.5]]), [[0.5]], MeanLogit(), radius=1.0)
    # On the loss both weights have the effect 1.5; on stability only the first has any: relative to the mean, 2 and 0.
    assert [s.item() for s in SCORES["stability"](weight=0.5, batches=1).scores(seen).values()] == [0.0, 1.0]
    # Without a radius l u = 1 and the weight makes the ReLU stabler: removing it would lose that.
    assert [s.item() for s in SCORES["stability"](weight=0.5, batches=1, ramp=0.0).scores(seen).values()] == [2.0, 1.0]


def test_instability_by_hand() -> None:
    from sparsevlr.trainables.pruning.stability import instability

    seen = given(linear([[2.0], [1.0]], [[1.0, 1.0]]), [[0.5]], MeanLogit(), radius=1.0)
    (batch,) = seen.batches(1, 1.0)
    expected = -(math.tanh(1 - 3) + math.tanh(1 - 0.75)) / 2
    assert float(instability(seen.graph, batch).detach()) == pytest.approx(expected)


def test_stability_without_its_second_term_ranks_as_snip_does() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 2))
    seen = given(net, [[0.1, 0.7, 0.3], [0.9, 0.2, 0.4]], IBP(), radius=0.2)
    snip = torch.cat([s.flatten() for s in SCORES["snip"](batches=2).scores(seen).values()])
    stability = torch.cat([s.flatten() for s in SCORES["stability"](weight=0.0, batches=2).scores(seen).values()])
    assert torch.equal(snip.argsort(stable=True), stability.argsort(stable=True))


def test_a_network_without_relus_has_nothing_to_be_unstable() -> None:
    seen = given(linear([[2.0, -3.0]]), [[1.0, 2.0]], MeanLogit())
    assert SCORES["stability"](batches=1).scores(seen)["0.weight"].tolist() == [[0.5, 1.5]]


@pytest.mark.parametrize(
    ("score", "options", "message"),
    [
        ("snip", {"batches": 0}, "score.batches must be at least 1, but is 0"),
        ("snip", {"ramp": 1.1}, r"score.ramp is a share of epsilon in \[0, 1\], but is 1.1"),
        ("stability", {"weight": -1.0}, "score.weight must be at least 0"),
    ],
)
def test_impossible_options_are_refused(score: str, options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SCORES[score](**options)
