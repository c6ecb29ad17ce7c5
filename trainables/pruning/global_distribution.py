"""One ranking over the whole network."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from .base import Distribution


@dataclass(frozen=True)
class Global(Distribution):
    """All weights compete in one ranking; layers keep what wins there. Ties go to the earlier layer."""

    description: ClassVar[str] = "distribution: one ranking over all layers"

    def allocate(self, scores: Mapping[str, Tensor], kept: int) -> dict[str, int]:
        if kept == 0:
            return dict.fromkeys(scores, 0)
        flat = torch.cat([score.flatten().cpu() for score in scores.values()])
        # Several times faster than to sort a large network: all above the last winner win, of its equals the earlier.
        last = torch.kthvalue(flat, len(flat) - kept + 1).values
        counts = {name: int((score.cpu() > last).count_nonzero()) for name, score in scores.items()}
        left = kept - sum(counts.values())
        for name, score in scores.items():
            equals = min(left, int((score.cpu() == last).count_nonzero()))
            counts[name] += equals
            left -= equals
        return counts
