import copy
import math
from dataclasses import dataclass
from typing import ClassVar, final

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import prune

from sparsevlr.trainables.bounds import TOLERANCE, Box, Graph, UnsupportedLayer, trace
from sparsevlr.trainables.verification import (
    CascadeOptions,
    MarginBounds,
    SoundnessError,
    Unsupported,
    Verdict,
    Verification,
    Verifier,
    proved,
    random_starts,
    verified_over_grid,
    verify,
)
from sparsevlr.trainables.verification.ibp import Ibp

Problem = tuple[nn.Sequential, Tensor, Tensor]
EPSILON = 0.05


def _verify(problem: Problem, options: CascadeOptions | None = None, **changes: object) -> Verification:
    network, x, y = problem
    settings = {"epsilon": EPSILON, "low": 0, "high": 1, "seed": 0, **changes}
    return verify(network, x, y, options=options or CascadeOptions(audit=None), **settings)  # type: ignore[arg-type]


@final
@dataclass(frozen=True)
class _Claims(Verifier):
    """Says the same of everything."""

    description: ClassVar[str] = "for tests"

    lower: float = 1.0
    scale: float = 1.0

    def margins(self, graph: Graph, box: Box, labels: Tensor) -> MarginBounds:
        shape = (len(labels), graph.last_linear.out_features)
        lower = torch.full(shape, self.lower).scatter(1, labels[:, None], 0.0)
        return MarginBounds(lower, torch.full((len(labels),), self.scale))


@final
class _Raises(Verifier):
    """Fails like a solver, or for want of memory above a batch size; else does as intervals do."""

    description: ClassVar[str] = "for tests"

    def __init__(self, error: Exception, above: int = 0) -> None:
        self.error, self.above, self.batches = error, above, []  # type: ignore[var-annotated]

    def margins(self, graph: Graph, box: Box, labels: Tensor) -> MarginBounds:
        self.batches.append(len(labels))
        if len(labels) > self.above:
            raise self.error
        return Ibp().margins(graph, box, labels)


def test_every_verdict_occurs_and_the_counts_add_up(problem: Problem) -> None:
    found = _verify(problem)
    assert found.samples == 200
    assert found.n_verified + found.n_falsified + found.n_unknown == 200
    assert min(found.n_verified, found.n_falsified) > 20
    assert found.verified_accuracy <= found.adversarial_accuracy <= found.natural_accuracy < 1
    stages = set(found.stage.tolist())
    assert {"natural", "ibp", "pgd", "crown"} <= stages
    assert set(found.seconds) == {"natural", "ibp", "pgd", "crown-ibp", "crown", "audit"}
    assert found.verdict.dtype == np.int8
    assert ((found.stage == "") == (found.verdict == Verdict.unknown)).all()
    assert (found.margin[found.verdict == Verdict.verified] > 0).all()


def test_no_verdict_is_wrong(problem: Problem) -> None:
    """Against a dense grid over each box: verified ones hold everywhere, falsified ones break somewhere."""
    network, x, y = problem
    found = _verify(problem)
    line = torch.linspace(-EPSILON, EPSILON, 41)
    grid = torch.cartesian_prod(line, line)
    with torch.no_grad():
        points = (x[:, None, :] + grid).clamp(0, 1)
        holds = (network(points.flatten(0, 1)).argmax(1).view(200, -1) == y[:, None]).all(1).numpy()
    assert holds[found.verdict == Verdict.verified].all()
    assert not holds[found.verdict == Verdict.falsified].any()


SCALE = torch.tensor([0.0, 3.0])


def _by_hand(x: Tensor) -> Box:
    """The boxes of radius 0.15 in the second feature alone, in the unit square."""
    radius = torch.tensor([0.0, 0.15])
    lower, upper = (x - radius).clamp(min=0), (x + radius).clamp(max=1)
    return Box((lower + upper) / 2, (upper - lower) / 2)


@pytest.mark.parametrize("stage", ["ibp", "crown-ibp", "crown", "alpha-crown"])
def test_scaled_verdicts_are_those_of_a_box_made_by_hand(problem: Problem, stage: str) -> None:
    network, x, y = problem
    options = CascadeOptions(stages=(stage,), audit=None, alpha_iterations=3)
    verified = torch.zeros_like(y, dtype=torch.bool)
    # Margins near 0 are bounded in float64 again, where the verifier can.
    for dtype in (torch.float32, torch.float64)[: 1 if stage == "alpha-crown" else 2]:
        graph, box = trace(copy.deepcopy(network).to(dtype), (2,)), _by_hand(x)
        bounds = options.verifiers()[stage].margins(graph, Box(box.centre.to(dtype), box.radius.to(dtype)), y)
        verified |= proved(bounds.lower, bounds.scale, y).all(1) & (network(x).argmax(1) == y)
    for scale in (SCALE, SCALE.double().numpy()):
        found = _verify(problem, options, scale=scale)
        assert (found.verdict == Verdict.verified).tolist() == verified.tolist()
        assert 0 < found.n_verified < _verify(problem, options, scale=torch.tensor([0.0, 1.0])).n_verified


