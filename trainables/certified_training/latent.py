"""Attacks in a latent box (TAPS: Mao et al. 2023, arXiv 2305.04574)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ...spaces.architectures.layers import Reshape
from ..bounds import Box, Graph, Region, forward, interval_boxes, margin_lower_bounds
from ..verification.pgd import Pgd
from .attacked import check_pgd, random_start
from .base import Batch, CertifiedLoss, check_positive, check_share
from .geometric import geometric_mean
from .interval_loss import margin_cross_entropy

REARRANGING = (nn.ReLU, nn.MaxPool2d, nn.AvgPool2d, nn.Flatten, nn.Dropout, Reshape)


@dataclass(frozen=True, kw_only=True)
class LatentlyAttacked(CertifiedLoss):
    """A loss by interval bounds through the first part of the network and attacks through the second.

    The attacked points, one per sample and wrong class, estimate the worst margins from below; cross entropy on them is
    joined with that on the interval bounds of the whole network as a geometric mean. The paper trains on the product
    of both, gradients weighted by the same shares: a step in the same direction for each sample, but no cross entropy
    at epsilon 0. The authors' code multiplies the means over the batch.

    Attributes:
        classifier_relus: ReLUs that the second part has at least, at least 1. It begins where the first has put out a
            ReLU, pooling or flattening included, as late as possible; never inside a residual block.
        latent_steps, latent_step_size: of the latent attack, as those of the attack on inputs; 20 steps are published,
            of 0.4 for the first 70 % and a tenth of that for the rest.
        latent_from: the position on the epsilon ramp from which on there are latent attacks, in [0, 1]; before, the
            loss is cross entropy on the interval bounds. 1 is published.
        threshold: the paper's c, in (0, 1]; 0.5 is published. A latent point moves with the lower end of its box by
            `max(0, 1 - p / threshold)`, p being its position in [0, 1] from there; and with the upper end likewise.
        expansion: weight of the estimate against interval bounds, above 0; 5 is published, but 2 for STAPS on CIFAR-10
            at 2/255.
    """

    classifier_relus: int = 1
    latent_steps: int = 20
    latent_step_size: float = 0.5
    latent_from: float = 0.0
    threshold: float = 0.5
    expansion: float = 5.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.classifier_relus < 1:
            raise ValueError(f"loss.classifier_relus must be at least 1, but is {self.classifier_relus}")
        check_pgd("latent", self.latent_steps, self.latent_step_size)
        check_share("latent_from", self.latent_from)
        if not 0 < self.threshold <= 1:
            raise ValueError(f"loss.threshold must lie in (0, 1], but is {self.threshold}")
        check_positive("expansion", self.expansion)

    def check(self, graph: Graph) -> None:
        self.split(graph)

    def split(self, graph: Graph) -> int:
        """The node that ends the first part.

        Raises:
            ValueError: there is no such place in the network.
        """
        relus = [index for index, node in enumerate(graph.nodes) if isinstance(node.layer, nn.ReLU)]
        for index in range(len(graph.nodes) - 1, 0, -1):
            after = sum(relu > index for relu in relus)
            ends_relu = isinstance(graph.nodes[index].layer, REARRANGING) and after < len(relus)
            if after >= self.classifier_relus and ends_relu and _separates(graph, index):
                return index
        raise ValueError(
            f"the network cannot be split outside residual blocks with a ReLU before and {self.classifier_relus} after "
            f"the place (it has {len(relus)} in all): lower loss.classifier_relus, take a deeper architecture, or "
            "another loss"
        )

    def latent_losses(self, graph: Graph, region: Region, batch: Batch) -> Tensor:
        """The losses `(batch,)` over `region`, on a settled graph."""
        boxes = interval_boxes(graph, region)
        batch.leave(boxes)
        margins = margin_lower_bounds(graph.last_linear, boxes[graph.features], batch.y)
        interval = margin_cross_entropy(margins, batch.y)
        if batch.ramp < self.latent_from:
            return interval
        attacked = margin_cross_entropy(self._margins(graph, self.split(graph), boxes, batch), batch.y)
        return geometric_mean(interval, attacked, self.expansion / (1.0 + self.expansion))

    def _margins(self, graph: Graph, index: int, boxes: list[Region], batch: Batch) -> Tensor:
        """Margins `(batch, classes)` at latent points, each class at the point that was attacked for it."""
        classes = graph.last_linear.out_features
        everyone = torch.arange(classes, device=batch.y.device).expand(len(batch.y), classes)
        others = everyone[everyone != batch.y[:, None]].view(len(batch.y), classes - 1)
        own, other = batch.y.repeat_interleave(classes - 1)[:, None], others.reshape(-1, 1)

        def margins(points: Tensor) -> Tensor:
            logits = forward(graph, points, start=index)
            return (logits.gather(1, own) - logits.gather(1, other)).squeeze(1)

        latent = boxes[index].box()
        start = random_start(latent.centre, batch.seed).repeat_interleave(classes - 1, 0)
        repeated = Box(*(part.repeat_interleave(classes - 1, 0) for part in latent))
        pgd = Pgd(self.latent_steps, step_size=self.latent_step_size)
        points = pgd.ascend(lambda points: -margins(points).sum(), repeated, start)
        found = margins(carried(points, repeated, self.threshold)).view_as(others)
        return found.new_zeros(len(batch.y), classes).scatter(1, others, found)


def carried(points: Tensor, box: Box, threshold: float) -> Tensor:
    """The points `(batch, *shape)` of a box as they move with its ends; only their gradient is new.

    In a box of no width a point moves with the centre.
    """
    lower, upper = box.lower, box.upper
    width = (upper - lower).detach()
    wide = width > 0
    position = ((points - lower.detach()) / torch.where(wide, width, torch.ones_like(width))).clamp(0, 1)
    half = torch.full_like(width, 0.5)
    with_lower = torch.where(wide, (1.0 - position / threshold).clamp_min(0), half)
    with_upper = torch.where(wide, (1.0 - (1.0 - position) / threshold).clamp_min(0), half)
    return points + with_lower * (lower - lower.detach()) + with_upper * (upper - upper.detach())


def _separates(graph: Graph, index: int) -> bool:
    """Whether no later node reads an earlier one than `index`."""
    return all(min(node.inputs) >= index for node in graph.nodes[index + 1 :])
