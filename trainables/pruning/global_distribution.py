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
        flat = torch.cat([score.flatten().cpu() for score in scores.values()])
        owner = torch.repeat_interleave(
            torch.arange(len(scores)), torch.tensor([score.numel() for score in scores.values()])
        )
        winners = torch.sort(flat, descending=True, stable=True).indices[:kept]
        counts = torch.bincount(owner[winners], minlength=len(scores))
        return dict(zip(scores, counts.tolist(), strict=True))