def test_scaled_attacks_are_those_on_a_box_made_by_hand(problem: Problem) -> None:
    network, x, y = problem
    options = CascadeOptions(stages=("pgd",), audit=None)
    starts = random_starts(torch.arange(200), (2,), 1, seed=0)
    points, broken = options.pgd.attack(network, _by_hand(x), y, starts)
    found = _verify(problem, options, scale=SCALE)
    assert (found.verdict == Verdict.falsified).tolist() == (broken | (network(x).argmax(1) != y)).tolist()
    assert found.n_falsified > 20
    assert torch.equal(points[:, 0], x[:, 0])


def test_no_scaled_verdict_is_wrong_and_the_grid_of_epsilons_is_scaled_too(problem: Problem) -> None:
    network, x, y = problem
    found = _verify(problem, scale=SCALE)
    line = torch.stack([torch.zeros(401), torch.linspace(-0.15, 0.15, 401)], 1)
    with torch.no_grad():
        points = (x[:, None, :] + line).clamp(0, 1)
        holds = (network(points.flatten(0, 1)).argmax(1).view(200, -1) == y[:, None]).all(1).numpy()
    assert holds[found.verdict == Verdict.verified].all()
    assert not holds[found.verdict == Verdict.falsified].any()
    assert found.n_unknown < 20
    cheap = CascadeOptions(stages=("ibp", "crown-ibp"), audit=None)
    grid = verified_over_grid(network, x, y, [EPSILON, EPSILON / 2], low=0, high=1, scale=SCALE, options=cheap)
    one_by_one = [_verify(problem, cheap, scale=share * SCALE).verified_accuracy for share in (1, 0.5)]
    assert grid.tolist() == pytest.approx(one_by_one, abs=0.01)
    assert grid[0] < grid[1]


