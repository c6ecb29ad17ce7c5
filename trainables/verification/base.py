"""The interface of all verifiers."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar, NamedTuple, final

import torch
from torch import Tensor

from ..bounds import TOLERANCE, Graph, Region
from .verdict import Cause


class Unsupported(RuntimeError):
    """A verifier cannot bound this network at all; the message says why."""


class Reason(NamedTuple):
    """Why a sample stayed unknown: of what kind, and in words."""

    cause: Cause
    text: str


@final
@dataclass(frozen=True)
class MarginBounds:
    """What a verifier found.

    Attributes:
        lower: `(batch, classes)`, lower bounds of `logit_y - logit_k`; 0 at k = y.
        scale: `(batch,)`, what rounding errors of `lower` are relative to; see `magnitudes`.
        points: `(batch, *shape)`, by verifiers that can falsify: an input of the region that is taken for a
            counterexample, NaN for samples without one. They count once a forward pass has confirmed them.
        reasons: by position in the batch, why the verifier gave up.
    """

    lower: Tensor
    scale: Tensor
    points: Tensor | None = None
    reasons: Mapping[int, Reason] = field(default_factory=dict)


class Verifier(ABC):
    """Lower bounds of the margins of a network over boxes or balls.

    The docstring of every verifier has the same headings: Requires, Returns, Sound, Complete, Reference.

    Attributes:
        largest_batch: samples that it takes at once; None for any number.
        in_double: whether it is only ever given networks in float64.
    """

    description: ClassVar[str]
    largest_batch: ClassVar[int | None] = None
    in_double: ClassVar[bool] = False

    @abstractmethod
    def margins(self, graph: Graph, region: Region, labels: Tensor) -> MarginBounds:
        """Bound `logit_y - logit_k` from below over each region.

        Args:
            graph: of the network, which counts as in eval mode.
            region: where the inputs may lie, `(batch, *shape)`: boxes or balls.
            labels: `(batch,)`, the class y of each sample.

        Raises:
            Unsupported: the network is beyond this verifier.
        """


def proved(lower: Tensor, scale: Tensor, labels: Tensor) -> Tensor:
    """`(batch, classes)`: whether each margin is proved positive, that is above the `TOLERANCE` of the dtype of `lower`
    times `scale`.

    The margin of y to itself counts as proved. A margin that is NaN or infinite never does.
    """
    own = torch.zeros_like(lower, dtype=torch.bool).scatter_(1, labels[:, None], True)
    above = lower > TOLERANCE[lower.dtype] * scale[:, None]
    return (own | above) & torch.isfinite(lower)
