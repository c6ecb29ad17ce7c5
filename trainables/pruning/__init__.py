"""Pruning, split by axis: score, distribution over layers, schedule in time."""

from __future__ import annotations

from bisect import bisect_right

import torch
from torch import Tensor

from ..mask import Mask
from .at_init import AtInit
from .base import Candidates, Distribution, Due, Exchange, LearnedScore, Schedule, Score
from .drop_and_grow import DropAndGrow
from .global_distribution import Global
from .gradual import Gradual
from .hydra import Hydra
from .iterative import Iterative
from .magnitude import Magnitude
from .one_shot import OneShot
from .random_score import Random
from .uniform_distribution import Uniform

SCORES: dict[str, type[Score]] = {"magnitude": Magnitude, "random": Random, "hydra": Hydra}
DISTRIBUTIONS: dict[str, type[Distribution]] = {"global": Global, "uniform": Uniform}
SCHEDULES: dict[str, type[Schedule]] = {
    "one-shot": OneShot,
    "gradual": Gradual,
    "at-init": AtInit,
    "iterative": Iterative,
    "drop-and-grow": DropAndGrow,
}

__all__ = [
    "DISTRIBUTIONS",
    "SCHEDULES",
    "SCORES",
    "AtInit",
    "Candidates",
    "Distribution",
    "Due",
    "Exchange",
    "LearnedScore",
    "Schedule",
    "Score",
    "first_due",
    "kept_weights",
    "prune",
]


def kept_weights(total: int, sparsity: float) -> int:
    """How many of `total` weights a sparsity in [0, 1) leaves: rounded to the nearest, half to even."""
    return round((1.0 - sparsity) * total)


def first_due(schedule: Schedule, steps: int) -> int:
    """The first of `steps` + 1 steps, the end of training being the last, at which a schedule prunes anything."""
    return bisect_right(range(steps), 0.0, key=lambda step: schedule.due(step, steps).sparsity)


def prune(candidates: Candidates, mask: Mask, *, score: Score, distribution: Distribution, sparsity: float) -> Mask:
    """The mask that leaves the network at exactly `sparsity`, within what `mask` still keeps.

    Ties are broken by position: of equal scores the weight with the lower flat index is kept. A weight that `mask`
    has pruned never comes back; where `mask` is already sparser than asked, it is returned as it is.
    """
    kept = kept_weights(mask.total, sparsity)
    if kept >= mask.kept:
        return mask
    scores = {
        name: values.masked_fill(~mask[name].to(values.device), -torch.inf)
        for name, values in score.scores(candidates).items()
    }
    allocation = distribution.allocate(scores, kept)
    return Mask({name: _highest(values, allocation[name]) & mask[name] for name, values in scores.items()})


def _highest(scores: Tensor, count: int) -> Tensor:
    order = torch.sort(scores.flatten().cpu(), descending=True, stable=True).indices
    keep = torch.zeros(scores.numel(), dtype=torch.bool)
    keep[order[:count]] = True
    return keep.view(scores.shape)