@pytest.mark.parametrize(
    ("scale", "message"),
    [
        (torch.ones(3), r"scale must broadcast to an input of shape \(2,\), got \(3,\)"),
        (torch.ones(200, 2), r"scale must broadcast .* got \(200, 2\)"),
        (torch.tensor([1.0, -0.5]), "every scale must be finite and at least 0, got -0.5"),
        (torch.tensor([1.0, torch.nan]), "every scale must be finite"),
        (-1.0, "scale must be finite and at least 0, got -1"),
        (math.inf, "scale must be finite and at least 0, got inf"),
    ],
)
def test_impossible_scales_are_refused(problem: Problem, scale: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        _verify(problem, scale=scale)


def test_accuracies_of_counts_never_cross_by_rounding() -> None:
    for samples in range(1, 120):
        for falsified in range(samples + 1):
            verdict = np.full(samples, Verdict.verified, np.int8)
            verdict[:falsified] = Verdict.falsified
            stage = np.array(["natural"] * falsified + ["ibp"] * (samples - falsified))
            found = Verification(verdict, stage, np.zeros(samples), stage, stage, {}, {})
            assert found.verified_accuracy <= found.adversarial_accuracy <= found.natural_accuracy


@pytest.mark.parametrize("batch_size", [1, 7, 64])
def test_verdicts_do_not_depend_on_the_batch_size(problem: Problem, batch_size: int) -> None:
    problem = (problem[0], problem[1][:60], problem[2][:60])
    expected = _verify(problem)
    found = _verify(problem, CascadeOptions(batch_size=batch_size, audit=None))
    assert (found.verdict == expected.verdict).all()
    assert (found.stage == expected.stage).all()
    assert np.allclose(found.margin, expected.margin, atol=1e-4)


def test_the_starts_of_a_weak_attack_do_not_depend_on_the_batch(problem: Problem) -> None:
    """With one short step the start decides what is found."""
    verdicts = [
        _verify(problem, CascadeOptions(stages=("pgd",), pgd_steps=1, batch_size=size), epsilon=0.1).verdict
        for size in (11, 200)
    ]
    assert (verdicts[0] == verdicts[1]).all()
    other = _verify(problem, CascadeOptions(stages=("pgd",), pgd_steps=1), epsilon=0.1, seed=1).verdict
    assert (verdicts[0] != other).any()


def test_a_sample_keeps_its_verdict_in_any_company(problem: Problem) -> None:
    network, x, y = problem
    expected = _verify(problem)
    found = _verify((network, x[:40], y[:40]))
    assert (found.verdict == expected.verdict[:40]).all()


def test_the_same_seed_gives_the_same(problem: Problem) -> None:
    one, two = _verify(problem, seed=3), _verify(problem, seed=3)
    assert (one.verdict == two.verdict).all()
    assert (one.margin == two.margin).all()


def test_epsilon_zero_verifies_what_is_classified_correctly(problem: Problem) -> None:
    found = _verify(problem, epsilon=0.0)
    assert found.verified_accuracy == found.natural_accuracy
    assert found.n_unknown == 0


def test_the_network_keeps_its_modes_weights_and_statistics(problem: Problem) -> None:
    network, x, y = problem
    network.train()
    network[3].eval()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    try:
        found = _verify(problem)
        assert [module.training for module in network] == [True, True, True, False, True, True]
        assert network.training
    finally:
        network.eval()
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert all(parameter.grad is None and parameter.requires_grad for parameter in network.parameters())
    assert (found.verdict == _verify((network, x, y)).verdict).all()


def test_numpy_inputs(problem: Problem) -> None:
    network, x, y = problem
    found = _verify((network, x.numpy(), y.numpy()))  # type: ignore[arg-type]
    assert (found.verdict == _verify(problem).verdict).all()


@pytest.mark.parametrize("audit", [None, 150])
def test_an_unsound_verifier_is_caught(problem: Problem, audit: int | None) -> None:
    options = CascadeOptions(stages=("ibp",), audit=audit)
    with pytest.raises(SoundnessError, match=r"sample \d+ was verified by stage 'ibp', yet an attack") as caught:
        _verify(problem, options, verifiers={"ibp": _Claims()})
    assert caught.value.stage == "ibp"
    honest = _verify(problem, CascadeOptions(audit=None))
    assert honest.verdict[caught.value.sample] != Verdict.verified


def test_without_an_audit_an_unsound_verifier_passes(problem: Problem) -> None:
    """The previous test must owe its success to the audit."""
    found = _verify(problem, CascadeOptions(stages=("ibp",), audit=0), verifiers={"ibp": _Claims()})
    assert found.n_verified == found.samples - (found.stage == "natural").sum()


@pytest.mark.parametrize(
    ("lower", "scale"),
    [
        (TOLERANCE[torch.float64] * 0.99, 1.0),
        (0.5, 0.51 / TOLERANCE[torch.float64]),
        (0.0, 0.0),
        (float("nan"), 1.0),
        (float("inf"), 1.0),
        (1.0, float("nan")),
        (1.0, float("inf")),
    ],
)
def test_a_margin_within_rounding_or_not_finite_proves_nothing(problem: Problem, lower: float, scale: float) -> None:
    found = _verify(problem, CascadeOptions(stages=("ibp",)), verifiers={"ibp": _Claims(lower, scale)})
    assert found.n_verified == 0


def test_a_margin_above_the_tolerance_is_a_proof() -> None:
    labels = torch.tensor([1])
    lower = torch.tensor([[TOLERANCE[torch.float32] * 1.01, 0.0, 3.0]])
    assert proved(lower, torch.tensor([1.0]), labels).all()
    assert proved(lower, torch.tensor([1.1]), labels).tolist() == [[False, True, True]]


def test_proofs_of_different_margins_by_different_verifiers_add_up() -> None:
    """Each verifier here proves one of the two margins; the sample needs both."""

    @final
    @dataclass(frozen=True)
    class Half(Verifier):
        description: ClassVar[str] = "for tests"
        margin: int = 1

        def margins(self, graph: Graph, box: Box, labels: Tensor) -> MarginBounds:
            lower = torch.full((len(labels), 3), -1.0)
            lower[:, [0, self.margin]] = torch.tensor([0.0, 1.0])
            return MarginBounds(lower, torch.ones(len(labels)))

    network = nn.Sequential(nn.Linear(2, 3))
    with torch.no_grad():
        network[0].weight.zero_()
        network[0].bias.copy_(torch.tensor([2.0, 0.0, 0.0]))
    problem = (network, torch.rand(4, 2), torch.zeros(4, dtype=torch.int64))
    options = CascadeOptions(stages=("ibp", "crown"))
    both = _verify(problem, options, verifiers={"ibp": Half(1), "crown": Half(2)})
    assert both.n_verified == 4
    assert set(both.stage.tolist()) == {"crown"}
    assert both.margin.tolist() == [1.0] * 4
    assert _verify(problem, options, verifiers={"ibp": Half(1), "crown": Half(1)}).n_verified == 0


@pytest.mark.parametrize("error", [RuntimeError("solver\ndetails"), TypeError("no"), Unsupported("not this layer")])
def test_a_verifier_that_raises_decides_nothing(problem: Problem, error: Exception) -> None:
    options = CascadeOptions(stages=("ibp", "pgd"), batch_size=50)
    found = _verify(problem, options, verifiers={"ibp": _Raises(error)})
    assert found.n_verified == 0
    unknown = found.verdict == Verdict.unknown
    reason = "not this layer" if isinstance(error, Unsupported) else f"{type(error).__name__}: {str(error).split()[0]}"
    assert set(found.reason[unknown].tolist()) == {f"ibp: {reason}"}
    assert set(found.reason[~unknown].tolist()) == {""}


def test_later_stages_still_run_after_a_failure(problem: Problem) -> None:
    found = _verify(problem, verifiers={"ibp": _Raises(RuntimeError("solver"))})
    assert found.n_verified == _verify(problem).n_verified


def _as_torch_says() -> RuntimeError:
    """On this system."""
    with pytest.raises(RuntimeError) as raised:
        torch.empty(10**16)
    return raised.value


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory"),
        MemoryError(),
        RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 8 bytes"),
        _as_torch_says(),
    ],
)
def test_out_of_memory_halves_the_batch(problem: Problem, error: Exception) -> None:
    tight = _Raises(error, above=30)
    found = _verify(problem, CascadeOptions(stages=("ibp",)), verifiers={"ibp": tight})
    expected = _verify(problem, CascadeOptions(stages=("ibp",)))
    assert (found.verdict == expected.verdict).all()
    assert max(tight.batches) > 60
    hopeless = _verify(problem, CascadeOptions(stages=("ibp",)), verifiers={"ibp": _Raises(error)})
    assert hopeless.n_verified == 0
    assert hopeless.reason[hopeless.verdict == Verdict.unknown][0].startswith(f"ibp: {type(error).__name__}")


