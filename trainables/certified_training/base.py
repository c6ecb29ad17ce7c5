"""The one-method interfaces of certified losses, regularisers and initialisations."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from ..bounds import Box, Graph


@dataclass(frozen=True)
class Batch:
    """What a loss may look at in one step.

    Attributes:
        x: inputs, (batch, *shape).
        y: labels, (batch,).
        centre: centre of the input box, already clipped to the input range, (batch, *shape).
        radius: half its width, same shape.
        ramp: position on the epsilon ramp, epsilon / target epsilon, in [0, 1].
        before_relu: where it is not None, a loss leaves here the boxes that ReLUs read, by the node that gives them:
            a regulariser then needs no pass of its own.
    """

    x: Tensor
    y: Tensor
    centre: Tensor
    radius: Tensor
    ramp: float
    before_relu: dict[int, Box] | None = None


class CertifiedLoss(ABC):
    """A training loss that bounds the worst case over the input box.

    At radius 0 every certified loss equals plain cross entropy.
    """

    description: ClassVar[str]

    @abstractmethod
    def loss(self, graph: Graph, batch: Batch) -> Tensor:
        """The scalar loss of one batch, differentiable in the weights of the graph's network."""


class Regulariser(ABC):
    """A term that is added to the certified loss.

    Attributes:
        reads_boxes: whether it looks at them at all.
    """

    description: ClassVar[str]
    reads_boxes: ClassVar[bool] = True

    @abstractmethod
    def penalty(self, graph: Graph, before_relu: Mapping[int, Box]) -> Tensor:
        """The scalar to add, differentiable in the weights.

        Args:
            before_relu: the boxes that ReLUs read, each `(batch, *shape)`, by the node of the graph that gives them.
        """


class Initialisation(ABC):
    """How the weights of convolutions and linear layers are drawn.

    Attributes:
        masked_fan_in: whether a network that is pruned before its first step is drawn again by its mask.
    """

    description: ClassVar[str]
    masked_fan_in: bool

    @abstractmethod
    def initialise_(self, network: nn.Module, kept: Mapping[str, Tensor], generator: torch.Generator) -> None:
        """Draw all weights of `network` that `kept` keeps, by the inputs that it keeps; the others become 0."""
