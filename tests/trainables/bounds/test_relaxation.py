import pytest
import torch
from torch import Tensor, nn

from sparsevlr.trainables.bounds.relaxation import Interval, ReLURelaxation, relax

CASES = {"active": (0.5, 2.0), "dead": (-2.0, -0.5), "up": (-1.0, 2.0), "down": (-2.0, 1.0), "even": (-1.0, 1.0),
         "at most 0": (-1.0, 0.0), "at least 0": (0.0, 1.0), "0": (0.0, 0.0)}  # fmt: skip


def _relaxed(lower: Tensor, upper: Tensor) -> ReLURelaxation:
    relaxation = relax(nn.ReLU(), Interval(lower, upper))
    assert isinstance(relaxation, ReLURelaxation)
    return relaxation


def _fused(rows: Tensor, lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:
    return _relaxed(lower, upper).backward(rows, slice(None), rows.shape[1:])


def _by_cases(rows: Tensor, lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:
    active, dead = lower >= 0, upper <= 0
    one, zero = torch.ones_like(lower), torch.zeros_like(lower)
    stable = active | dead
    chord = upper / torch.where(stable, one, upper - lower)
    slope = torch.where(active, one, torch.where(dead, zero, chord))
    bias = (rows.clamp(max=0) * torch.where(stable, zero, -chord * lower)).flatten(1).sum(1)
    return torch.where(rows > 0, (upper > -lower).to(rows.dtype), slope) * rows, bias


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_fused_relaxation_equals_the_plain_formula_in_every_case(dtype: torch.dtype) -> None:
    """Values and gradients, also of coefficients and bounds that are exactly 0, as where all weights are pruned."""
    lower, upper = (torch.tensor(ends, dtype=dtype).repeat(2, 3) for ends in zip(*CASES.values(), strict=True))
    rows = torch.tensor([-1.5, 0.0, 0.75], dtype=dtype).repeat_interleave(len(CASES)).repeat(2, 1)
    leaves = [values.clone().requires_grad_() for values in (rows, lower, upper)]
    weights = torch.randn(rows.shape, dtype=dtype), torch.tensor([0.7, -1.3], dtype=dtype)
    found = []
    for method in (_fused, _by_cases):
        after, bias = method(*leaves)
        gradients = torch.autograd.grad((after * weights[0]).sum() + (bias * weights[1]).sum(), leaves)
        found.append([after, bias, *gradients])
    for mine, plain in zip(*found, strict=True):
        torch.testing.assert_close(mine, plain)
        # A gradient of |coefficient| tells 0 from nearly 0.
        assert torch.equal(mine == 0, plain == 0)


def test_it_encloses_relu_however_far_apart_the_bounds_are() -> None:
    ends = torch.tensor([0.0, 1e-38, 1e-31, 1e-25, 1e-19, 1e-9, 1e-3, 1.0, 1e9], dtype=torch.float64)
    lower, upper = -ends.repeat(len(ends)), ends.repeat_interleave(len(ends))
    _, slope, depth = _relaxed(lower, upper)
    for point in (lower, upper, torch.zeros_like(lower)):
        assert bool((slope * (point + depth) >= point.relu() - 1e-15 * (upper - lower)).all())


def test_a_bound_that_is_no_number_gives_none() -> None:
    for lower, upper in ((torch.nan, 1.0), (-1.0, torch.nan), (-torch.inf, torch.inf)):
        for row in (-1.0, 1.0):
            _, bias = _fused(torch.tensor([[row]]), torch.tensor([[lower]]), torch.tensor([[upper]]))
            assert bias.isnan().all(), (lower, upper, row)


def test_fused_relaxation_gradients() -> None:
    lower, width = torch.randn(3, 4, 5, dtype=torch.float64), torch.rand(3, 4, 5, dtype=torch.float64) * 2
    inputs = [values.requires_grad_() for values in (torch.randn_like(lower), lower, (lower + width).detach())]
    assert torch.autograd.gradcheck(_fused, inputs)
