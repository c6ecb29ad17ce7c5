"""The axes of pruning: what a weight is worth, how the budget is spread over layers, which weights go together, and
when it falls due.

Any score goes with any distribution, any pattern and any schedule; `prune` joins them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from ..bounds import Graph
from ..certified_training import Batch, CertifiedLoss
from ..mask import Mask, prunable_weights

Batches = Callable[[int, float], Iterator[Batch]]
"""So many batches of the training split, their boxes at a position of the epsilon ramp in [0, 1]."""


@dataclass(frozen=True)
class Candidates:
    """What a score may look at.

    Attributes:
        graph: the network as it is, pruned weights at zero.
        generator: source of randomness, seeded by the trial.
        loss: the certified loss that the network is trained with.
        batches: data to compute it on; the same trial at the same step is given the same.
    """

    graph: Graph
    generator: torch.Generator
    loss: CertifiedLoss
    batches: Batches

    @property
    def weights(self) -> dict[str, Tensor]:
        """The prunable weights by name."""
        return prunable_weights(self.graph.network)


class Score(ABC):
    """What each weight is worth; the least valuable are pruned first."""

    description: ClassVar[str]

    @abstractmethod
    def scores(self, candidates: Candidates) -> dict[str, Tensor]:
        """One finite score per prunable weight, of the weight's shape; higher means rather keep."""


class LearnedScore(Score):
    """A score that is trained on data once the network is, the weights being frozen meanwhile.

    `scores` gives the absolute values that training starts from.

    Attributes:
        span: how long, fraction of the epoch budget, from the step at which the schedule prunes.
        learning_rate: of the scores.
    """

    span: float
    learning_rate: float

    @abstractmethod
    def start(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The scores, of either sign, that training starts from; the largest absolute values are kept."""


class Distribution(ABC):
    """How many weights each layer keeps."""

    description: ClassVar[str]

    @abstractmethod
    def allocate(self, scores: Mapping[str, Tensor], kept: int) -> dict[str, int]:
        """Numbers of weights that the layers keep: they sum to exactly `kept`, none above its layer's size.

        Args:
            scores: by layer; a weight that is pruned already, and cannot be kept, scores -inf.
        """


class Pattern(ABC):
    """Which weights may go without which others.

    Attributes:
        whole_units: whether groups are whole filters and neurons, which nothing reads any more once they have gone.
    """

    description: ClassVar[str]
    whole_units: ClassVar[bool] = False

    @abstractmethod
    def groups(self, weight: Tensor) -> Tensor:
        """The number of each weight's group, int64 of the weight's shape, from 0 without gaps: a group stays or goes as
        one. `group_means` and `group_mask` lead from scores of weights to groups and back.
        """

    @abstractmethod
    def limits(self, graph: Graph) -> tuple[float, float]:
        """The least and the greatest sparsity that can be asked for, whatever the scores and the distribution.

        Raises:
            ValueError: the pattern does not fit the network at all; says why.
        """

    @abstractmethod
    def select(
        self, scores: Mapping[str, Tensor], kept: int, distribution: Distribution, graph: Graph
    ) -> dict[str, Tensor]:
        """The weights that stay, bool of the weights' shapes: `kept` of them, or as many below as whole groups allow.

        Args:
            scores: by layer, on the CPU; a weight that cannot be kept scores -inf. Every weight that does not may stay,
                also one that is zero now.
            kept: fewer than the weights that could stay.

        Raises:
            ValueError: the sparsity is beyond `limits`.
        """


class Exchange(ABC):
    """A change of the mask in which weights may come back."""

    @property
    @abstractmethod
    def grows(self) -> bool:
        """Whether weights are grown in place of others, which nothing has trained yet."""

    @abstractmethod
    def exchange(
        self, candidates: Candidates, mask: Mask, pattern: Pattern, distribution: Distribution, kept: int, ramp: float
    ) -> Mask:
        """The mask after it, again one of the pattern.

        Args:
            candidates: where the pattern takes whole units, those that nothing reads hold weights as at initialisation,
                though `mask` does not keep them: between zeros no gradient would pass.
            mask: one of the pattern.
            kept: weights that shall be left, as for `Pattern.select`.
            ramp: position on the epsilon ramp, epsilon / target epsilon, in [0, 1].
        """


class Due(NamedTuple):
    """What a schedule asks for at a step.

    Attributes:
        sparsity: the share of the target sparsity that is due, in [0, 1].
        position: where the epsilon ramp and the learning rate are, in [0, 1].
        geometric: whether `sparsity` is a share of the logarithm of the target density instead: equal steps of it then
            remove equal fractions of what is left.
        exchange: how weights are dropped and grown at this step, to the sparsity that is due; in place of pruning.
        keep: remember the state of the network as it is before this step.
        rewind: prune, then go back to the state remembered.
    """

    sparsity: float
    position: float
    geometric: bool = False
    exchange: Exchange | None = None
    keep: bool = False
    rewind: bool = False

    def of(self, target: float) -> float:
        """The sparsity that is due on the way to a target, both in [0, 1)."""
        if not self.geometric or self.sparsity == 1:
            return target * self.sparsity
        return float(1.0 - (1.0 - target) ** self.sparsity)


class Schedule(ABC):
    """When in the course of training the target sparsity falls due.

    Attributes:
        once: whether it trains dense, prunes to the target at one step and leaves the mask alone: what a learned
            score needs.
        restarts: whether the ramp and the learning rate run otherwise than through the whole training once.
    """

    description: ClassVar[str]
    once: ClassVar[bool] = False
    restarts: ClassVar[bool] = False

    @abstractmethod
    def due(self, step: int, steps: int) -> Due:
        """What falls due before optimizer step `step` of `steps`, or at the end of training, `step == steps`.

        The share of the target sparsity never falls and is 1 in the end.
        """
