import copy
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from milp_oracle import smallest_margins
from scipy import optimize
from soundness import DISTANCES, KINDS, contradiction, instance, verdicts
from torch import Tensor, nn

from sparsevlr.spaces.architectures.layers import Reshape
from sparsevlr.trainables.bounds import crown_bounds, input_box, piecewise, reduce_margins, trace
from sparsevlr.trainables.verification import CascadeOptions, Cause, Verdict, Verification, branching, exact, verify

Problem = tuple[nn.Sequential, Tensor, Tensor]
EPSILON = 0.05


def _verify(problem: Problem, seconds: float = 30.0, epsilon: float = EPSILON, stage: str = "exact") -> Verification:
    network, x, y = problem
    options = CascadeOptions(stages=(stage,), exact_seconds=seconds, audit=None)
    return verify(network, x[:60], y[:60], epsilon=epsilon, low=0, high=1, options=options)


def _holds(problem: Problem) -> np.ndarray:
    """Whether the class is the same all over a fine grid on each box."""
    network, x, y = problem
    line = torch.linspace(-EPSILON, EPSILON, 101)
    points = (x[:60, None, :] + torch.cartesian_prod(line, line)).clamp(0, 1)
    with torch.no_grad():
        return (network(points.flatten(0, 1)).argmax(1).view(60, -1) == y[:60, None]).all(1).numpy()


def test_everything_is_decided_as_a_grid_says(problem: Problem) -> None:
    found = _verify(problem)
    assert found.n_unknown == 0
    assert ((found.verdict == Verdict.verified) == _holds(problem)).all()
    assert "exact" in set(found.stage[found.verdict == Verdict.falsified].tolist())


