"""What a trial begins with: a fresh network, or what another trial of the study has come to."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, final

from torch import nn

from .checkpoint import Checkpoint
from .mask import Mask


@dataclass(frozen=True)
class Start(ABC):
    """How a trial takes over from its parent, a completed trial of the same study and architecture.

    Attributes:
        parent: the parent's trial_id, which the study chooses when it proposes the trial; None where no trial is fit to
            be one yet: then the trial begins with a fresh network.
    """

    description: ClassVar[str]
    parent: str | None = None

    @property
    def brings_weights(self) -> bool:
        """Whether the weights are a parent's, not those of an initialisation."""
        return False

    @abstractmethod
    def begin_(self, network: nn.Module, parent: Checkpoint) -> Mask:
        """The mask to begin with; `network`, freshly initialised, takes over what else there is to take."""


@final
@dataclass(frozen=True)
class Fresh(Start):
    """Every trial by itself."""

    description: ClassVar[str] = "start: a fresh network"

    def __post_init__(self) -> None:
        if self.parent is not None:
            raise ValueError(f"start.parent must be left out of a fresh start, but is {self.parent!r}")

    def begin_(self, network: nn.Module, parent: Checkpoint) -> Mask:
        return Mask.dense(network)


@final
@dataclass(frozen=True)
class ParentMask(Start):
    """The parent's mask on fresh weights: does the structure alone carry over (Frankle and Carbin 2019)?"""

    description: ClassVar[str] = "start: the mask of a trial on the front, fresh weights"

    def begin_(self, network: nn.Module, parent: Checkpoint) -> Mask:
        return parent.mask


@final
@dataclass(frozen=True)
class ParentWeights(Start):
    """The parent's mask and weights; the epsilon ramp begins anew all the same."""

    description: ClassVar[str] = "start: mask and weights of a trial on the front"

    @property
    def brings_weights(self) -> bool:
        return self.parent is not None

    def begin_(self, network: nn.Module, parent: Checkpoint) -> Mask:
        network.load_state_dict(dict(parent.weights))
        return parent.mask


STARTS: dict[str, type[Start]] = {"fresh": Fresh, "parent-mask": ParentMask, "parent-weights": ParentWeights}
