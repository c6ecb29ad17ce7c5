"""The one-method interfaces of certified losses, regularisers and initialisations."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from ..bounds import Ball, Graph, Region, input_box


@dataclass(frozen=True)
class Batch:
    """What a loss may look at in one step.

    Attributes:
        x: inputs, (batch, *shape).
        y: labels, (batch,).
        region: where the inputs may lie, (batch, *shape): boxes that are clipped to the input range, or balls.
        ramp: position on the epsilon ramp, epsilon / target epsilon, in [0, 1].
        boxes: where it is not None, a loss leaves here the interval bounds of all nodes of the graph but the last: a
            regulariser then needs no pass of its own. A loss over a part of the region leaves those of the part.
        low, high: the input range.
        seed: of random starts of attacks; equal batches of equal seed have equal losses.
    """

    x: Tensor
    y: Tensor
    region: Region
    ramp: float
    boxes: dict[int, Region] | None = None
    low: float = -torch.inf
    high: float = torch.inf
    seed: int = 0

    def leave(self, boxes: Sequence[Region]) -> None:
        """Leave the interval bounds of all nodes but the last, in their order, for whoever asked for them."""
        if self.boxes is not None:
            self.boxes.update(enumerate(boxes))

    def before_relus(self, graph: Graph) -> dict[int, Region]:
        """The boxes, left by the loss, that ReLUs read, by the node that gives them."""
        assert self.boxes is not None
        read = (node.inputs[0] for node in graph.nodes if isinstance(node.layer, nn.ReLU))
        return {index: self.boxes[index] for index in read}

    def widened(self, factor: float) -> Region:
        """The region for an epsilon that is `factor` times as large, at least 1."""
        region = self.region
        if factor == 1:
            return region
        if isinstance(region, Ball):
            return region._replace(radius=factor * region.radius)
        # The farther end lies epsilon away, except where both are clipped: there nothing is left to widen.
        return input_box(self.x, factor * ((self.x - region.centre).abs() + region.radius), self.low, self.high)


@dataclass(frozen=True, kw_only=True)
class CertifiedLoss(ABC):
    """A training loss over the region of the inputs.

    At radius 0 every loss equals plain cross entropy. None draws from torch's global random state, and BatchNorm's
    running statistics follow the natural inputs alone, once per loss (see `natural_pass`).

    Attributes:
        epsilon_factor: the region that is trained on, as a multiple of the study's epsilon, above 0.
        leaves_boxes: whether it computes interval bounds at all, and so leaves them in a batch that asks for them.
    """

    description: ClassVar[str]
    leaves_boxes: ClassVar[bool] = True
    epsilon_factor: float = 1.0

    def __post_init__(self) -> None:
        check_positive("epsilon_factor", self.epsilon_factor)

    @abstractmethod
    def loss(self, graph: Graph, batch: Batch) -> Tensor:
        """The scalar loss of one batch, differentiable in the weights of the graph's network."""

    def check(self, graph: Graph) -> None:  # noqa: B027 - most losses go with every network
        """
        Raises:
            ValueError: the loss cannot be computed on such a network; says why.
        """


def check_share(name: str, value: float) -> None:
    """
    Raises:
        ValueError: the option of a loss is no share.
    """
    if not 0 <= value <= 1:
        raise ValueError(f"loss.{name} is a share in [0, 1], but is {value}")


def check_positive(name: str, value: float) -> None:
    """
    Raises:
        ValueError: the option of a loss is not above 0 and finite.
    """
    if not 0 < value < torch.inf:
        raise ValueError(f"loss.{name} must be above 0 and finite, but is {value}")


class Regulariser(ABC):
    """A term that is added to the certified loss.

    Attributes:
        reads_boxes: whether it looks at them at all.
    """

    description: ClassVar[str]
    reads_boxes: ClassVar[bool] = True

    @abstractmethod
    def penalty(self, graph: Graph, batch: Batch) -> Tensor:
        """The scalar to add, differentiable in the weights.

        Args:
            batch: its `boxes` left by the loss, where `reads_boxes`.
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