def test_margins_of_a_wrong_shape_are_a_failure(problem: Problem) -> None:
    @final
    class Short(Verifier):
        description: ClassVar[str] = "for tests"

        def margins(self, graph: Graph, box: Box, labels: Tensor) -> MarginBounds:
            return MarginBounds(torch.ones(len(labels), 1), torch.ones(len(labels)))

    found = _verify(problem, CascadeOptions(stages=("ibp",)), verifiers={"ibp": Short()})
    assert found.n_verified == 0
    assert "margins must be of shape" in found.reason[found.verdict == Verdict.unknown][0]


def test_a_budget_leaves_the_rest_unknown(problem: Problem) -> None:
    stages = ("ibp", "pgd", "crown")
    full = _verify(problem, CascadeOptions(stages=stages))
    decided = int((full.stage == "crown").sum())
    assert decided > 2
    few = _verify(problem, CascadeOptions(stages=stages, max_crown_samples=2))
    assert int((few.stage == "crown").sum()) <= 2
    left = few.verdict == Verdict.unknown
    assert (few.reason[left] == "crown: the budget of 2 samples is used up").sum() >= decided - 2
    assert (few.verdict[few.stage != ""] == full.verdict[few.stage != ""]).all()
    none = _verify(problem, CascadeOptions(stages=stages, max_crown_samples=0))
    assert not (none.stage == "crown").any()


def test_weights_masked_in_the_forward_are_refused_until_they_are_materialised(problem: Problem) -> None:
    _, x, y = problem
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(2, 8), nn.ReLU(), nn.Linear(8, 3))
    prune.random_unstructured(network[0], "weight", amount=0.5)
    with pytest.raises(UnsupportedLayer, match="plain weights"):
        _verify((network, x, y))
    prune.remove(network[0], "weight")
    assert _verify((network, x, y)).samples == 200


def test_alpha_crown_as_a_stage(problem: Problem) -> None:
    network, x, y = problem
    few = (network, x[:40], y[:40])
    base = _verify(few, CascadeOptions(stages=("ibp", "pgd"), audit=None))
    options = CascadeOptions(stages=("ibp", "pgd", "alpha-crown"), audit=None, alpha_iterations=3)
    found = _verify(few, options)
    assert not [reason for reason in found.reason if reason]
    assert found.n_verified > base.n_verified
