"""The geometric mean of losses."""

from __future__ import annotations

import torch
from torch import Tensor


def geometric_mean(first: Tensor, second: Tensor, share: float) -> Tensor:
    """`first^(1 - share) second^share` of losses `(batch,)` that are at least 0, `share` in [0, 1].

    Cross entropy underflows to 0 on a sample that is classified well enough, where a power has no gradient: there the
    smallest float stands for it, and the sample has no gradient either.
    """
    least = torch.finfo(first.dtype).tiny
    return first.clamp_min(least) ** (1.0 - share) * second.clamp_min(least) ** share
