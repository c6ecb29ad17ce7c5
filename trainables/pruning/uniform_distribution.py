"""The same density in every layer."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from .base import Distribution


@dataclass(frozen=True)
class Uniform(Distribution):
    """Every layer keeps the same fraction; the remainders go to the layers with the largest fractional parts."""

    description: ClassVar[str] = "distribution: the same density in every layer"

    def allocate(self, scores: Mapping[str, Tensor], kept: int) -> dict[str, int]:
        total = sum(score.numel() for score in scores.values())
        shares = {name: kept * score.numel() / total for name, score in scores.items()}
        counts = {name: math.floor(share) for name, share in shares.items()}
        # A weight that is pruned already scores -inf and cannot fill a layer up again.
        roomy = [name for name, score in scores.items() if counts[name] < int(score.isfinite().sum())]
        by_remainder = sorted(roomy, key=lambda name: counts[name] - shares[name])
        for name in by_remainder[: kept - sum(counts.values())]:
            counts[name] += 1
        return counts
