"""A budget of weights spread over layers of limited room."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor


def room(scores: Mapping[str, Tensor]) -> dict[str, int]:
    """How many weights each layer can keep: one that is pruned already scores -inf and cannot be counted on."""
    return {name: int((score != -torch.inf).sum()) for name, score in scores.items()}


def spread(wanted: Mapping[str, float], room: Mapping[str, int], kept: int) -> dict[str, int]:
    """Whole numbers proportional to `wanted`, none above `room`, that sum to exactly `kept`.

    A layer without room for its share is filled, and the others share what it leaves, in the same proportions. What
    rounding down leaves goes to the layers with the largest fractional parts, of equal ones to the earlier.

    Args:
        wanted: by layer, above 0.
        kept: at most the sum of `room`.
    """
    shares: dict[str, float] = {}
    unfilled, left = dict(wanted), kept
    while unfilled:
        total = sum(unfilled.values())
        trial = {name: left * want / total for name, want in unfilled.items()}
        full = [name for name, share in trial.items() if math.floor(share) > room[name]]
        if not full:
            shares |= trial
            break
        for name in full:
            shares[name] = room[name]
            left -= room[name]
            del unfilled[name]
    counts = {name: math.floor(shares[name]) for name in wanted}
    missing = kept - sum(counts.values())
    while missing > 0:
        roomy = sorted((n for n in wanted if counts[n] < room[n]), key=lambda name: counts[name] - shares[name])
        for name in roomy[:missing]:
            counts[name] += 1
        missing -= len(roomy[:missing])
    return counts


def at_least(counts: Mapping[str, int], room: Mapping[str, int], least: int) -> dict[str, int]:
    """`counts`, but with `least` in every layer as far as it has room; the largest, of equal ones the earliest, give.

    Raises:
        ValueError: there are fewer in all.
    """
    kept, fewest = sum(counts.values()), sum(min(least, of_layer) for of_layer in room.values())
    if kept < fewest:
        raise ValueError(f"the pattern leaves at least {fewest} weights, more than the {kept} asked for")
    filled = {name: max(count, min(least, room[name])) for name, count in counts.items()}
    for _ in range(sum(filled.values()) - kept):
        filled[max(filled, key=lambda name: filled[name])] -= 1
    return filled
