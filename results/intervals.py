"""Confidence intervals for accuracies."""

from __future__ import annotations

import math
from statistics import NormalDist


def wilson_interval(successes: float, samples: int, confidence: float = 0.95) -> tuple[float, float]:
    """Wilson score interval (low, high) of a proportion (Wilson 1927).

    Unlike the normal approximation it stays inside [0, 1] and keeps its coverage near 0 and 1, where the verified
    accuracies of very sparse networks lie. Without samples nothing is known: (0, 1). Raises ValueError on impossible
    counts.
    """
    if not 0 <= successes <= samples:
        raise ValueError(f"successes must lie between 0 and samples; got {successes} of {samples}")
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must lie strictly between 0 and 1; got {confidence}")
    if samples == 0:
        return 0.0, 1.0
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    share = successes / samples
    shrink = 1 + z * z / samples
    centre = (share + z * z / (2 * samples)) / shrink
    half = z / shrink * math.sqrt(share * (1 - share) / samples + z * z / (4 * samples * samples))
    # At 0 and at `samples` successes the bound is exact; rounding would leave it an ulp off.
    low = 0.0 if successes == 0 else max(0.0, centre - half)
    high = 1.0 if successes == samples else min(1.0, centre + half)
    return low, high
