"""What float32 would claim and float64 knows better."""

from dataclasses import dataclass
from fractions import Fraction
from typing import ClassVar, final

import pytest
import torch
from torch import Tensor, nn

from sparsevlr.trainables.bounds import TOLERANCE, Box, Graph, input_box, trace
from sparsevlr.trainables.verification import (
    VERIFIERS,
    CascadeOptions,
    Cause,
    MarginBounds,
    Unsupported,
    Verdict,
    Verifier,
    verified_over_grid,
    verify,
)
from sparsevlr.trainables.verification.crown import Crown
from sparsevlr.trainables.verification.ibp import Ibp
from sparsevlr.trainables.verification.inputs import Inputs, bounded, eval_mode


def _absorbing() -> nn.Sequential:
    """Logits `(1/4, (t + 3e7) - 3e7)`: in float32 the sum absorbs t, and the second logit is 0."""
    network = nn.Sequential(nn.Linear(1, 1), nn.ReLU(), nn.Linear(1, 1), nn.ReLU(), nn.Linear(1, 2))
    with torch.no_grad():
        for layer, weight, bias in ((0, [[1.0]], [3e7]), (2, [[1.0]], [-3e7]), (4, [[0.0], [1.0]], [0.25, 0.0])):
            network[layer].weight.copy_(torch.tensor(weight))
            network[layer].bias.copy_(torch.tensor(bias))
    return network.eval()


X, LABEL, EPSILON = torch.tensor([[0.2]]), torch.tensor([0]), 0.1


def test_float32_alone_would_certify_the_absorbing_network() -> None:
    found = Ibp().margins(trace(_absorbing(), (1,)), input_box(X, EPSILON, 0, 1), LABEL)
    assert found.lower[0, 1].item() == 0.25
    assert _absorbing().double()(X.double() + 0.99 * EPSILON)[0].argmax() == 1


@pytest.mark.parametrize(
    "stages", [("ibp",), ("crown-ibp",), ("crown",), ("alpha-crown",), ("exact",), tuple(VERIFIERS)]
)
def test_a_claim_that_is_false_but_for_rounding_is_caught(stages: tuple[str, ...]) -> None:
    options = CascadeOptions(stages=stages, audit=0)
    found = verify(_absorbing(), X, LABEL, epsilon=EPSILON, low=0, high=1, options=options)
    assert found.verdict[0] != Verdict.verified
    if "exact" in stages:
        assert found.verdict[0] == Verdict.falsified
    over_grid = verified_over_grid(_absorbing(), X, LABEL, [EPSILON, 2 * EPSILON], low=0, high=1)
    assert over_grid.tolist() == [0.0, 0.0]


def test_what_cannot_be_repeated_in_float64_is_unknown_for_rounding(monkeypatch: pytest.MonkeyPatch) -> None:
    margins = Crown.margins

    def in_single(self: Crown, graph: Graph, box: Box, labels: Tensor) -> MarginBounds:
        if box.centre.dtype == torch.float64:
            raise Unsupported("nobody bounds it in float64")
        return margins(self, graph, box, labels)

    monkeypatch.setattr(Crown, "margins", in_single)
    options = CascadeOptions(stages=("crown",))
    found = verify(_absorbing(), X, LABEL, epsilon=EPSILON, low=0, high=1, options=options)
    assert found.cause[0] == Cause.rounding
    assert found.reason[0] == "crown: a margin is within rounding of 0, and nobody bounds it in float64"


@pytest.mark.parametrize("label", [0, 1])
def test_classes_are_those_of_float64(label: int) -> None:
    """In float32 the class is 0 everywhere."""
    found = verify(
        _absorbing(),
        torch.tensor([[0.5]]),
        torch.tensor([label]),
        epsilon=0.01,
        low=0,
        high=1,
        options=CascadeOptions(audit=0),
    )
    assert (found.stage[0] == "natural") == (label == 0)
    assert (found.verdict[0] == Verdict.falsified) == (label == 0)


def _swallowing(side: int, above: float) -> tuple[nn.Sequential, Tensor]:
    """A mean of many terms, each too small for float32 to be added to the first one, against their true sum, `above`
    which the second logit is; and the input."""
    x = torch.full((1, 1, side, side), 5.9e-8)
    x[0, 0, 0, 0] = 1
    network = nn.Sequential(nn.AvgPool2d(side), nn.Flatten(), nn.Linear(1, 2))
    with torch.no_grad():
        network[2].weight.copy_(torch.tensor([[0.0], [float(side * side)]]))
        network[2].bias.copy_(torch.tensor([x.double().sum().item() - above, 0.0]))
    return network.eval(), x


@pytest.mark.parametrize("side", [64, 128])
@pytest.mark.parametrize("stage", ["ibp", "crown-ibp", "crown", "alpha-crown"])
def test_long_sums_certify_nothing_false(side: int, stage: str) -> None:
    """More is lost than the tolerance of short sums."""
    network, x = _swallowing(side, above=1.2e-4)
    claim = Ibp().margins(trace(network, x.shape[1:]), input_box(x, 1e-9, 0, 1), LABEL).lower[0, 1].item()
    inputs = Inputs.of(trace(network, x.shape[1:]), x, LABEL, 0.0, 1.0, 1.0, "linf")
    (_, found), *_ = bounded(CascadeOptions(stages=(stage,)).verifiers()[stage], inputs, LABEL, 1e-9, 1)
    assert claim > (1e-4 if side == 64 else 5e-4)
    assert not isinstance(found, str)
    assert not bool(found.proved[0, 1])


