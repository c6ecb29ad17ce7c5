"""Linear layers backwards: from coefficients on a layer's output to coefficients on its input.

Coefficients are `(rows, *shape)`: every row is one linear function to be bounded from below.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F
from torch.nn.grad import conv2d_weight

from ...spaces.architectures.layers import Reshape
from .affine import Affine, BatchNorm, affine_of, per_channel


def transpose(layer: nn.Module, rows: Tensor, inputs: tuple[int, ...]) -> tuple[Tensor, Tensor | float]:
    """Coefficients `(rows, *inputs)` on the layer's input, and what its bias adds to each row, `(rows,)` or 0."""
    return _TRANSPOSES[type(layer)](layer, rows, inputs)


def _linear(layer: nn.Linear, rows: Tensor, inputs: tuple[int, ...]) -> tuple[Tensor, Tensor | float]:
    summed = rows.flatten(1, -2).sum(1) if rows.dim() > 2 else rows
    return rows @ layer.weight, 0.0 if layer.bias is None else summed @ layer.bias


def _convolution(layer: nn.Conv2d, rows: Tensor, inputs: tuple[int, ...]) -> tuple[Tensor, Tensor | float]:
    assert not isinstance(layer.padding, str)
    bias = 0.0 if layer.bias is None else rows.flatten(2).sum(2) @ layer.bias
    if layer.in_channels == 1:
        return _into_one_channel(layer, rows, inputs), bias
    return (
        F.conv_transpose2d(
            rows,
            layer.weight,
            None,
            layer.stride,
            layer.padding,
            _output_padding(layer, rows.shape[2:], inputs[1:]),
            layer.groups,
            layer.dilation,
        ),
        bias,
    )


def _into_one_channel(layer: nn.Conv2d, rows: Tensor, inputs: tuple[int, ...]) -> Tensor:
    """The transposed convolution; under autocast in the precision of its weights, in which it is the faster."""
    with torch.autocast(rows.device.type, enabled=False):
        folded: Tensor = _Folded.apply(rows.to(layer.weight.dtype), layer.weight, layer, inputs[1:])
    return folded


class _Folded(torch.autograd.Function):
    """One matrix product and a sum over overlapping windows.

    The library's transposed convolution pads a single channel to the width of its vectors, and so does several times
    the work.
    """

    @staticmethod
    def forward(ctx: Any, rows: Tensor, weight: Tensor, layer: nn.Conv2d, size: tuple[int, int]) -> Tensor:
        assert not isinstance(layer.padding, str)
        ctx.save_for_backward(rows, weight)
        ctx.where = (layer.stride, layer.padding, layer.dilation)
        windows = weight.flatten(1).t() @ rows.flatten(2)
        return F.fold(windows, size, layer.kernel_size, layer.dilation, layer.padding, layer.stride)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None, None]:
        rows, weight = ctx.saved_tensors
        grad_weight = conv2d_weight(grads[0], weight.shape, rows, *ctx.where)
        return F.conv2d(grads[0], weight, None, *ctx.where), grad_weight, None, None


def _output_padding(layer: nn.Conv2d, outputs: tuple[int, ...], inputs: tuple[int, ...]) -> list[int]:
    """Rows and columns at the far end that the convolution never read: the stride left them over."""
    return [
        size - ((out - 1) * stride - 2 * int(pad) + dilation * (kernel - 1) + 1)
        for size, out, stride, pad, dilation, kernel in zip(
            inputs, outputs, layer.stride, layer.padding, layer.dilation, layer.kernel_size, strict=True
        )
    ]


def _affine(layer: BatchNorm | Affine, rows: Tensor, inputs: tuple[int, ...]) -> tuple[Tensor, Tensor | float]:
    scale, shift = affine_of(layer)
    summed = rows.flatten(2).sum(2) if rows.dim() > 2 else rows
    return rows * per_channel(scale, rows.dim()), summed @ shift


def _average(layer: nn.AvgPool2d, rows: Tensor, inputs: tuple[int, ...]) -> tuple[Tensor, Tensor | float]:
    def pair(value: Any) -> list[int]:
        return [value, value] if isinstance(value, int) else list(value)

    # The operator reads only the shape of its second argument.
    shaped = rows.new_empty(()).expand(rows.shape[0], *inputs)
    spread = torch.ops.aten.avg_pool2d_backward.default(
        rows,
        shaped,
        pair(layer.kernel_size),
        pair(layer.stride),
        pair(layer.padding),
        layer.ceil_mode,
        layer.count_include_pad,
        layer.divisor_override,
    )
    return spread, 0.0


def _rearranged(layer: nn.Module, rows: Tensor, inputs: tuple[int, ...]) -> tuple[Tensor, Tensor | float]:
    return rows.reshape(rows.shape[0], *inputs), 0.0


_TRANSPOSES: dict[type[nn.Module], Callable[..., tuple[Tensor, Tensor | float]]] = {
    nn.Linear: _linear,
    nn.Conv2d: _convolution,
    nn.BatchNorm1d: _affine,
    nn.BatchNorm2d: _affine,
    Affine: _affine,
    nn.AvgPool2d: _average,
    nn.Flatten: _rearranged,
    nn.Dropout: _rearranged,
    Reshape: _rearranged,
}
