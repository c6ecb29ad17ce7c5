import torch
from torch import nn

from sparsevlr.spaces.architectures.layers import Reshape
from sparsevlr.trainables.accounting import network_cost
from sparsevlr.trainables.bounds import trace


def test_counts_by_hand() -> None:
    network = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.ReLU(), nn.Flatten(), nn.Linear(18, 4))
    with torch.no_grad():
        network[4].weight[:2] = 0
    cost = network_cost(trace(network, (1, 5, 5)))
    assert cost.total_weights == 18 + 72
    assert cost.nonzero_weights == 18 + 36
    # 9 output positions of the convolution; each weight of the linear layer once.
    assert cost.macs == 18 * 9 + 36
    assert cost.sparsity == 1 - 54 / 90
    # The convolution dense; the linear layer as 9 bytes of mask and 36 values; 2 + 4 biases, 8 numbers of BatchNorm.
    assert cost.size_bytes == 18 * 4 + (9 + 36 * 4) + (2 + 4 + 8) * 4
    assert cost.other_parameters == 2 + 4 + 8
    assert cost.layer_densities == {"0": 1.0, "4": 0.5}
    assert cost.dense_bytes == (18 + 72 + 14) * 4
    assert cost.bitmask_bytes == (3 + 18 * 4) + (9 + 36 * 4) + 14 * 4
    # Two rows of 9 and four of 18: a value and a column per weight, a start per row and an end.
    assert cost.csr_bytes == 18 * 8 + 3 * 4 + 36 * 8 + 5 * 4 + 14 * 4


def test_a_linear_layer_is_used_once_per_row() -> None:
    network = nn.Sequential(Reshape((5, 3)), nn.Linear(3, 7), nn.Flatten(), nn.Linear(35, 2))
    assert network_cost(trace(network, (15,))).macs == 5 * 21 + 70
