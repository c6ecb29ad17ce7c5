import pytest
import torch
from torch import nn
from torch.nn import functional as F

from sparsevlr.trainables.bounds.transpose import transpose

ONE_CHANNEL = {
    "strided": nn.Conv2d(1, 3, 4, stride=2),
    "uneven": nn.Conv2d(1, 3, (2, 4), stride=(3, 2), padding=(1, 0), bias=False),
    "dilated": nn.Conv2d(1, 4, 3, dilation=(2, 1), stride=2, padding=1),
}


@pytest.mark.parametrize("name", ONE_CHANNEL)
def test_a_convolution_of_one_channel_is_transposed_with_its_gradients(name: str) -> None:
    layer, inputs = ONE_CHANNEL[name].double(), (1, 9, 8)
    where = (layer.stride, layer.padding, layer.dilation)
    x = torch.randn(5, *inputs, dtype=torch.float64)
    rows = torch.randn_like(layer(x)).requires_grad_()

    coefficients, bias = transpose(layer, rows, inputs)
    by_rows = (coefficients * x).flatten(1).sum(1) + bias
    by_layer = (rows * layer(x)).flatten(1).sum(1)
    assert torch.allclose(by_rows, by_layer)
    parameters = [rows, *layer.parameters()]
    found = torch.autograd.grad(by_rows.square().sum(), parameters)
    for mine, plain in zip(found, torch.autograd.grad(by_layer.square().sum(), parameters), strict=True):
        assert torch.allclose(mine, plain)
    with torch.autocast("cpu", torch.bfloat16):
        coefficients, _ = transpose(layer.float(), rows.detach().bfloat16(), inputs)
    exact = torch.autograd.grad(F.conv2d(x.requires_grad_(), layer.weight.double(), None, *where), x, rows)[0]
    assert torch.allclose(coefficients.double(), exact, rtol=0.02, atol=0.02)
