"""Dynamic sparse training: SET (Mocanu et al. 2018, arXiv 1707.04780), RigL (Evci et al. 2020, arXiv 1911.11134),
GraNet (Liu et al. 2021, arXiv 2106.10404), and with a certified loss SparseVLR (Kaur and Salekin, arXiv 2211.09945)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ..bounds import Graph
from ..mask import Mask
from .base import Candidates, Distribution, Due, Exchange, Pattern, Schedule
from .budget import room, spread
from .connection import select
from .gradients import gradient_alone, mean_over_batches
from .groups import group_mask, group_means
from .liveness import layers, over_readers
from .ranking import Global, Ranking


@dataclass(frozen=True)
class DropAndGrow(Schedule):
    """Sparse from the first step on; until `end` the mask is explored: weights are dropped, and others grown.

    The kept weights with the smallest absolute values are dropped. Grown ones start at zero; what has just been dropped
    is not grown at the same update. From `end` on the mask is fixed. Where the trial's distribution ranks weights over
    the whole network, layers win and lose weights by it; else each keeps what the distribution gives it.

    A pattern's groups are dropped by the mean absolute value of their weights and grown by the mean absolute gradient
    over them. A filter that nothing reads has none, nor have the weights that would read it, as each is zero for the
    other; it starts with weights as at initialisation, and what reads it at zero. Its promise is the mean over both.

    Attributes:
        initial: share of the target sparsity that the first mask has, in (0, 1]. The rest falls due at the updates,
            along `1 - (1 - p)^3` as with `gradual`; 1 keeps the sparsity as it is from the first step to the last.
        end: of the exploration, fraction of the epoch budget, in (0, 1].
        updates: parts of equal length that it is divided into, at least 1; weights are exchanged between them.
        drop_fraction: share of the kept groups that an update exchanges, in (0, 1); falls to 0 along a half cosine.
            Groups are the pattern's, single weights of `unstructured` and `n-m`.
        grow: `gradient` grows where the certified loss has the largest mean absolute gradient (RigL), `random` anywhere
            (SET).
        grow_batches: batches that the gradient is averaged over, at least 1.
        grow_epsilon: `ramp` takes the gradient at the epsilon of the moment, `target` at the full one.
    """

    description: ClassVar[str] = "schedule: sparse throughout, exploring by dropping and growing weights (SparseVLR)"
    initial: float = 1.0
    end: float = 0.45
    updates: int = 20
    drop_fraction: float = 0.3
    grow: str = "gradient"
    grow_batches: int = 4
    grow_epsilon: str = "ramp"

    def __post_init__(self) -> None:
        for name, of in (("initial", "the target sparsity"), ("end", "training")):
            if not 0 < getattr(self, name) <= 1:
                raise ValueError(f"schedule.{name} is a fraction of {of} in (0, 1], but is {getattr(self, name)}")
        if not 0 < self.drop_fraction < 1:
            raise ValueError(f"schedule.drop_fraction is a fraction in (0, 1), but is {self.drop_fraction}")
        for name in ("updates", "grow_batches"):
            if getattr(self, name) < 1:
                raise ValueError(f"schedule.{name} must be at least 1, but is {getattr(self, name)}")
        choices = {"grow": ("gradient", "random"), "grow_epsilon": ("ramp", "target")}
        for name, known in choices.items():
            if getattr(self, name) not in known:
                raise ValueError(f"schedule.{name} must be {' or '.join(known)}, but is {getattr(self, name)!r}")

    def due(self, step: int, steps: int) -> Due:
        update = self._update(step, steps)
        progress = update / self.updates
        exchange = None
        # The last update exchanges nothing: it is there for the sparsity that is still to fall due.
        last = self.updates if self.initial == 1 else self.updates + 1
        if step and self._update(step - 1, steps) < update < last:
            exchange = Swap(self, 0.5 * self.drop_fraction * (1.0 + math.cos(math.pi * progress)))
        return Due(1.0 - (1.0 - self.initial) * (1.0 - progress) ** 3, step / steps, exchange=exchange)

    def _update(self, step: int, steps: int) -> int:
        return math.floor(min(step / steps / self.end, 1.0) * self.updates)


@dataclass(frozen=True)
class Swap(Exchange):
    """One update of `DropAndGrow`: so large a share of the kept groups is exchanged, which are single weights or what
    the pattern takes together. Ties keep and grow the lower index; the best group of a layer is never dropped.

    The pattern selects anew among all weights: first come the groups that are not dropped, then those that promise
    most, and only where it has no room for these those that are dropped. An update that exchanges nothing grows
    nothing either, however much room groups leave: nothing would train what it grew.
    """

    rule: DropAndGrow
    share: float

    @property
    def grows(self) -> bool:
        return self.share > 0

    def exchange(
        self, candidates: Candidates, mask: Mask, pattern: Pattern, distribution: Distribution, kept: int, ramp: float
    ) -> Mask:
        index = {name: pattern.groups(values).cpu() for name, values in mask.items()}
        within = {name: values.cpu() for name, values in mask.items()}
        worth = {
            name: group_means(weight.detach().abs().cpu().masked_fill(~within[name], -torch.inf), index[name])
            for name, weight in candidates.weights.items()
        }
        held = {name: values > -torch.inf for name, values in worth.items()}
        promise = {
            name: group_means(values, index[name]).masked_fill(held[name], -torch.inf)
            for name, values in self._promise(candidates, pattern, ramp).items()
        }
        if isinstance(distribution, Ranking):
            worth = {name: distribution.comparable(values) for name, values in worth.items()}
            promise = {name: distribution.comparable(values) for name, values in promise.items()}
            left, layered = dict.fromkeys(mask, kept / mask.kept), False
        else:
            before, after = (distribution.allocate(_anything(mask), count) for count in (mask.kept, kept))
            left, layered = {name: after[name] / max(before[name], 1) for name in mask}, True
        stays = self._stays(worth, left, candidates.graph, pattern, layered=layered)
        most = 1.0 + max(0.0, *(float(values.max()) for values in promise.values()))
        least = 1.0 + max(float(values.max()) for values in worth.values())
        scores = {}
        for name in mask:
            dropped_last = torch.where(held[name], worth[name] - least, promise[name])
            scores[name] = group_mask(torch.where(stays[name], worth[name] + most, dropped_last), index[name])
        shares = {name: left[name] * max(int(group_mask(held[name], index[name]).count_nonzero()), 1) for name in mask}
        chosen = select(pattern, scores, kept, Shares(shares) if layered else Global(), candidates.graph)
        return Mask({name: chosen[name].to(values.device) for name, values in mask.items()})

    def _stays(
        self,
        worth: Mapping[str, Tensor],
        left: Mapping[str, float],
        graph: Graph,
        pattern: Pattern,
        *,
        layered: bool,
    ) -> dict[str, Tensor]:
        """The groups that are not dropped, by layer bool `(groups,)`, of those that are kept: worth above -inf.

        Args:
            left: by layer, what is left of its groups, grown ones among them.
            layered: whether groups compete within their layer only.
        """
        stays = {name: values > -torch.inf for name, values in worth.items()}
        # Whole classes never go.
        free = [
            name for name, layer in layers(graph).items() if not (pattern.whole_units and layer is graph.last_linear)
        ]
        for names in [[name] for name in free] if layered else [free]:
            flat = torch.cat([_best_spared(worth[name]) for name in names])
            count = int((flat > -torch.inf).count_nonzero())
            spared = int((flat == torch.inf).count_nonzero())
            order = torch.sort(flat, descending=True, stable=True).indices
            staying = round(count * min(left[names[0]], 1.0) * (1.0 - self.share))
            marked = torch.zeros(len(flat), dtype=torch.bool)
            marked[order[: max(staying, spared)]] = True
            stays |= dict(zip(names, marked.split([len(worth[name]) for name in names]), strict=True))
        return stays

    def _promise(self, candidates: Candidates, pattern: Pattern, ramp: float) -> dict[str, Tensor]:
        """What each weight promises, kept or not; of a whole unit the mean over its weights and those that read it."""
        if not self.grows:
            return {name: torch.full(weight.shape, -torch.inf) for name, weight in candidates.weights.items()}
        if self.rule.grow == "random":
            return {
                name: torch.rand(weight.shape, generator=candidates.generator)
                for name, weight in candidates.weights.items()
            }
        at = ramp if self.rule.grow_epsilon == "ramp" else 1.0
        gradients = mean_over_batches(
            candidates, candidates.loss.loss, batches=self.rule.grow_batches, ramp=at, of=gradient_alone
        )
        sizes = {name: gradient.abs().cpu() for name, gradient in gradients.items()}
        if not pattern.whole_units:
            return sizes
        read = over_readers(candidates.graph, sizes)
        readers = over_readers(candidates.graph, {name: torch.ones_like(size) for name, size in sizes.items()})
        return {
            name: ((size.flatten(1).sum(1) + read[name]) / (size[0].numel() + readers[name]))
            .view(-1, *[1] * (size.dim() - 1))
            .expand(size.shape)
            for name, size in sizes.items()
        }


@dataclass(frozen=True)
class Shares(Distribution):
    """Every layer keeps a given share.

    Attributes:
        shares: by layer, above 0, relative to each other.
    """

    description: ClassVar[str] = "distribution: given shares"
    shares: Mapping[str, float]

    def allocate(self, scores: Mapping[str, Tensor], kept: int) -> dict[str, int]:
        return spread({name: self.shares[name] for name in scores}, room(scores), kept)


def _anything(mask: Mask) -> dict[str, Tensor]:
    """Scores by which any weight may be kept."""
    return {name: torch.zeros(values.shape) for name, values in mask.items()}


def _best_spared(worth: Tensor) -> Tensor:
    """Worth, but infinite for the best of the groups that are kept."""
    spared = worth.clone()
    best = int(spared.argmax())
    if spared[best] > -torch.inf:
        spared[best] = torch.inf
    return spared
