"""The exact smallest margins of a small network, by mixed-integer programming: an oracle for verifiers.

It shares nothing with what it judges: linear layers become matrices by applying the layer itself to unit vectors,
bounds are plain intervals through those matrices, and HiGHS solves the rest (Tjeng et al. 2019, arXiv 1711.07356).
"""

from __future__ import annotations

import contextlib
import math
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np
import torch
from scipy.optimize import Bounds, LinearConstraint, milp
from torch import nn
from torch.nn import functional as F

from sparsevlr.spaces.architectures import Residual

EXACT = 1e-6
"""The solver's own tolerance: margins closer to 0 than this, relative to the largest logit, are not decided."""


@dataclass
class Encoding:
    """Variables with bounds, and constraints `low <= row @ variables <= high`.

    Attributes:
        rows: pairs of columns and coefficients.
    """

    lower: list[float] = field(default_factory=list)
    upper: list[float] = field(default_factory=list)
    integral: list[bool] = field(default_factory=list)
    rows: list[tuple[dict[int, float], float, float]] = field(default_factory=list)

    def variable(self, lower: float, upper: float, *, integral: bool = False) -> int:
        self.lower.append(lower)
        self.upper.append(upper)
        self.integral.append(integral)
        return len(self.lower) - 1

    def constrain(self, row: dict[int, float], low: float, high: float) -> None:
        self.rows.append((row, low, high))


def smallest_margins(
    network: nn.Module, lower: np.ndarray, upper: np.ndarray, label: int, *, seconds: float = 60.0
) -> np.ndarray:
    """The minimum of `logit_y - logit_k` over the box, `(classes,)`; 0 at k = y, NaN where the solver gave no optimum.

    Args:
        network: in eval mode and float64, of Sequential, Residual, ReLU, MaxPool2d and layers that are affine.
        lower, upper: `(*shape)`, the box.
    """
    encoding = Encoding()
    flat = zip(lower.ravel().tolist(), upper.ravel().tolist(), strict=True)
    inputs = [encoding.variable(*ends) for ends in flat]
    logits, _ = _encode(network, encoding, inputs, lower.shape)
    found = np.zeros(len(logits))
    for other in range(len(logits)):
        if other != label:
            found[other] = _minimum(encoding, {logits[label]: 1.0, logits[other]: -1.0}, seconds)
    return found


def _minimum(encoding: Encoding, objective: dict[int, float], seconds: float) -> float:
    count = len(encoding.lower)
    cost = np.zeros(count)
    cost[list(objective)] = list(objective.values())
    matrix = np.zeros((len(encoding.rows), count))
    for index, (row, _, _) in enumerate(encoding.rows):
        matrix[index, list(row)] = list(row.values())
    with _silent():
        solution = milp(
            cost,
            integrality=np.array(encoding.integral, dtype=int),
            bounds=Bounds(encoding.lower, encoding.upper),
            constraints=LinearConstraint(
                matrix, [low for _, low, _ in encoding.rows], [high for _, _, high in encoding.rows]
            ),
            options={"time_limit": seconds, "mip_rel_gap": 0.0},
        )
    return float(solution.fun) if solution.status == 0 else math.nan


def _encode(
    module: nn.Module, encoding: Encoding, inputs: list[int], shape: tuple[int, ...]
) -> tuple[list[int], tuple[int, ...]]:
    """Variables and shape of the output."""
    if isinstance(module, nn.Sequential):
        for child in module:
            inputs, shape = _encode(child, encoding, inputs, shape)
        return inputs, shape
    if isinstance(module, Residual):
        (left, after), (right, _) = (_encode(part, encoding, inputs, shape) for part in (module.body, module.shortcut))
        return [_affine(encoding, {a: 1.0, b: 1.0}, 0.0) for a, b in zip(left, right, strict=True)], after
    if isinstance(module, nn.ReLU):
        return [_maximum(encoding, [index, None]) for index in inputs], shape
    if isinstance(module, nn.MaxPool2d):
        return _pooled(module, encoding, inputs, shape)
    matrix, constant, after = _matrix(module, shape)
    outputs = []
    for row, shift in zip(matrix, constant, strict=True):
        used = np.flatnonzero(row)
        outputs.append(_affine(encoding, {inputs[i]: float(row[i]) for i in used}, float(shift)))
    return outputs, after


@torch.no_grad()
def _matrix(layer: nn.Module, shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray, tuple[int, ...]]:
    apply: Callable[[torch.Tensor], torch.Tensor] = layer
    size = math.prod(shape)
    zero = apply(torch.zeros(1, *shape, dtype=torch.float64))
    unit = apply(torch.eye(size, dtype=torch.float64).view(size, *shape))
    return (unit - zero).flatten(1).T.numpy(), zero.flatten().numpy(), tuple(zero.shape[1:])


def _affine(encoding: Encoding, row: dict[int, float], constant: float) -> int:
    ends = [(factor * encoding.lower[i], factor * encoding.upper[i]) for i, factor in row.items()]
    low, high = constant + sum(map(min, ends)), constant + sum(map(max, ends))
    output = encoding.variable(low, high)
    encoding.constrain({**row, output: -1.0}, -constant, -constant)
    return output


def _maximum(encoding: Encoding, values: list[int | None]) -> int:
    """A variable that is the largest of some; None stands for 0."""
    lows = [0.0 if value is None else encoding.lower[value] for value in values]
    highs = [0.0 if value is None else encoding.upper[value] for value in values]
    low, high = max(lows), max(highs)
    rivals = [(value, lows[i]) for i, value in enumerate(values) if highs[i] > low or lows[i] == low]
    output = encoding.variable(low, high)
    chosen = [encoding.variable(0, 1, integral=True) for _ in rivals]
    encoding.constrain(dict.fromkeys(chosen, 1.0), 1, 1)
    for (value, least), choice in zip(rivals, chosen, strict=True):
        own = {} if value is None else {value: -1.0}
        encoding.constrain({output: 1.0, **own}, 0, np.inf)
        encoding.constrain({output: 1.0, **own, choice: high - least}, -np.inf, high - least)
    return output


def _pooled(
    layer: nn.MaxPool2d, encoding: Encoding, inputs: list[int], shape: tuple[int, ...]
) -> tuple[list[int], tuple[int, ...]]:
    channels, height, width = shape
    places = torch.arange(1, height * width + 1, dtype=torch.float64).view(1, 1, height, width)
    kernel = layer.kernel_size if isinstance(layer.kernel_size, tuple) else (layer.kernel_size,) * 2
    windows = F.unfold(places, kernel, layer.dilation, layer.padding, layer.stride)[0].long().T.tolist()
    outputs = [
        _maximum(encoding, [inputs[channel * height * width + place - 1] for place in window if place])
        for channel in range(channels)
        for window in windows
    ]
    return outputs, tuple(layer(torch.zeros(1, *shape)).shape[1:])


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """HiGHS prints to the file descriptor."""
    sys.stdout.flush()
    saved, void = os.dup(1), os.open(os.devnull, os.O_WRONLY)
    os.dup2(void, 1)
    try:
        yield
    finally:
        os.dup2(saved, 1)
        os.close(saved)
        os.close(void)
