import pytest
import torch
from torch import nn

from sparsevlr.trainables.mask import Mask


def test_counts_weights_of_convolutions_and_linear_layers_only() -> None:
    net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(8, 3))
    mask = Mask.dense(net)
    assert set(mask) == {"0.weight", "3.weight"}
    assert mask.total == mask.kept == 18 + 24
    assert mask.sparsity == 0.0


def test_materialises_into_plain_weights_and_gradients() -> None:
    net = nn.Sequential(nn.Linear(3, 2))
    mask = Mask({"0.weight": torch.tensor([[True, False, True], [False, False, True]])})
    net(torch.ones(1, 3)).sum().backward()
    mask.apply_(net)
    mask.zero_gradients_(net)
    assert torch.equal(net[0].weight != 0, mask["0.weight"])
    assert torch.equal(net[0].weight.grad != 0, mask["0.weight"])
    assert mask.sparsity == 0.5


def test_is_a_value_of_its_own() -> None:
    kept = torch.tensor([True, False])
    mask = Mask({"weight": kept})
    kept[1] = True
    assert mask.kept == 1


def test_refuses_what_is_no_mask() -> None:
    with pytest.raises(ValueError, match="booleans only"):
        Mask({"weight": torch.ones(2)})
    with pytest.raises(ValueError, match="at least one"):
        Mask.dense(nn.Sequential(nn.ReLU()))
    with pytest.raises(ValueError, match="network has"):
        Mask({"other": torch.tensor([True])}).apply_(nn.Sequential(nn.Linear(1, 1)))
    with pytest.raises(ValueError, match="shape"):
        Mask({"0.weight": torch.tensor([True])}).apply_(nn.Sequential(nn.Linear(1, 1)))
