"""Optimizers with their learning-rate schedule."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Adam:
    """Adam (Kingma and Ba 2015) with two learning-rate drops and gradient clipping.

    Attributes:
        learning_rate: step size at the start, above 0.
        drop: factor of each learning-rate drop, in (0, 1].
        first_drop, second_drop: where in training they fall, fractions of the epoch budget.
        clip: largest norm of the whole gradient, above 0.
        weight_decay: L2 penalty, at least 0.
    """

    description: ClassVar[str] = "optimizer: Adam with learning-rate drops and gradient clipping"
    learning_rate: float = 1e-3
    drop: float = 0.2
    first_drop: float = 0.7
    second_drop: float = 0.85
    clip: float = 10.0
    weight_decay: float = 0.0

    def __post_init__(self) -> None:
        if self.learning_rate <= 0:
            raise ValueError(f"optimizer.learning_rate must be above 0, but is {self.learning_rate}")
        if not 0 < self.drop <= 1:
            raise ValueError(f"optimizer.drop must lie in (0, 1], but is {self.drop}")
        if not 0 <= self.first_drop <= self.second_drop <= 1:
            raise ValueError(
                f"optimizer.first_drop and optimizer.second_drop are fractions of training in rising order, "
                f"but are {self.first_drop} and {self.second_drop}"
            )
        if self.clip <= 0:
            raise ValueError(f"optimizer.clip must be above 0, but is {self.clip}")
        if self.weight_decay < 0:
            raise ValueError(f"optimizer.weight_decay must be at least 0, but is {self.weight_decay}")

    def build(self, parameters: Iterable[nn.Parameter]) -> torch.optim.Adam:
        """The torch optimizer for `parameters`."""
        return torch.optim.Adam(parameters, lr=self.learning_rate, weight_decay=self.weight_decay)

    def rate(self, progress: float) -> float:
        """Learning rate at `progress` in [0, 1] of training."""
        drops = (progress >= self.first_drop) + (progress >= self.second_drop)
        return float(self.learning_rate * self.drop**drops)


OPTIMIZERS: dict[str, type[Adam]] = {"adam": Adam}


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
