"""Pruning at initialisation (Lee et al. 2019, SNIP, arXiv 1810.02340)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from .base import Due, Schedule


@dataclass(frozen=True)
class AtInit(Schedule):
    """Prune to the target before the first step; the mask is fixed from then on."""

    description: ClassVar[str] = "schedule: prune to the target before the first step"

    def due(self, step: int, steps: int) -> Due:
        return Due(1.0, step / steps)
