"""The cheap scores over a grid, and everything that cannot be asked of a cascade."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from sparsevlr.spaces.errors import SpecError
from sparsevlr.trainables.verification import VERIFIERS, CascadeOptions, Verification, verified_over_grid, verify

Problem = tuple[nn.Sequential, Tensor, Tensor]


def _verify(problem: Problem, options: CascadeOptions | None = None, *, epsilon: float = 0.05) -> Verification:
    network, x, y = problem
    return verify(network, x, y, epsilon=epsilon, low=0, high=1, options=options or CascadeOptions(audit=None))


def test_verified_over_a_grid(problem: Problem) -> None:
    network, x, y = problem
    epsilons = [0.02, 0.0, 0.1, 0.01, 0.3]
    found = verified_over_grid(network, x, y, epsilons, low=0, high=1)
    for epsilon, accuracy in zip(epsilons, found, strict=True):
        single = _verify(problem, CascadeOptions(stages=("ibp", "crown-ibp")), epsilon=epsilon)
        # A proof at a larger epsilon may stand in for one that a looser bound misses at this one.
        assert single.verified_accuracy <= accuracy <= single.natural_accuracy
    by_size = found[np.argsort(epsilons)]
    assert (np.diff(by_size) <= 0).all()
    assert by_size[0] == _verify(problem, epsilon=0.0).natural_accuracy
    assert by_size[-1] < by_size[1] < by_size[0]
    assert (
        verified_over_grid(network, x, y, epsilons, low=0, high=1, options=CascadeOptions(batch_size=9)) == found
    ).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"stages": ("ibp", "milp")}, "stages must be among .*ibp.*pgd, got 'milp'"),
        ({"stages": ("ibp", "ibp")}, "runs once, got 'ibp' 2 times"),
        ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
        ({"pgd_steps": 0}, "pgd_steps must be at least 1"),
        ({"audit": -1}, "audit must be at least 0, or null for all, got -1"),
        ({"max_crown_samples": -5}, "max_crown_samples must be at least 0"),
        ({"max_exact_samples": -1}, "max_exact_samples must be at least 0"),
        ({"exact_seconds": 0.0}, "exact_seconds must be above 0, got 0.0"),
    ],
)
def test_impossible_options(options: dict[str, object], message: str) -> None:
    with pytest.raises(SpecError, match=message):
        CascadeOptions(**options)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda n, x, y: (n, x + 0.5, y), "every input must lie in the input range"),
        (lambda n, x, y: (n, x * torch.nan, y), "every input must lie in the input range"),
        (lambda n, x, y: (n, x, y + 2), "labels must be 0 to 2, got 2 to 4"),
        (lambda n, x, y: (n, x, y[:-1]), r"y \(samples,\), got \(200, 2\) and \(199,\)"),
        (lambda n, x, y: (n, x[:0], y[:0]), "at least one sample"),
    ],
)
def test_impossible_inputs(problem: Problem, change: Callable[..., Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        _verify(change(*problem))


def test_every_stage_name_is_known() -> None:
    assert CascadeOptions(stages=(*VERIFIERS, "pgd")).verifiers().keys() == VERIFIERS.keys()
