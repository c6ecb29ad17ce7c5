"""The interface of all verifiers."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, final

import torch
from torch import Tensor

from ..bounds import Box, Graph, Interval, logit_bounds

TOLERANCE = 1e-5
"""A margin is a proof only above this share of the largest logit bound: rounding in float32 was seen to shift margins
by up to 1.7e-7 of it, which makes false proofs of margins near 0."""


class Unsupported(RuntimeError):
    """A verifier cannot bound this network at all; the message says why."""


@final
@dataclass(frozen=True)
class MarginBounds:
    """What a verifier found.

    Attributes:
        lower: `(batch, classes)`, lower bounds of `logit_y - logit_k`; 0 at k = y.
        scale: `(batch,)`, the largest absolute logit bound met on the way, which rounding errors are relative to.
    """

    lower: Tensor
    scale: Tensor


class Verifier(ABC):
    """Lower bounds of the margins of a network over boxes.

    The docstring of every verifier has the same headings: Requires, Returns, Sound, Complete, Reference.
    """

    description: ClassVar[str]

    @abstractmethod
    def margins(self, graph: Graph, box: Box, labels: Tensor) -> MarginBounds:
        """Bound `logit_y - logit_k` from below over each box.

        Args:
            graph: of the network, which counts as in eval mode.
            box: centre and radius of the inputs, each `(batch, *shape)`.
            labels: `(batch,)`, the class y of each sample.

        Raises:
            Unsupported: the network is beyond this verifier.
        """


def largest_logit(graph: Graph, features: Box | Interval) -> Tensor:
    """`(batch,)`: the largest absolute bound of any logit, from bounds of what the last linear layer reads."""
    if isinstance(features, Interval):
        lower, upper = features
        features = Box((lower + upper) * 0.5, ((upper - lower) * 0.5).clamp(min=0))
    logits = logit_bounds(graph.last_linear, *features)
    return (logits.centre.abs() + logits.radius).amax(1)


def proved(lower: Tensor, scale: Tensor, labels: Tensor) -> Tensor:
    """`(batch, classes)`: whether each margin is proved positive, that is above `TOLERANCE * scale`.

    The margin of y to itself counts as proved. A margin that is NaN or infinite never does.
    """
    own = torch.zeros_like(lower, dtype=torch.bool).scatter_(1, labels[:, None], True)
    above = lower > TOLERANCE * scale[:, None]
    return (own | above) & torch.isfinite(lower)
