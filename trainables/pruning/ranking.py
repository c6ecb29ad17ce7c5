"""Distributions in which all weights of the network compete."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, final

import torch
from torch import Tensor

from .base import Distribution


class Ranking(Distribution):
    """Layers keep what wins there in one ranking over all of them. Ties go to the earlier layer."""

    @abstractmethod
    def comparable(self, scores: Tensor) -> Tensor:
        """The scores of one layer as they compete with those of others, of the same shape and in the same order.

        Infinite ones stay so, and count for nothing.
        """

    def allocate(self, scores: Mapping[str, Tensor], kept: int) -> dict[str, int]:
        return most({name: self.comparable(values.detach().cpu()) for name, values in scores.items()}, kept)


@final
@dataclass(frozen=True)
class Global(Ranking):
    """Scores compete as they are."""

    description: ClassVar[str] = "distribution: one ranking over all layers"

    def comparable(self, scores: Tensor) -> Tensor:
        return scores


@final
@dataclass(frozen=True)
class Lamp(Ranking):
    """Layer-adaptive magnitude pruning (LAMP, Lee et al. 2021, arXiv 2010.07611): a weight counts for what it is worth
    beside the better ones of its own layer.

    The scale of a layer's weights says nothing: ReLU networks compute the same when one layer is multiplied and the
    next divided by a factor. So the squared score counts as a share of the sum of its own and all higher ones of the
    layer, `s_i^2 / sum of s_j^2 over all s_j >= s_i`. The best weight of every layer has the whole, 1; a few large
    weights leave little to the rest of theirs.

    Scores below 0 are first raised by the lowest of their layer. Of equal ones the lower flat index counts as higher.
    """

    description: ClassVar[str] = (
        "distribution: one ranking over all layers, scores relative to the better of their layer"
    )

    def comparable(self, scores: Tensor) -> Tensor:
        order = torch.sort(scores.double().flatten(), descending=True, stable=True)
        finite = order.values.isfinite()
        values = order.values[finite]
        squares = (values - values.min().clamp_max(0.0)).square() if len(values) else values
        shares = order.values.clone()
        # Of nothing but zeros none has a share.
        shares[finite] = squares / squares.cumsum(0).clamp_min(torch.finfo(torch.float64).tiny)
        return torch.empty_like(shares).scatter_(0, order.indices, shares).view(scores.shape)


def most(scores: Mapping[str, Tensor], kept: int) -> dict[str, int]:
    """How many of the `kept` highest of all scores are in each layer."""
    if kept == 0:
        return dict.fromkeys(scores, 0)
    flat = torch.cat([values.flatten() for values in scores.values()])
    # Several times faster than to sort a large network: all above the last winner win, of its equals the earlier.
    last = torch.kthvalue(flat, len(flat) - kept + 1).values
    counts = {name: int((values > last).count_nonzero()) for name, values in scores.items()}
    left = kept - sum(counts.values())
    for name, values in scores.items():
        equals = min(left, int((values == last).count_nonzero()))
        counts[name] += equals
        left -= equals
    return counts
