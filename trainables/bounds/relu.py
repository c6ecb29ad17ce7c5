"""ReLU over boxes as one differentiable operation."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


class _IntervalReLU(torch.autograd.Function):
    """Forward `lo = relu(mu - r)`, `up = relu(mu + r)`; output centre and radius of `[lo, up]`.

    Autograd through the plain formula keeps four intermediate tensors and runs eight kernels backward; this keeps two
    and runs the closed form: with `a = (lo > 0)(g_mu - g_r)` and `b = (up > 0)(g_mu + g_r)` the gradients are
    `(a + b) / 2` and `(b - a) / 2`.
    """

    @staticmethod
    def forward(ctx: Any, centre: Tensor, radius: Tensor) -> tuple[Tensor, Tensor]:
        lower = (centre - radius).relu_()
        upper = (centre + radius).relu_()
        middle = (lower + upper).mul_(0.5)
        ctx.save_for_backward(lower, upper)
        return middle, upper - middle

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor]:
        lower, upper = ctx.saved_tensors
        grad_centre, grad_radius = grads
        from_lower = where_above(grad_centre - grad_radius, lower)
        half = where_above(grad_centre + grad_radius, upper).mul_(0.5)
        return half.add(from_lower, alpha=0.5), half.sub_(from_lower, alpha=0.5)


def where_above(values: Tensor, other: Tensor) -> Tensor:
    """`values` where `other` of the same shape is above 0 or NaN, elsewhere 0.

    One pass of vector instructions, which neither a product with a mask of bool nor `torch.where` is on a CPU.
    """
    chosen: Tensor = torch.ops.aten.threshold_backward.default(values, other, 0)
    return chosen


def interval_relu(centre: Tensor, radius: Tensor) -> tuple[Tensor, Tensor]:
    """Centre and radius of `relu` over the box `centre ± radius`, any shape; differentiable once."""
    return _IntervalReLU.apply(centre, radius)
