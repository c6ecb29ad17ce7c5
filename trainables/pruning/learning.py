"""Scores in training: weights stand still, and the mask follows the scores."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor, nn

from ..mask import Mask
from ..optimizers import load_optimizer, optimizer_tensors
from .base import Candidates, LearnedScore, Score

DENSE, SCORE, WITHIN = "dense", "score", "within"


class ScoresInTraining(Score):
    """The weights as they were when training of the scores began, the scores, and their Adam.

    Args:
        rule: what is trained, and how.
        weights: by name.
        within: what may be kept; on a parent's mask these are fewer than all.
    """

    description: ClassVar[str] = "score: absolute value of a trained number"

    def __init__(self, rule: LearnedScore, weights: Mapping[str, Tensor], within: Mask) -> None:
        self.within = within
        self._dense = {name: weight.detach().clone() for name, weight in weights.items()}
        self._scores = {name: nn.Parameter(score) for name, score in rule.start(self._dense).items()}
        self._optimizer = torch.optim.Adam(self._scores.values(), lr=rule.learning_rate)

    def scores(self, candidates: Candidates) -> dict[str, Tensor]:
        return {name: score.detach().abs() for name, score in self._scores.items()}

    @torch.no_grad()
    def show_(self, weights: Mapping[str, Tensor]) -> None:
        """Put the dense weights into the network, in place; the mask has to be applied next."""
        for name, weight in weights.items():
            weight.copy_(self._dense[name])

    def step_(self, gradients: Mapping[str, Tensor]) -> None:
        """One step of the scores, by the loss gradient in the weights that were used, pruned ones included.

        These were `w [|s| among the largest]`. The gradient passes the choice straight through, `d/d|s| = g w`, and so
        `dL/ds = g w sign(s)`.
        """
        for name, score in self._scores.items():
            score.grad = gradients[name] * self._dense[name] * score.detach().sign()
        self._optimizer.step()

    def tensors(self) -> dict[str, Tensor]:
        """The whole state, by `entry/name`."""
        dense = {f"{DENSE}/{name}": weight for name, weight in self._dense.items()}
        scores = {f"{SCORE}/{name}": score.detach() for name, score in self._scores.items()}
        within = {f"{WITHIN}/{name}": kept for name, kept in self.within.items()}
        return dense | scores | within | optimizer_tensors(self._optimizer, self._scores)

    @torch.no_grad()
    def load_(self, flat: Mapping[str, Tensor]) -> None:
        """Put back what `tensors` took out."""
        for name, score in self._scores.items():
            self._dense[name] = flat[f"{DENSE}/{name}"].to(score.device)
            score.copy_(flat[f"{SCORE}/{name}"])
        # Older checkpoints do not tell what may be kept; there it is all.
        self.within = Mask(
            {name: flat.get(f"{WITHIN}/{name}", torch.ones_like(kept)) for name, kept in self.within.items()}
        )
        moments = {key: value for key, value in flat.items() if key.partition("/")[0] not in (DENSE, SCORE, WITHIN)}
        load_optimizer(self._optimizer, self._scores, moments)
