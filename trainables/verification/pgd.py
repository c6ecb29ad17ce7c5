"""Projected gradient descent: the attack that falsifies, and that some training losses are taken at."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor, nn

from ..bounds import Region


@final
@dataclass(frozen=True)
class Pgd:
    """Steepest ascent, projected onto the region: along the signs of the gradient in a box, along the gradient in a
    ball.

    Madry et al. 2018, arXiv 1706.06083, with random starts and a step size that falls to a tenth after half of the
    steps and to a hundredth after three quarters.

    Attributes:
        steps: per start.
        restarts: number of random starts.
        step_size: first step, as a share of the radius.
    """

    steps: int = 20
    restarts: int = 1
    step_size: float = 0.5

    def __post_init__(self) -> None:
        if self.steps < 1 or self.restarts < 1:
            raise ValueError(f"PGD needs at least 1 step and 1 restart, got {self.steps} and {self.restarts}")
        if not 0 < self.step_size <= 2:
            raise ValueError(f"PGD needs a step size in (0, 2] of the radius, got {self.step_size}")

    def attack(self, network: nn.Module, region: Region, labels: Tensor, starts: Tensor) -> tuple[Tensor, Tensor]:
        """Look for a point of each region that the network does not assign to its label, by the margin loss
        `max_{k != y} logit_k - logit_y`.

        Args:
            network: used as it is: put it in eval mode before.
            region: `(batch, *shape)`.
            labels: `(batch,)`.
            starts: `(restarts, batch, *shape)` in [-1, 1], positions in units of the radius; see `random_starts`.

        Returns:
            points `(batch, *shape)` within the region, and `(batch,)`: whether the arg max there differs from the
            label. A point that was found is never given up for a later one.
        """
        points = region.centre.clone()
        found = torch.zeros_like(labels, dtype=torch.bool)
        for start in starts:
            rest = (~found).nonzero().squeeze(1)
            if not len(rest):
                break
            ends, broken = self._until_found(network, region.pick(rest), labels[rest], start[rest])
            points[rest], found[rest] = ends, broken
        return points, found

    def ascend(self, objective: Callable[[Tensor], Tensor], region: Region, start: Tensor) -> Tensor:
        """The points `(batch, *shape)` that all steps lead to, without a gradient of their own.

        Args:
            objective: of points `(batch, *shape)`, a scalar that grows with what is wanted of each of them.
            region: `(batch, *shape)`; taken as a constant.
            start: `(batch, *shape)` in [-1, 1], positions in units of the radius.
        """
        region = region.detach()
        climb, point = region.climb(), region.project(region.centre + start * region.radius)
        for step in range(self.steps):
            with torch.enable_grad():
                point.requires_grad_(True)
                gradient = torch.autograd.grad(objective(point), point)[0]
            point = climb(point.detach(), gradient, self._rate(step))
        return point

    def _rate(self, step: int) -> float:
        """The step size, as a share of the radius."""
        return self.step_size * (1.0 if 2 * step < self.steps else 0.1 if 4 * step < 3 * self.steps else 0.01)

    def _until_found(self, network: nn.Module, region: Region, labels: Tensor, start: Tensor) -> tuple[Tensor, Tensor]:
        climb, point = region.climb(), region.project(region.centre + start * region.radius)
        best = point.clone()
        found = torch.zeros_like(labels, dtype=torch.bool)
        for step in range(self.steps + 1):
            with torch.enable_grad():
                point.requires_grad_(True)
                logits = network(point)
                loss = margin_loss(logits, labels).sum()
                gradient = torch.autograd.grad(loss, point)[0] if step < self.steps else None
            point = point.detach()
            new = (logits.detach().argmax(1) != labels) & ~found
            best[new] = point[new]
            found |= new
            if gradient is None or bool(found.all()):
                break
            point = climb(point, gradient, self._rate(step))
        best[~found] = point[~found]
        return best, found


def margin_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """`(batch,)`: the largest other logit minus the one of the label; positive where the class is wrong."""
    own = logits.gather(1, labels[:, None])
    others = logits.scatter(1, labels[:, None], -torch.inf)
    return others.amax(1) - own.squeeze(1)


def random_starts(samples: Tensor, shape: tuple[int, ...], restarts: int, seed: int) -> Tensor:
    """Starting positions `(restarts, len(samples), *shape)` in [-1, 1], on the CPU.

    Each sample has its own seeded generator, so that its start depends on the seed and its index alone: not on the size
    of the batch, nor on which other samples are attacked, nor on the device.
    """
    generator = torch.Generator()
    drawn = []
    for sample in samples.tolist():
        generator.manual_seed((seed * 1_000_003 + sample) % 2**63)
        drawn.append(torch.rand((restarts, *shape), generator=generator))
    return torch.stack(drawn, 1).mul_(2).sub_(1) if drawn else torch.empty(restarts, 0, *shape)
