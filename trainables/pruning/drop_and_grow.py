"""Dynamic sparse training: SET (Mocanu et al. 2018, arXiv 1707.04780), RigL (Evci et al. 2020, arXiv 1911.11134), and
with a certified loss SparseVLR (Kaur and Salekin, arXiv 2211.09945)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ..mask import Mask
from .base import Candidates, Due, Exchange, Schedule
from .gradients import gradient_alone, mean_over_batches


@dataclass(frozen=True)
class DropAndGrow(Schedule):
    """Sparse from the first step on; until `end` the mask is explored: weights are dropped, and as many grown.

    The kept weights with the smallest absolute values are dropped. Grown ones start at zero; what has just been dropped
    is not grown at the same update. From `end` on the mask is fixed.

    Attributes:
        end: of the exploration, fraction of the epoch budget, in (0, 1].
        updates: parts of equal length that it is divided into, at least 1; weights are exchanged between them.
        drop_fraction: share of the kept weights that an update exchanges, in (0, 1); falls to 0 along a half cosine.
        within: `layer` exchanges within each layer; `network` lets the densities of layers move.
        grow: `gradient` grows where the certified loss has the largest absolute gradient (RigL), `random` anywhere
            (SET).
        grow_batches: batches that the gradient is averaged over, at least 1.
        grow_epsilon: `ramp` takes the gradient at the epsilon of the moment, `target` at the full one.
    """

    explores: ClassVar[bool] = True
    description: ClassVar[str] = "schedule: sparse throughout, exploring by dropping and growing weights (SparseVLR)"
    end: float = 0.45
    updates: int = 20
    drop_fraction: float = 0.3
    within: str = "layer"
    grow: str = "gradient"
    grow_batches: int = 4
    grow_epsilon: str = "ramp"

    def __post_init__(self) -> None:
        if not 0 < self.end <= 1:
            raise ValueError(f"schedule.end is a fraction of training in (0, 1], but is {self.end}")
        if not 0 < self.drop_fraction < 1:
            raise ValueError(f"schedule.drop_fraction is a fraction in (0, 1), but is {self.drop_fraction}")
        for name in ("updates", "grow_batches"):
            if getattr(self, name) < 1:
                raise ValueError(f"schedule.{name} must be at least 1, but is {getattr(self, name)}")
        choices = {"within": ("layer", "network"), "grow": ("gradient", "random"), "grow_epsilon": ("ramp", "target")}
        for name, known in choices.items():
            if getattr(self, name) not in known:
                raise ValueError(f"schedule.{name} must be {' or '.join(known)}, but is {getattr(self, name)!r}")

    def due(self, step: int, steps: int) -> Due:
        update = self._update(step, steps)
        exchange = None
        if step and self._update(step - 1, steps) < update < self.updates:
            exchange = Swap(self, 0.5 * self.drop_fraction * (1.0 + math.cos(math.pi * update / self.updates)))
        return Due(1.0, step / steps, exchange=exchange)

    def _update(self, step: int, steps: int) -> int:
        return math.floor(min(step / steps / self.end, 1.0) * self.updates)


@dataclass(frozen=True)
class Swap(Exchange):
    """One update of `DropAndGrow`: so large a share of the kept weights is exchanged. Ties keep and grow the lower
    index; the largest weight of a layer is never dropped, so that no layer is ever cut off."""

    rule: DropAndGrow
    share: float

    def exchange(self, candidates: Candidates, mask: Mask, ramp: float) -> Mask:
        worth = {name: weight.detach().abs().cpu() for name, weight in candidates.weights.items()}
        promise = self._promise(candidates, ramp)
        groups = [[name] for name in mask] if self.rule.within == "layer" else [list(mask)]
        new: dict[str, Tensor] = {}
        for names in groups:
            kept = torch.cat([mask[name].flatten().cpu() for name in names])
            flat = _exchanged(
                kept,
                torch.cat([_largest_spared(worth[name], mask[name].cpu()) for name in names]),
                torch.cat([promise[name].flatten() for name in names]),
                self.share,
            )
            parts = flat.split([mask[name].numel() for name in names])
            new |= {name: part.view(mask[name].shape) for name, part in zip(names, parts, strict=True)}
        return Mask(new)

    def _promise(self, candidates: Candidates, ramp: float) -> dict[str, Tensor]:
        if self.rule.grow == "random":
            return {
                name: torch.rand(weight.shape, generator=candidates.generator)
                for name, weight in candidates.weights.items()
            }
        at = ramp if self.rule.grow_epsilon == "ramp" else 1.0
        gradients = mean_over_batches(
            candidates, candidates.loss.loss, batches=self.rule.grow_batches, ramp=at, of=gradient_alone
        )
        return {name: gradient.abs().cpu() for name, gradient in gradients.items()}


def _largest_spared(worth: Tensor, kept: Tensor) -> Tensor:
    flat = worth.flatten().clone()
    if bool(kept.any()):
        flat[flat.masked_fill(~kept.flatten(), -1.0).argmax()] = torch.inf
    return flat


def _exchanged(kept: Tensor, worth: Tensor, promise: Tensor, share: float) -> Tensor:
    """`kept` less its least worthy, plus as many of the others that promise most; all flat."""
    spared = int((kept & worth.isinf()).sum())
    count = int(kept.sum())
    count = min(round(share * count), count - spared, len(kept) - count)
    by_worth = torch.sort(worth.masked_fill(~kept, torch.inf), descending=True, stable=True).indices
    by_promise = torch.sort(promise.masked_fill(kept, -torch.inf), descending=True, stable=True).indices
    new = kept.clone()
    new[by_worth[len(kept) - count :]] = False
    new[by_promise[:count]] = True
    return new
