"""Initialisation for interval bound propagation (Shi et al. 2021, arXiv 2103.17268)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from ..mask import prunable_weights
from .base import Initialisation


@dataclass(frozen=True)
class IBPInitialisation(Initialisation):
    """Weights from N(0, (sqrt(2 pi) / fan_in)^2); biases become 0.

    With this deviation the widths of interval bounds neither grow nor shrink from layer to layer. In a network
    without normalisation the deviation of Kaiming's initialisation lets them explode with depth. The authors' code
    leaves the last layer and all biases as torch draws them, and halves a layer that reads a residual sum; here all are
    drawn alike.

    Attributes:
        masked_fan_in: where a network is pruned before its first step, draw the weights again by the number of
            inputs that each output unit has kept.
    """

    description: ClassVar[str] = "initialisation: deviation sqrt(2 pi) / fan-in (Shi et al. 2021)"
    masked_fan_in: bool = False

    @torch.no_grad()
    def initialise_(self, network: nn.Module, kept: Mapping[str, Tensor], generator: torch.Generator) -> None:
        for name, weight in prunable_weights(network).items():
            inputs = kept[name].cpu().flatten(1).sum(1).clamp_min(1).double()
            deviation = (math.sqrt(2 * math.pi) / inputs).to(weight.dtype).view(-1, *[1] * (weight.dim() - 1))
            values = torch.randn(weight.shape, generator=generator) * deviation
            weight.copy_(values.masked_fill_(~kept[name].cpu(), 0.0))
        for module in network.modules():
            if isinstance(module, nn.Linear | nn.Conv2d) and module.bias is not None:
                module.bias.zero_()