@pytest.fixture
def only_leaves(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without gradient steps, most subproblems are split until none of their ReLUs is left."""
    monkeypatch.setattr(branching, "ROOT_STEPS", 0)
    monkeypatch.setattr(branching, "STEPS", 0)


@pytest.mark.usefixtures("only_leaves")
def test_linear_programs_at_the_leaves_decide(problem: Problem, monkeypatch: pytest.MonkeyPatch) -> None:
    calls, solve = [], optimize.linprog
    monkeypatch.setattr(optimize, "linprog", lambda *args, **kwargs: calls.append(1) or solve(*args, **kwargs))
    found = _verify(problem)
    assert calls
    assert found.n_unknown == 0
    assert ((found.verdict == Verdict.verified) == _holds(problem)).all()


@pytest.mark.usefixtures("only_leaves")
def test_a_solver_error_is_no_proof(problem: Problem, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = SimpleNamespace(status=4, message="numerical difficulties\nmore")
    monkeypatch.setattr(optimize, "linprog", lambda *args, **kwargs: broken)
    found = _verify(problem)
    failed = found.cause == Cause.failure
    assert failed.any()
    assert set(found.reason[failed].tolist()) == {"exact: linear program: numerical difficulties"}
    assert (found.verdict[failed] == Verdict.unknown).all()
    assert _holds(problem)[found.verdict == Verdict.verified].all()


@pytest.mark.usefixtures("only_leaves")
def test_a_solver_that_lies_proves_nothing_false(problem: Problem, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever multipliers it returns, and though it says that all is well."""
    generator = np.random.default_rng(0)

    def lies(cost: np.ndarray, *, A_ub: np.ndarray | None, **kwargs: object) -> SimpleNamespace:
        rows = 0 if A_ub is None else len(A_ub)
        marginals = -generator.exponential(10.0 ** generator.integers(-3, 9), rows)
        return SimpleNamespace(
            status=0, fun=1e9, x=np.full(len(cost), 0.5), ineqlin=SimpleNamespace(marginals=marginals)
        )

    monkeypatch.setattr(optimize, "linprog", lies)
    found = _verify(problem)
    assert _holds(problem)[found.verdict == Verdict.verified].all()
    assert found.n_unknown > 0


def test_what_the_search_takes_for_no_proof_is_none(problem: Problem, monkeypatch: pytest.MonkeyPatch) -> None:
    """However large its bounds are."""
    monkeypatch.setattr(
        branching.Search, "_closed", lambda self, value, nodes: torch.zeros_like(value, dtype=torch.bool)
    )
    monkeypatch.setattr(branching, "_CLEAR", math.inf)
    found, crown = _verify(problem), _verify(problem, stage="crown")
    assert (found.verdict == Verdict.unknown).any()
    assert ((found.verdict == Verdict.verified) == (crown.verdict == Verdict.verified)).all()


@pytest.mark.usefixtures("only_leaves")
def test_no_time_is_a_time_out(problem: Problem) -> None:
    found = _verify(problem, seconds=1e-9)
    late = found.cause == Cause.time_out
    assert late.any()
    assert found.reason[late][0].startswith("exact: undecided in time, after ")
    assert (found.verdict[late] == Verdict.unknown).all()
    assert np.isfinite(found.margin[late]).all()


def test_no_step_is_taken_after_the_deadline(problem: Problem, monkeypatch: pytest.MonkeyPatch) -> None:
    """Batches of subproblems take many."""
    bounds, calls = branching.Search._bounds, []
    monkeypatch.setattr(branching, "_CLEAR", math.inf)
    monkeypatch.setattr(branching.Search, "_late", lambda self: True)
    monkeypatch.setattr(branching.Search, "_bounds", lambda self, nodes: calls.append(1) or bounds(self, nodes))
    late = _verify(problem).cause == Cause.time_out
    assert late.any()
    searched = len(calls) / 2
    assert late.sum() <= searched <= 60


@pytest.mark.usefixtures("only_leaves")
def test_bounds_hold_where_a_search_ends_with_a_point(problem: Problem) -> None:
    """The point of a leaf may still fail to be confirmed, and the subproblems beside it are not yet bounded."""
    network, x, _ = problem
    graph = trace(copy.deepcopy(network).double(), (2,))
    line = torch.linspace(-EPSILON, EPSILON, 31, dtype=torch.float64)
    ended = 0
    for sample in range(0, 60, 4):
        box = input_box(x[sample : sample + 1].double(), EPSILON, 0, 1)
        with torch.no_grad():
            reduced = reduce_margins(graph, box, crown_bounds(graph, box, tighten=True), 1)
            logits = graph.network((x[sample].double() + torch.cartesian_prod(line, line)).clamp(0, 1))
            search = branching.Search(reduced, 1.0, lambda points, least: points[0] if least == 0 else None, math.inf)
            outcome = search.run(torch.tensor([0, 2]))
        ended += outcome.point is not None
        assert bool((outcome.lower[[0, 2]] <= (logits[:, 1:2] - logits).amin(0)[[0, 2]] + 1e-9).all())
    assert ended


def test_more_undecided_relus_than_memory_is_a_budget(problem: Problem, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exact, "MOST_UNDECIDED", 0)
    found = _verify(problem)
    assert (found.cause == Cause.budget).any()
    assert "at most 0 can be branched on" in found.reason[found.cause == Cause.budget][0]


def test_a_margin_of_exactly_zero_is_left_open() -> None:
    """Logits `(|t|, 0)` around t = 0."""
    network = nn.Sequential(nn.Linear(1, 2), nn.ReLU(), nn.Linear(2, 2))
    with torch.no_grad():
        network[0].weight.copy_(torch.tensor([[1.0], [-1.0]]))
        network[0].bias.copy_(torch.tensor([-0.5, 0.5]))
        network[2].weight.copy_(torch.tensor([[1.0, 1.0], [0.0, 0.0]]))
        network[2].bias.zero_()
    found = _verify((network, torch.tensor([[0.4]]), torch.tensor([0])), epsilon=0.2)
    assert found.verdict[0] == Verdict.unknown
    assert found.cause[0] == Cause.rounding


def test_the_oracle_knows_margins_that_a_grid_knows(problem: Problem) -> None:
    network, x, _ = problem
    network = network.double()
    line = torch.linspace(-EPSILON, EPSILON, 201, dtype=torch.float64)
    for sample in (0, 7, 31):
        lower, upper = (x[sample].double() - EPSILON).clamp(min=0), (x[sample].double() + EPSILON).clamp(max=1)
        found = smallest_margins(network, lower.numpy(), upper.numpy(), 1)
        with torch.no_grad():
            logits = network((x[sample].double() + torch.cartesian_prod(line, line)).clamp(0, 1))
        on_grid = (logits[:, 1:2] - logits).amin(0).numpy()
        assert (found <= on_grid + 1e-6).all()
        assert (on_grid - found < 0.05).all()
    network.float()


NUMBERS = range(6 * len(KINDS))
"""Every kind in every form, trained and not."""


@pytest.mark.parametrize("number", NUMBERS)
def test_no_stage_contradicts_the_oracle_and_the_exact_one_agrees(number: int) -> None:
    case = instance(number)
    said = verdicts(case)
    assert {way: contradiction(case, one) for way, one in said.items()} == dict.fromkeys(said)
    assert abs(case.smallest) >= 0.9 * min(DISTANCES)
    for way in ("exact", "cascade"):
        if said[way].stage[0] != "natural":
            expected = Verdict.verified if case.smallest > 0 else Verdict.falsified
            assert said[way].verdict[0] == expected, said[way].reason


def test_what_cannot_be_branched_on_takes_no_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """The matrix of a problem grows with the square of what is undecided."""
    monkeypatch.setattr(exact, "MOST_UNDECIDED", 4)
    monkeypatch.setattr(piecewise._Reduction, "of", lambda *_: pytest.fail("it was built"))
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(2, 40), nn.ReLU(), nn.Linear(40, 2)).eval()
    x = torch.rand(4, 2)
    found = _verify((network, x, network(x).argmax(1)), epsilon=0.4)
    undecided = found.reason[found.verdict == Verdict.unknown].tolist()
    assert undecided
    assert all("undecided ReLUs, at most 4 can be branched on" in reason for reason in undecided)


def test_a_sample_without_a_counterexample_needs_no_forward_pass() -> None:
    """A pool over maps without channels takes no empty batch."""
    torch.manual_seed(1)
    head = nn.Flatten(), nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2)
    network = nn.Sequential(Reshape((4, 4)), nn.AvgPool2d(2), *head).eval()
    x = torch.rand(5, 16)
    options = CascadeOptions(stages=("exact",), audit=None)
    found = verify(network, x, network(x).argmax(1), epsilon=1e-6, low=0, high=1, options=options)
    assert (found.verdict == Verdict.verified).all()
