"""A score that looks at what a weight does to certification."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

import torch
from torch import Tensor, nn

from ..bounds import Graph, interval_bounds
from ..certified_training import Batch
from .base import Candidates, Score
from .gradients import check_options, effect, finite, mean_over_batches


@final
@dataclass(frozen=True)
class Stability(Score):
    """A weight is worth what the loss would suffer without it, less what the stability of ReLUs would gain.

    `|w g| / S - weight * (w h) / T`: g is the mean gradient of the certified loss, as in SNIP; h that of `instability`,
    the measure of unstable ReLUs of Xiao et al. (2019, arXiv 1809.03008) by interval bounds. `w h` is how far that
    measure falls, to first order, if the weight goes. S and T are the means over the network of `|w g|` and `|w h|`,
    so that neither depends on units.

    BatchNorm counts as at inference in the second term: interval bounds use its running statistics.

    Attributes:
        weight: of the second term, at least 0; 0 ranks as SNIP does.
        batches: how many the gradients are the means of, at least 1.
        ramp: share of epsilon that both are taken at, in [0, 1].
    """

    description: ClassVar[str] = "score: effect on the certified loss less the effect on unstable ReLUs"
    weight: float = 0.5
    batches: int = 4
    ramp: float = 1.0

    def __post_init__(self) -> None:
        if not 0 <= self.weight < float("inf"):
            raise ValueError(f"score.weight must be at least 0 and finite, but is {self.weight}")
        check_options(self.batches, self.ramp)

    def scores(self, candidates: Candidates) -> dict[str, Tensor]:
        on_loss, on_stability = (
            _relative(mean_over_batches(candidates, objective, batches=self.batches, ramp=self.ramp, of=effect))
            for objective in (candidates.loss.loss, instability)
        )
        return {name: finite(on_loss[name].abs() - self.weight * on_stability[name]) for name in on_loss}


def instability(graph: Graph, batch: Batch) -> Tensor:
    """Mean over all ReLUs and samples of `-tanh(1 + l u)`, l and u being the interval bounds of what a ReLU reads.

    In (-1, 1); higher is less stable. Without any ReLU it is the constant 0.
    """
    bounds = interval_bounds(graph, batch.region)
    before = [bounds[node.inputs[0]] for node in graph.nodes if isinstance(node.layer, nn.ReLU)]
    if not before:
        return bounds[-1].centre.sum() * 0.0
    total = sum(
        (torch.tanh(1.0 + box.lower * box.upper).sum() for box in before), torch.zeros((), device=batch.x.device)
    )
    return -total / sum(box.centre.numel() for box in before)


def _relative(effects: dict[str, Tensor]) -> dict[str, Tensor]:
    """Effects in units of their mean size over the network; all 0 where that is 0."""
    size = sum(float(effect.abs().sum()) for effect in effects.values())
    mean = size / sum(effect.numel() for effect in effects.values())
    return {name: effect / mean if mean > 0 else effect for name, effect in effects.items()}
