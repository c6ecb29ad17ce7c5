"""Pruning, split by axis: score, distribution over layers, pattern, schedule in time."""

from __future__ import annotations

from bisect import bisect_right

import torch

from ..mask import Mask
from .at_init import AtInit
from .base import Candidates, Distribution, Due, Exchange, LearnedScore, Pattern, Schedule, Score
from .block import Block
from .connection import connects, select
from .drop_and_grow import DropAndGrow
from .filter_pattern import Filter
from .gradual import Gradual
from .hydra import Hydra
from .iterative import Iterative
from .layered import Layered
from .magnitude import Magnitude
from .n_m import NM
from .one_shot import OneShot
from .proportional import BASES
from .random_score import Random
from .ranking import Global, Lamp
from .snip import Snip
from .stability import Stability
from .taylor import Taylor
from .unstructured import Unstructured

SCORES: dict[str, type[Score]] = {
    "magnitude": Magnitude,
    "random": Random,
    "snip": Snip,
    "taylor": Taylor,
    "stability": Stability,
    "hydra": Hydra,
}
DISTRIBUTIONS: dict[str, type[Distribution]] = {
    "global": Global,
    "lamp": Lamp,
    **BASES,
    "layered": Layered,
}
PATTERNS: dict[str, type[Pattern]] = {"unstructured": Unstructured, "n-m": NM, "block": Block, "filter": Filter}
SCHEDULES: dict[str, type[Schedule]] = {
    "one-shot": OneShot,
    "gradual": Gradual,
    "at-init": AtInit,
    "iterative": Iterative,
    "drop-and-grow": DropAndGrow,
}

__all__ = [
    "DISTRIBUTIONS",
    "PATTERNS",
    "SCHEDULES",
    "SCORES",
    "AtInit",
    "Candidates",
    "Distribution",
    "Due",
    "Exchange",
    "LearnedScore",
    "Pattern",
    "Schedule",
    "Score",
    "connects",
    "first_due",
    "kept_weights",
    "prune",
    "settled_from",
]


def kept_weights(total: int, sparsity: float) -> int:
    """How many of `total` weights a sparsity in [0, 1) leaves: rounded to the nearest, half to even."""
    return round((1.0 - sparsity) * total)


def first_due(schedule: Schedule, steps: int) -> int:
    """The first of `steps` + 1 steps, the end of training being the last, at which a schedule prunes anything."""
    return bisect_right(range(steps), 0.0, key=lambda step: schedule.due(step, steps).sparsity)


def settled_from(schedule: Schedule, steps: int) -> int:
    """The first of `steps` + 1 steps, the end of training being the last, after whose decision the mask stays."""
    for step in range(steps, 0, -1):
        due = schedule.due(step, steps)
        if due.rewind or due.exchange is not None or schedule.due(step - 1, steps).sparsity < 1:
            return step
    return 0


def prune(
    candidates: Candidates, mask: Mask, *, score: Score, distribution: Distribution, pattern: Pattern, sparsity: float
) -> Mask:
    """The mask that leaves the network at `sparsity`, within what `mask` still keeps.

    Exactly there where the pattern takes weights one by one; where it takes groups, as little above as they allow.
    Every layer keeps a group, and a path from the inputs to the outputs is left (`connection`).
    Ties are broken by position: of equal scores the weight with the lower flat index is kept. A weight that `mask`
    has pruned never comes back; where `mask` is already sparser than asked, it is returned as it is.

    Raises:
        ValueError: the pattern cannot reach the sparsity in this network (`Pattern.limits`).
        Disconnected: the weights that `mask` keeps form no path.
    """
    kept = kept_weights(mask.total, sparsity)
    if kept >= mask.kept:
        return mask
    scores = {
        name: values.detach().cpu().masked_fill(~mask[name].cpu(), -torch.inf)
        for name, values in score.scores(candidates).items()
    }
    chosen = select(pattern, scores, kept, distribution, candidates.graph)
    return Mask({name: chosen[name].to(mask[name].device) & mask[name] for name in scores})
