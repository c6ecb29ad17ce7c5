"""Optimizers with their learning-rate schedule."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from typing import ClassVar, final

import torch
from torch import Tensor, nn

SCHEDULES = ("drops", "cosine")
OF_DROPS = ("drop", "first_drop", "second_drop")


@dataclass(frozen=True)
class Optimizer(ABC):
    """An optimizer with its learning-rate schedule, gradient clipping and penalties on weights.

    Attributes:
        learning_rate: step size at the start, above 0.
        drop: factor of each learning-rate drop, in (0, 1]; like the next two, of schedule `drops` only.
        first_drop, second_drop: where in training they fall, fractions of the epoch budget.
        clip: largest norm of the whole gradient, above 0.
        weight_decay: at least 0; an L2 penalty, or decoupled from the gradient where the optimizer says so.
        schedule: `drops`, or `cosine`: half a cosine from `learning_rate` to 0 over training, without drops.
        l1: weight of the L1 norm of all prunable weights, at least 0; 1e-8 to 1e-4 are usual. Its subgradient is added
            before clipping, and is 0 at a pruned weight.
        average: decay of the moving average of weights and statistics over steps, which is then what is scored and kept
            in place of the weights themselves; in [0, 1), 0 for none.
    """

    description: ClassVar[str]
    learning_rate: float = 1e-3
    drop: float = 0.2
    first_drop: float = 0.7
    second_drop: float = 0.85
    clip: float = 10.0
    weight_decay: float = 0.0
    schedule: str = "drops"
    l1: float = 0.0
    average: float = 0.0

    def __post_init__(self) -> None:
        if not 0 < self.learning_rate < math.inf:
            raise ValueError(f"optimizer.learning_rate must be above 0 and finite, but is {self.learning_rate}")
        if not 0 < self.drop <= 1:
            raise ValueError(f"optimizer.drop must lie in (0, 1], but is {self.drop}")
        if not 0 <= self.first_drop <= self.second_drop <= 1:
            raise ValueError(
                f"optimizer.first_drop and optimizer.second_drop are fractions of training in rising order, "
                f"but are {self.first_drop} and {self.second_drop}"
            )
        if not self.clip > 0:
            raise ValueError(f"optimizer.clip must be above 0, but is {self.clip}")
        for name in ("weight_decay", "l1"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"optimizer.{name} must be at least 0 and finite, but is {getattr(self, name)}")
        if not 0 <= self.average < 1:
            raise ValueError(f"optimizer.average must lie in [0, 1), but is {self.average}")
        if self.schedule not in SCHEDULES:
            raise ValueError(f"optimizer.schedule must be one of {', '.join(SCHEDULES)}, but is {self.schedule!r}")
        if self.schedule == "drops":
            return
        for option in fields(self):
            value = getattr(self, option.name)
            if option.name in OF_DROPS and value != option.default:
                raise ValueError(
                    f"optimizer.{option.name} is for schedule drops and means nothing by {self.schedule}, "
                    f"but is {value}; remove the key or limit it with `when: {{optimizer.schedule: drops}}`"
                )

    @abstractmethod
    def build(self, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        """The torch optimizer for `parameters`."""

    def rate(self, progress: float) -> float:
        """Learning rate at `progress` in [0, 1] of training."""
        if self.schedule == "cosine":
            return self.learning_rate * 0.5 * (1.0 + math.cos(math.pi * progress))
        drops = (progress >= self.first_drop) + (progress >= self.second_drop)
        return float(self.learning_rate * self.drop**drops)

    @torch.no_grad()
    def add_l1_(self, weights: Iterable[Tensor]) -> None:
        """Add the subgradient of the L1 penalty to the gradients that the weights hold."""
        if self.l1:
            for weight in weights:
                if weight.grad is not None:
                    weight.grad.add_(weight.sign(), alpha=self.l1)


@final
@dataclass(frozen=True)
class Adam(Optimizer):
    """Adam (Kingma and Ba 2015, arXiv 1412.6980); weight decay is an L2 penalty."""

    description: ClassVar[str] = "optimizer: Adam with learning-rate drops and gradient clipping"

    def build(self, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        return torch.optim.Adam(parameters, lr=self.learning_rate, weight_decay=self.weight_decay)


@final
@dataclass(frozen=True)
class AdamW(Optimizer):
    """Adam with decoupled weight decay (Loshchilov and Hutter 2019, arXiv 1711.05101)."""

    description: ClassVar[str] = "optimizer: Adam with decoupled weight decay"
    weight_decay: float = 0.01

    def build(self, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        return torch.optim.AdamW(parameters, lr=self.learning_rate, weight_decay=self.weight_decay)


@final
@dataclass(frozen=True)
class RAdam(Optimizer):
    """Rectified Adam (Liu et al. 2020, arXiv 1908.03265); weight decay is an L2 penalty."""

    description: ClassVar[str] = "optimizer: Adam whose first steps are damped by the variance of their size"

    def build(self, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        return torch.optim.RAdam(parameters, lr=self.learning_rate, weight_decay=self.weight_decay)


OPTIMIZERS: dict[str, type[Optimizer]] = {"adam": Adam, "adamw": AdamW, "radam": RAdam}


def optimizer_tensors(optimizer: torch.optim.Optimizer, parameters: Mapping[str, nn.Parameter]) -> dict[str, Tensor]:
    """The state of an optimizer of `parameters` as flat tensors, keyed `entry/parameter name`."""
    names: dict[Tensor, str] = {parameter: name for name, parameter in parameters.items()}
    return {
        f"{entry}/{names[parameter]}": torch.as_tensor(value)
        for parameter, state in optimizer.state.items()
        for entry, value in state.items()
    }


def load_optimizer(
    optimizer: torch.optim.Optimizer, parameters: Mapping[str, nn.Parameter], flat: Mapping[str, Tensor]
) -> None:
    """Put back what `optimizer_tensors` took out."""
    for key, value in flat.items():
        entry, _, name = key.partition("/")
        optimizer.state[parameters[name]][entry] = value


def clear_moments_(optimizer: torch.optim.Optimizer, parameter: nn.Parameter, where: Tensor) -> None:
    """Set what an optimizer remembers of some values of `parameter` to zero, in place."""
    for value in optimizer.state.get(parameter, {}).values():
        if value.shape == parameter.shape:
            value.masked_fill_(where, 0.0)
