import pytest
import torch
from torch import nn

from sparsevlr.spaces.architectures.layers import Residual
from sparsevlr.trainables.bounds import trace
from sparsevlr.trainables.bounds.units import unit_rows


@pytest.mark.parametrize(
    ("layers", "shape", "start"),
    [
        ([nn.Linear(6, 5)], (6,), 0),
        ([nn.Linear(6, 5, bias=False), nn.BatchNorm1d(5)], (6,), 0),
        ([nn.Conv2d(2, 3, (2, 3), stride=(2, 1), padding=(1, 0))], (2, 5, 6), 0),
        ([nn.Conv2d(2, 3, 3, padding=2), nn.BatchNorm2d(3), nn.BatchNorm2d(3)], (2, 5, 6), 0),
        ([nn.Conv2d(4, 6, 2, groups=2, dilation=(2, 1), bias=False)], (4, 5, 6), 0),
        ([nn.Linear(6, 5), nn.BatchNorm2d(2)], (2, 3, 6), 1),
        ([nn.AvgPool2d(2)], (2, 4, 6), 1),
        ([Residual(nn.Sequential(nn.Linear(6, 6)), nn.Identity()), nn.BatchNorm1d(6)], (6,), 2),
    ],
    ids=str,
)
def test_rows_are_those_of_the_jacobian(layers: list[nn.Module], shape: tuple[int, ...], start: int) -> None:
    """Of the part of the network from the node that the rows are over (`start`) to the neurons they stand for."""
    torch.manual_seed(0)
    part = nn.Sequential(*layers).double().eval()
    for module in part.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.3, 2)
            nn.init.normal_(module.weight)
            nn.init.normal_(module.bias)
    features = part(torch.zeros(2, *shape, dtype=torch.float64))[0].numel()
    graph = trace(nn.Sequential(*part, nn.Flatten(), nn.Linear(features, 2).double()), shape)
    index = len(graph.nodes) - 3
    neurons = torch.randperm(features)[:7]
    found, rows, constant = unit_rows(graph, index, neurons, torch.zeros(1, dtype=torch.float64))
    assert found == start
    assert rows.dtype == torch.float64
    value = torch.rand(3, *graph.nodes[start].shape, dtype=torch.float64)
    after = value
    for node in graph.nodes[start + 1 : index + 1]:
        after = node.layer(after)
    expected = after.flatten(1)[:, neurons]
    assert torch.allclose(value.flatten(1) @ rows.flatten(1).T + constant, expected)
