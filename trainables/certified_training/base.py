"""The one-method interface of certified losses."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from ..bounds import Graph


@dataclass(frozen=True)
class Batch:
    """What a loss may look at in one step.

    Attributes:
        x: inputs, (batch, *shape).
        y: labels, (batch,).
        centre: centre of the input box, already clipped to the input range, (batch, *shape).
        radius: half its width, same shape.
        ramp: position on the epsilon ramp, epsilon / target epsilon, in [0, 1].
    """

    x: Tensor
    y: Tensor
    centre: Tensor
    radius: Tensor
    ramp: float


class CertifiedLoss(ABC):
    """A training loss that bounds the worst case over the input box.

    At radius 0 every certified loss equals plain cross entropy.
    """

    description: ClassVar[str]

    @abstractmethod
    def loss(self, graph: Graph, batch: Batch) -> Tensor:
        """The scalar loss of one batch, differentiable in the weights of the graph's network."""
