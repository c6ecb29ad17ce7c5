"""What is kept for every sample: a counterexample, or why it is unknown."""

from typing import ClassVar, final

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from sparsevlr.trainables.bounds import Box, Graph
from sparsevlr.trainables.verification import (
    CascadeOptions,
    Cause,
    MarginBounds,
    Reason,
    SoundnessError,
    Verdict,
    Verification,
    Verifier,
    verify,
)

Problem = tuple[nn.Sequential, Tensor, Tensor]
EPSILON = 0.05


def _verify(problem: Problem, *stages: str, verifiers: dict[str, Verifier] | None = None) -> Verification:
    network, x, y = problem
    options = CascadeOptions(stages=stages)
    return verify(network, x, y, epsilon=EPSILON, low=0, high=1, options=options, verifiers=verifiers)


@final
class _Points(Verifier):
    """Bounds nothing, or claims a proof of everything, and takes some input of each box for a counterexample."""

    description: ClassVar[str] = "for tests"

    def __init__(self, shift: float, *, proves: bool = False, reason: Reason | None = None) -> None:
        self.shift, self.proves, self.reason = shift, proves, reason

    def margins(self, graph: Graph, box: Box, labels: Tensor) -> MarginBounds:
        lower = torch.full((len(labels), graph.last_linear.out_features), 1.0 if self.proves else -1.0)
        reasons = {} if self.reason is None else {0: self.reason}
        return MarginBounds(lower, torch.ones(len(labels)), box.centre + self.shift * box.radius, reasons)


@pytest.mark.parametrize("stages", [("pgd",), ("ibp", "exact")])
def test_every_falsified_sample_has_a_counterexample_in_its_box(problem: Problem, stages: tuple[str, ...]) -> None:
    network, x, y = problem
    found = _verify(problem, *stages)
    falsified = np.flatnonzero(found.verdict == Verdict.falsified)
    assert sorted(found.counterexamples) == falsified.tolist()
    assert {"natural", stages[-1]} == set(found.stage[falsified].tolist())
    points = torch.from_numpy(np.stack([found.counterexamples[sample] for sample in falsified]))
    assert points.dtype == torch.float32
    assert bool(((points.double() - x[falsified].double()).abs() <= EPSILON).all())
    assert bool(((points >= 0) & (points <= 1)).all())
    assert not bool((network.double()(points.double()).argmax(1) == y[falsified]).any())
    network.float()
    natural = np.flatnonzero(found.stage == "natural")
    assert all(np.array_equal(found.counterexamples[sample], x[sample].numpy()) for sample in natural)


def test_points_a_little_outside_are_moved_into_the_box(problem: Problem) -> None:
    """Rounded or not, within epsilon of the sample as real numbers."""
    _, x, _ = problem
    found = _verify(problem, "ibp", verifiers={"ibp": _Points(1.0001)})
    assert "ibp" in found.stage
    for sample, point in found.counterexamples.items():
        assert (np.abs(point.astype(np.float64) - x[sample].double().numpy()) <= EPSILON).all()


def test_a_counterexample_that_changes_no_class_falsifies_nothing(problem: Problem) -> None:
    found = _verify(problem, "ibp", verifiers={"ibp": _Points(0.0)})
    assert set(found.stage.tolist()) == {"natural", ""}
    unknown = found.verdict == Verdict.unknown
    assert set(found.cause[unknown].tolist()) == {Cause.rounding}
    assert found.reason[unknown][0] == "ibp: its counterexample changes no class in a forward pass in float64"


def test_a_stage_that_proves_and_falsifies_the_same_sample_is_unsound(problem: Problem) -> None:
    with pytest.raises(SoundnessError, match="verified by stage 'ibp'"):
        _verify(problem, "ibp", verifiers={"ibp": _Points(1.0, proves=True)})


def test_every_unknown_sample_has_a_cause_and_no_other_has(problem: Problem) -> None:
    found = _verify(problem, "ibp")
    unknown = found.verdict == Verdict.unknown
    assert set(found.cause[unknown].tolist()) == {Cause.no_stage_left}
    assert set(found.cause[~unknown].tolist()) == set(found.reason.tolist()) == {""}


def test_the_reason_of_a_stage_is_kept(problem: Problem) -> None:
    network, x, y = problem
    reason = Reason(Cause.time_out, "too slow")
    some = (network, x[20:21], y[20:21])
    found = _verify(some, "ibp", verifiers={"ibp": _Points(torch.nan, reason=reason)})
    assert (found.cause[0], found.reason[0]) == (Cause.time_out, "ibp: too slow")


def test_causes_of_budget_and_failure(problem: Problem) -> None:
    network, x, y = problem
    options = CascadeOptions(stages=("crown",), max_crown_samples=3)
    found = verify(network, x, y, epsilon=EPSILON, low=0, high=1, options=options)
    assert (found.cause == Cause.budget).sum() == (found.stage != "natural").sum() - 3

    @final
    class Fails(Verifier):
        description: ClassVar[str] = "for tests"

        def margins(self, graph: Graph, box: Box, labels: Tensor) -> MarginBounds:
            raise RuntimeError("solver")

    failed = _verify(problem, "ibp", verifiers={"ibp": Fails()})
    assert (failed.cause == Cause.failure).sum() == (failed.stage != "natural").sum()
