"""Initialisation for interval bound propagation (Shi et al. 2021, arXiv 2103.17268)."""

from __future__ import annotations

import math

import torch
from torch import nn


@torch.no_grad()
def ibp_initialise_(network: nn.Module, generator: torch.Generator) -> None:
    """Draw the weights of every convolution and linear layer from N(0, (sqrt(2 pi) / fan_in)^2); biases become 0.

    With this deviation the widths of interval bounds neither grow nor shrink from layer to layer. In a network
    without normalisation the deviation of Kaiming's initialisation lets them explode with depth.
    """
    for module in network.modules():
        if isinstance(module, nn.Linear | nn.Conv2d):
            fan_in = module.weight[0].numel()
            values = torch.randn(module.weight.shape, generator=generator) * (math.sqrt(2 * math.pi) / fan_in)
            module.weight.copy_(values)
            if module.bias is not None:
                module.bias.zero_()
