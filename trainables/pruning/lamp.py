"""Layer-adaptive magnitude pruning (LAMP, Lee et al. 2021, arXiv 2010.07611)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, final

import torch
from torch import Tensor

from .base import Distribution
from .global_distribution import Global


@final
@dataclass(frozen=True)
class Lamp(Distribution):
    """One ranking over all layers of what each weight is worth beside the better ones of its own layer.

    The scale of a layer's weights says nothing: ReLU networks compute the same when one layer is multiplied and the
    next divided by a factor. So the squared score counts as a share of the sum of its own and all higher ones of the
    layer. The best weight of every layer has the whole, 1; a few large weights in a layer leave little to the rest.

    Scores below 0 are first raised by the lowest of their layer.
    """

    description: ClassVar[str] = (
        "distribution: one ranking over all layers, scores relative to the better of their layer"
    )

    def allocate(self, scores: Mapping[str, Tensor], kept: int) -> dict[str, int]:
        return Global().allocate({name: relative(score) for name, score in scores.items()}, kept)


def relative(scores: Tensor) -> Tensor:
    """`s_i^2 / sum of s_j^2 over all s_j >= s_i` in one layer, float64 of the scores' shape, in their order.

    Of equal scores the one with the lower flat index counts as the higher. Infinite ones stay so and count for nothing.
    """
    order = torch.sort(scores.detach().cpu().double().flatten(), descending=True, stable=True)
    finite = order.values.isfinite()
    values = order.values[finite]
    squares = (values - values.min().clamp_max(0.0)).square() if len(values) else values
    shares = order.values.clone()
    # Of nothing but zeros none has a share.
    shares[finite] = squares / squares.cumsum(0).clamp_min(torch.finfo(torch.float64).tiny)
    return torch.empty_like(shares).scatter_(0, order.indices, shares).view(scores.shape)