def _exact_margin(network: nn.Linear, x: Tensor, epsilon: float) -> Fraction:
    """Of class 0 to class 1 over the box, in rational arithmetic."""
    difference = [Fraction(a) - Fraction(b) for a, b in zip(*network.weight.tolist(), strict=True)]
    first, second = network.bias.tolist()
    total = Fraction(first) - Fraction(second)
    for factor, value in zip(difference, map(Fraction, x.tolist()), strict=True):
        ends = max(value - Fraction(epsilon), Fraction(0)), min(value + Fraction(epsilon), Fraction(1))
        total += factor * (ends[0] if factor > 0 else ends[1])
    return total


def test_margins_next_to_zero_against_rational_arithmetic() -> None:
    """Random linear networks whose exact margin is a few units of rounding: float32 is often wrong, a verdict never."""
    torch.manual_seed(0)
    false_claims = proofs = 0
    for _ in range(100):
        layer = nn.Linear(40, 2)
        x = torch.rand(1, 40)
        with torch.no_grad():
            layer.bias[0] -= float(_exact_margin(layer, x[0], 0.1))
        exact = _exact_margin(layer, x[0], 0.1)
        network = nn.Sequential(layer)
        claim = Ibp().margins(trace(network, (40,)), input_box(x, 0.1, 0, 1), LABEL).lower[0, 1].item()
        found = verify(network, x, LABEL, epsilon=0.1, low=0, high=1, options=CascadeOptions(stages=("ibp",), audit=0))
        false_claims += claim > 0 and exact <= 0
        proofs += found.n_verified
        assert exact > 0 if found.n_verified else exact < 1e-9
    assert false_claims > 3
    assert proofs > 15


@final
@dataclass(frozen=True)
class _ByDtype(Verifier):
    """Says one thing of networks in float32 and another in float64."""

    description: ClassVar[str] = "for tests"

    single: float
    double: float | None

    def margins(self, graph: Graph, box: Box, labels: Tensor) -> MarginBounds:
        said = self.single if box.centre.dtype == torch.float32 else self.double
        if said is None:
            raise Unsupported("float32 only")
        shape = (len(labels), graph.last_linear.out_features)
        lower = torch.full(shape, said, dtype=box.centre.dtype).scatter(1, labels[:, None], 0.0)
        return MarginBounds(lower, torch.ones(len(labels)))


BAND, FINE = TOLERANCE[torch.float32], TOLERANCE[torch.float64]


@pytest.mark.parametrize(
    ("single", "double", "verdict", "margin"),
    [
        (1.1 * BAND, -1.0, Verdict.verified, 1.1 * BAND),
        (0.9 * BAND, -1.0, Verdict.unknown, -1.0),
        (0.9 * BAND, 1.1 * FINE, Verdict.verified, 1.1 * FINE),
        (-0.9 * BAND, 1.1 * FINE, Verdict.verified, 1.1 * FINE),
        (-1.1 * BAND, 1.0, Verdict.unknown, -1.1 * BAND),
        (0.9 * BAND, None, Verdict.unknown, 0.9 * BAND),
    ],
)
def test_float64_decides_within_the_band(single: float, double: float | None, verdict: Verdict, margin: float) -> None:
    network = nn.Sequential(nn.Linear(1, 2))
    with torch.no_grad():
        network[0].weight.zero_()
        network[0].bias.copy_(torch.tensor([1.0, 0.0]))
    said: dict[str, Verifier] = {"ibp": _ByDtype(single, double)}
    options = CascadeOptions(stages=("ibp",))
    found = verify(network, X, LABEL, epsilon=0.1, low=0, high=1, options=options, verifiers=said)
    assert found.verdict[0] == verdict
    assert found.margin[0] == pytest.approx(margin, rel=1e-6)


def test_a_precision_that_is_set_lower_is_not_that_of_proofs() -> None:
    seen = []
    network = nn.Sequential(nn.Linear(2, 2))
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    try:
        torch.set_float32_matmul_precision("medium")
        torch.backends.cudnn.allow_tf32 = True
        with eval_mode(network):
            seen.append((torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32))
        seen.append((torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32))
    finally:
        torch.set_float32_matmul_precision(before[0])
        torch.backends.cudnn.allow_tf32 = before[1]
    assert seen == [("highest", False), ("medium", True)]


def test_balls_far_beyond_the_range_prove_nothing_by_rounding() -> None:
    """At the origin, which lies within, the first logit is the smaller one."""
    for seed in range(60):
        torch.manual_seed(seed)
        network = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 2)).eval()
        with torch.no_grad():
            network[0].weight.copy_(torch.eye(8))
            network[0].bias.fill_(-0.5)
            network[2].weight.copy_(torch.stack([torch.rand(8), torch.zeros(8)]))
            network[2].bias.copy_(torch.tensor([-0.01, 0.0]))
        options = CascadeOptions(stages=("ibp",), audit=None)
        found = verify(
            network, torch.ones(1, 8), torch.tensor([0]), epsilon=1e6, low=0, high=1, norm="l2", options=options
        )
        assert found.n_verified == 0
